"""Owns `L2PPipeline.from_registry`: the pipeline of a registered model.

Models know nothing of the registry; what finds a registered model is reached by name, when it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l2p.models.pipeline import L2PPipeline

_FETCH = ("l2p.registry.loading", "fetch_verified")
_LOAD = ("l2p.models.pipeline", "load_pixel_pipeline")


class RegistryMixin:
    """What a pipeline can be made of by the name of a registered model."""

    @classmethod
    def from_registry(
        cls, reference: str, *, tracking_uri: str | None = None, device: str = "cpu", dtype: str = "float32"
    ) -> L2PPipeline:
        """Pipeline of a registered model, with the source's text encoders and the sampler stored with it.

        Args:
            reference: NAME@ALIAS or NAME/VERSION, for example "shapes-pixel@champion".
            tracking_uri: of the MLflow store; None = the environment's MLFLOW_TRACKING_URI, or else the one in the
                params.yaml of the working directory.
            device: where everything goes.
            dtype: of all weights, "float32" or "bfloat16".

        Raises:
            RegistryError: no store is named, it cannot be reached, or it has no such model, alias or version.
            LineageError: the stored weights are not those that were registered.
            SourceError: the source differs from the pin.
            ModelError: the delta is damaged.
        """
        fetch: Callable[..., Path] = getattr(importlib.import_module(_FETCH[0]), _FETCH[1])
        load: Callable[..., L2PPipeline] = getattr(importlib.import_module(_LOAD[0]), _LOAD[1])
        return load(fetch(reference, tracking_uri=tracking_uri), device=device, dtype=dtype)
