"""Owns drawing a batch with the source's own pipeline from ready prompt embeddings: no text encoder is ever loaded.

What an image is to the last bit depends on its batch, device, threads and libraries: each is named here.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import l2p
from l2p.data.journal import Row
from l2p.errors import DataError
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore
from l2p.models.sampling import compile_blocks, draw_pixels
from l2p.models.source import SourcePin, load_drawing_pipeline

_LIBRARIES = ("torch", "diffusers", "transformers")
_DIGITS = 12


@dataclass(frozen=True)
class SourceSettings:
    """How the source is loaded; the rest of the settings is in the rows."""

    pin: SourcePin
    dtype: str
    shift: float | None
    compiled: bool


class Painter:
    """A loaded source. Rows of one batch have one size and one set of settings."""

    def __init__(self, source: SourceSettings, device: str, embedding: Callable[[str], PromptEmbedding]) -> None:
        """Load it, without its text encoders.

        Args:
            source: what to load.
            device: a torch device.
            embedding: of a prompt id, "" for the empty prompt.

        Raises:
            SourceError: the source differs from its pin.
        """
        self._pipeline = load_drawing_pipeline(source.pin, dtype=source.dtype, device=device, shift=source.shift)
        if source.compiled:
            compile_blocks(self._pipeline.transformer)
        self._device, self._compiled = device, source.compiled
        self._embedding = embedding

    def draw(self, rows: Sequence[Row]) -> tuple[np.ndarray, str]:
        """Pixels [B, H, W, 3] in 0..1, perhaps not finite, and the digest of the embeddings they were drawn from."""
        first = rows[0]
        found = {name: self._embedding(name) for name in dict.fromkeys([EMPTY_PROMPT_ID, *(_ids(rows))])}
        here = {name: {key: tensor.to(self._device) for key, tensor in own.items()} for name, own in found.items()}
        pixels = draw_pixels(
            self._pipeline,
            [here[name] for name in _ids(rows)],
            empty=here[EMPTY_PROMPT_ID],
            size_px=(int(first["height_px"]), int(first["width_px"])),
            num_steps=int(first["num_steps"]),
            guidance_scale=float(first["guidance_scale"]),
            seeds=[int(row["seed"]) for row in rows],
        )
        return pixels, _digest(found)

    def environment(self) -> dict[str, Any]:
        """What else decides the last bits of an image, by names that go into the journal."""
        return environment(self._device, compiled=self._compiled)


def environment(device: str, *, compiled: bool) -> dict[str, Any]:
    """Device, CPU threads (None on an accelerator), whether blocks are compiled, and library versions."""
    on_cpu = torch.device(device).type == "cpu"
    return {
        "device": _processor() if on_cpu else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads() if on_cpu else None,
        "compiled": compiled,
        **{name: version(name) for name in _LIBRARIES},
        "l2p": l2p.__version__,
    }


def device_text(environment: dict[str, Any]) -> str:
    """Device, threads and compilation in words, as the corpus table has them."""
    threads = environment["threads"]
    parts = [environment["device"], f"{threads} thread{'s' if threads > 1 else ''}" if threads else ""]
    return ", ".join(part for part in (*parts, "compiled" if environment["compiled"] else "") if part)


def default_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def stored_embeddings(folder: Path, pin: SourcePin, dtype: str, prompts: Mapping[str, str]) -> EmbeddingStore:
    """Embeddings of the stage `embed`, which must be of this source, precision and prompts {id: text}.

    Raises:
        MissingFileError: the stage has not run.
        DataError: they are of another source, in another precision, or of other prompts.
    """
    store = EmbeddingStore(folder)
    if (store.source_digest, store.dtype) != (pin.digest, dtype):
        raise DataError(
            f"{folder}: embeddings of source {str(store.source_digest)[:12]} in {store.dtype}, expected "
            f"{pin.digest[:12]} in {dtype}. Run `l2p embed` again."
        )
    stale = next((name for name, text in prompts.items() if not store.holds(name, text)), None)
    if stale is not None:
        raise DataError(f"{folder}: no embedding of prompt {stale!r} as it is now. Run `l2p embed` again.")
    return store


def _ids(rows: Sequence[Row]) -> list[str]:
    return [row["prompt_id"] for row in rows]


def _digest(embeddings: dict[str, PromptEmbedding]) -> str:
    digest = hashlib.sha256()
    for name, tensors in sorted(embeddings.items()):
        for key, tensor in sorted(tensors.items()):
            digest.update(f"{name}/{key}/{tuple(tensor.shape)}/{tensor.dtype}".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


def _processor() -> str:
    """Name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
