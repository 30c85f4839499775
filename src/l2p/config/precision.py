"""Owns the precision in which a section computes, and what `auto` means on this machine."""

from __future__ import annotations

from functools import cache
from typing import Literal

from l2p.config.section import Section

Dtype = Literal["auto", "float32", "bfloat16"]
AUTO_MEANS = "`auto`: bfloat16 where the machine computes in it, else float32"
# Names that torch gives to instructions which multiply bfloat16: x86 with AVX-512 or AMX, and Arm.
_CPU_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")


class Computing(Section):
    """A section that computes; it keeps what params.yaml says, so that no digest depends on the machine."""

    dtype: Dtype

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """`dtype`, and for `auto` the one in which this machine is fast."""
        return fast_dtype() if self.dtype == "auto" else self.dtype


@cache
def fast_dtype() -> Literal["float32", "bfloat16"]:
    """bfloat16 where there are instructions for it: a CPU without them takes twice as long in it as in float32."""
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    found = torch.cpu.get_capabilities()
    return "bfloat16" if any(found.get(name) for name in _CPU_FEATURES) else "float32"
