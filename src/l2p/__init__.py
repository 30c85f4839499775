"""l2p: turn a pretrained latent diffusion transformer into a pixel model, as a reproducible pipeline.

Owns the public names. Importing the package loads nothing heavy: a name is imported when it is first used, and
diffusers, whenever it is imported, learns where `L2PPipeline` is (decision 0005).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "L2PPipeline": "l2p.models.pipeline",
    "PixelTransformer": "l2p.models.pixel_transformer",
    "load_pixel_pipeline": "l2p.models.pipeline",
    "ModelMixin": "diffusers",  # where diffusers looks for the base class of what model_index.json calls "l2p"
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'l2p' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    """The public names too, imported or not."""
    return sorted({*globals(), *_PUBLIC})


class _WhenDiffusersIsImported(importlib.abc.MetaPathFinder):
    """Has diffusers imported as always, and adds the pipeline to it afterwards."""

    _searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders have for diffusers; nothing for any other module."""
        if fullname != "diffusers" or self._searching:
            return None
        self._searching = True  # the search below comes past this finder again
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                execute(module)
                _add_pipeline(sys.modules[fullname])  # diffusers has put another module in its own place

            spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
        return spec


def _add_pipeline(diffusers: ModuleType) -> None:
    """Make `diffusers.L2PPipeline`, which `DiffusionPipeline.from_pretrained` looks up, ours, imported on use."""
    kind = type(diffusers)
    if not hasattr(kind, "L2PPipeline"):
        diffusers.__class__ = type(
            kind.__name__, (kind,), {"L2PPipeline": property(lambda _: __getattr__("L2PPipeline"))}
        )


if "diffusers" in sys.modules:
    _add_pipeline(sys.modules["diffusers"])
else:
    sys.meta_path.insert(0, _WhenDiffusersIsImported())
