"""A small prompt set with its embeddings, and what tests of the synthesis need around it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from l2p.config import SynthesizeParams
from l2p.data.embeddings import embed_prompts
from l2p.data.prompts import prompt_id
from l2p.data.synthesis import Places, Synthesis, synthesize
from l2p.files import sha256_file
from l2p.models.source import SourcePin
from tests.conftest import ROOT

SETTINGS: dict[str, Any] = {
    "images_per_prompt": 2,
    "height_px": 64,
    "width_px": 64,
    "num_steps": 2,
    "guidance_scale": 1.0,
    "batch_size": 3,
    "seed": 100,
    "dtype": "float32",
    "threads": 1,
}
TEXTS = [
    "a photo of a circle",
    "a red star",
    "a photo of two squares on a pink background",
    "a circle above a star",
]


def settings(**changes: object) -> SynthesizeParams:
    return SynthesizeParams(**{**SETTINGS, **changes})


def prompt_table(*texts: str) -> pd.DataFrame:
    return pd.DataFrame([{"prompt_id": prompt_id(text), "text": text, "style": "x"} for text in texts])


class Project:
    """Folder with prompts, a pinned source, embeddings and a corpus."""

    def __init__(self, folder: Path, pin: SourcePin, prompts: pd.DataFrame | None = None) -> None:
        self.folder, self.pin = folder, pin
        self.prompts = prompt_table(*TEXTS) if prompts is None else prompts
        self.places = Places(folder / "corpus", folder / "embeddings", folder / "rejected")

    @property
    def corpus(self) -> Path:
        return self.places.corpus

    @property
    def rejected(self) -> Path:
        return self.places.rejected

    def embed(self) -> Project:
        embed_prompts(self.prompts, pin=self.pin, folder=self.places.embeddings, batch_size=8, dtype="float32")
        return self

    def copy(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Project(folder, self.pin, self.prompts.copy())

    def without_corpus(self, folder: Path) -> Project:
        shutil.copytree(self.places.embeddings, folder / "embeddings")
        return Project(folder, self.pin, self.prompts.copy())

    def draw(self, check: Callable[..., dict[str, list[str]]] | None = None, **changes: object) -> Synthesis:
        return synthesize(
            self.prompts, settings(**changes), pin=self.pin, places=self.places, check=check, check_settings={}
        )

    def table(self) -> pd.DataFrame:
        return pd.read_parquet(self.corpus / "metadata.parquet")

    def rejected_table(self) -> pd.DataFrame:
        return pd.read_parquet(self.rejected / "metadata.parquet")

    def contents(self) -> dict[str, str]:
        """Digests of all files of the corpus and of the rejected."""
        paths = sorted(path for place in (self.corpus, self.rejected) for path in place.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): sha256_file(path) for path in paths}

    def identities(self) -> dict[str, tuple[int, int]]:
        """Inode and time of change of every image: both change when a file is replaced."""
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in self.corpus.rglob("*.png")}

    def pixels(self, name: str) -> np.ndarray:
        with Image.open(self.corpus / name) as image:
            return np.asarray(image, np.int16)

    def run_elsewhere(
        self, before: str = "", check: str = "None", wrapper: tuple[str, ...] = (), **changes: object
    ) -> subprocess.CompletedProcess[str]:
        """Draw in a process of its own, after some code; it may kill itself."""
        self.pin.save(self.folder / "source.json")
        self.prompts.to_parquet(self.folder / "prompts.parquet")
        path = self.folder / "run.py"
        path.write_text(_RUN.format(before=before, check=check), encoding="utf-8")
        return subprocess.run(
            [*wrapper, sys.executable, str(path), str(self.folder), json.dumps({**SETTINGS, **changes})],
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
        )


_RUN = """
import json, os, signal, sys, time
from pathlib import Path
import pandas as pd
from l2p.config import SynthesizeParams
from l2p.data.synthesis import Places, synthesize, worker
from l2p.errors import L2PError
from l2p.models.source import SourcePin

{before}

if __name__ == "__main__":
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    prompts, pin = pd.read_parquet(folder / "prompts.parquet"), SourcePin.load(folder / "source.json")
    places = Places(folder / "corpus", folder / "embeddings", folder / "rejected")
    try:
        done = synthesize(
            prompts, SynthesizeParams(**settings), pin=pin, places=places, check={check}, check_settings={{}}
        )
    except L2PError as error:
        sys.exit(f"{{type(error).__name__}}: {{error}}")
    print(done)
"""

# Dies by SIGKILL while the n-th image is written.
DIE_AT_IMAGE = """
write_png, written = worker.write_png, []

def write_or_die(path, image):
    written.append(path)
    if len(written) == {number}:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(path.name + ".partial").write_bytes(b"torn")
        os.kill(os.getpid(), signal.SIGKILL)
    return write_png(path, image)

worker.write_png = write_or_die
"""
