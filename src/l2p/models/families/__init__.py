"""Owns what is known of published checkpoints: configurations of full size, licence and prompt encoder, as data.

One JSON file a checkpoint; `transformer` and `vae` are its own config.json files. Nothing of the pipeline reads this: a
source brings its own configuration. Tables, benches and the tests at full size are computed from it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = (
    "z-image",
    "flux1-dev",
    "flux1-schnell",
    "flux2-dev",
    "sd35-medium",
    "sd35-large",
    "qwen-image",
    "lumina2",
    "sana",
    "auraflow",
    "cogview4",
    "chroma",
)


@dataclass(frozen=True)
class KnownSource:
    """A published checkpoint.

    `licence` is the one its model card names; `transformer` and `vae` are the configurations of those parts, with the
    class under `_class_name`; `text` is the shape of each tensor of one prompt's embedding, at a usual prompt length.
    """

    name: str
    title: str
    repository: str
    licence: str
    prompt_encoder: str
    text: dict[str, list[int]]
    transformer: dict[str, Any]
    vae: dict[str, Any]

    @property
    def transformer_class(self) -> str:
        """diffusers class of the transformer."""
        return str(self.transformer["_class_name"])

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments of the transformer's class."""
        return {key: value for key, value in self.transformer.items() if not key.startswith("_")}


def read_known(name: str) -> KnownSource:
    """The checkpoint called `name`, one of `NAMES`."""
    path = Path(__file__).with_name(f"{name}.json")
    return KnownSource(name=name, **json.loads(path.read_text(encoding="utf-8")))


def known_sources() -> tuple[KnownSource, ...]:
    """All of them, in the order of `NAMES`."""
    return tuple(read_known(name) for name in NAMES)
