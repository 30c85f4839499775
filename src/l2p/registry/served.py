"""Owns putting a pixel model into the store as a servable model, and loading it back from there.

The delta is copied, or its weights stay where they are (`l2p.registry.references`); the source stays a reference
(absolute folder, or repository and revision) that its pin verifies.
"""

from __future__ import annotations

import base64
import importlib.metadata
import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import l2p
from l2p.errors import RegistryError
from l2p.files import read_json, write_json
from l2p.registry.logged_model import CODE_FILE, check_form
from l2p.registry.references import WEIGHTS, Reference
from l2p.registry.store import Store, load_mlflow, registry_errors

LOGGED_NAME = "pixel"
LOADER = "l2p.models.pipeline:load_pixel_pipeline"
MAX_ENLARGEMENT = 16  # a request may ask for so many times the pixels of the images that the model was made for
MIN_CONTRAST = 1.0  # standard deviation in 0..255; a model that draws one flat colour is broken

_CODE = Path(__file__).with_name(CODE_FILE)
_REQUIREMENTS = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "pyyaml",
    "tqdm",
)


@dataclass(frozen=True)
class Drawing:
    """What is drawn to see that a model works, and the defaults of a served model."""

    prompt: str
    seed: int
    height_px: int
    width_px: int
    num_steps: int
    guidance_scale: float

    @property
    def row(self) -> dict[str, Any]:
        """As an input row of the served model."""
        return {"prompt": self.prompt, "seed": self.seed}

    @property
    def params(self) -> dict[str, Any]:
        """As parameters of the served model."""
        return {
            "height_px": self.height_px,
            "width_px": self.width_px,
            "num_steps": self.num_steps,
            "guidance_scale": self.guidance_scale,
        }


def log_model(store: Store, run_id: str, delta: Path, drawing: Drawing, *, by_reference: bool = False) -> str:
    """Log the delta as a servable model of the run; returns its address `models:/m-...`.

    Args:
        store: where to.
        run_id: the run that owns it.
        delta: delta folder.
        drawing: example, and defaults of the served model's parameters.
        by_reference: leave the weights where they are, and log where that is and their digest.
    """
    mlflow = load_mlflow()
    mlflow.set_tracking_uri(store.tracking_uri)
    with registry_errors("logging the model"), _staged(delta, by_reference) as folder, mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name=LOGGED_NAME,
            python_model=str(_CODE),
            artifacts={"delta": str(folder)},
            code_paths=[str(Path(l2p.__file__).parent)],
            model_config={
                "loader": LOADER,
                "device": "auto",
                "dtype": "float32",
                "max_pixels": MAX_ENLARGEMENT * drawing.height_px * drawing.width_px,
            },
            signature=_signature(drawing),
            input_example=([drawing.row], drawing.params),
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in _REQUIREMENTS],
        )
    return f"models:/{info.model_id}"


def load_and_draw(folder: Path, drawing: Drawing, *, source: str) -> np.ndarray:
    """Load a logged model as any application would, and draw one image; returns uint8 RGB [H, W, 3].

    Args:
        folder: of the logged model, as the store handed it out.
        drawing: what to draw.
        source: its address, for messages.

    Raises:
        LineageError: it is no model of `l2p register`; nothing of it was loaded.
        RegistryError: it does not load, does not draw, or draws nothing but one flat colour.
    """
    check_form(folder)
    mlflow = load_mlflow()
    try:
        served = mlflow.pyfunc.load_model(str(folder))
        (image,) = served.predict([drawing.row], params=drawing.params)
    except Exception as error:  # whatever happens inside a foreign model file means the same: it cannot be used
        raise RegistryError(f"{source}: does not load and draw ({' '.join(str(error).split())[:400]}).") from error
    pixels = _decode(image)
    if pixels.shape != (drawing.height_px, drawing.width_px, 3):
        raise RegistryError(f"{source}: drew {pixels.shape}, expected {drawing.height_px} x {drawing.width_px} RGB.")
    if pixels.std() < MIN_CONTRAST:
        raise RegistryError(
            f"{source}: drew one flat colour (contrast {pixels.std():.2f}). Look at the training curves."
        )
    return pixels


@contextmanager
def _staged(delta: Path, by_reference: bool) -> Iterator[Path]:
    """A copy of the delta, with or without its weights, whose source path holds from any working directory."""
    left_out = ["*.partial", ".*", *([WEIGHTS] if by_reference else [])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "delta"
        shutil.copytree(delta, folder, ignore=shutil.ignore_patterns(*left_out))
        if by_reference:
            Reference.of(delta / WEIGHTS).save(folder)
        card = read_json(folder / "delta.json", written_by="l2p train")
        source = Path(card["source"]["path"])
        if source.is_dir():
            card["source"]["path"] = str(source.resolve())
            write_json(folder / "delta.json", card)
        yield folder


def _signature(drawing: Drawing) -> Any:
    from_types = load_mlflow().types
    column, parameter = from_types.ColSpec, from_types.ParamSpec
    types = {int: "long", float: "double"}
    return load_mlflow().models.ModelSignature(
        inputs=from_types.Schema(
            [
                column("string", "prompt"),
                column("long", "seed", required=False),
                *(column(types[type(value)], name, required=False) for name, value in drawing.params.items()),
            ]
        ),
        outputs=from_types.Schema([column("string", "png_base64")]),
        params=from_types.ParamSchema(
            [parameter(name, types[type(value)], value) for name, value in drawing.params.items()]
        ),
    )


def _decode(image: str) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("RGB"))
