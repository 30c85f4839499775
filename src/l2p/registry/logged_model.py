"""Owns what a logged model may consist of, checked before anything of it is loaded.

Loading an MLflow model runs code that lies in it. So a model is loaded only if it is of the form that `l2p register`
writes (models from code, no pickle) and, where digests were recorded, if every file is the one that was registered.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from l2p.errors import LineageError
from l2p.files import sha256_file, sha256_json

CODE_FILE = "served_model.py"

_DESCRIPTION = "MLmodel"
_FLAVOR, _LOADER = "python_function", "mlflow.pyfunc.loaders.code_model"
_PICKLED = ("python_model", "python_model_compression", "model_path", "data")
_NOT_FILES = ("registered_model_meta",)  # MLflow writes it into what it downloads
_NOT_FOLDERS = ("__pycache__",)  # Python's own, written when the code is imported
_SHORT = 12


def model_files(folder: Path) -> dict[str, str]:
    """{name: SHA-256} of the files of a logged model."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.name not in _NOT_FILES and not set(name.parts) & set(_NOT_FOLDERS):
            found[name.as_posix()] = sha256_file(path)
    return found


def check_logged_model(folder: Path, *, recorded: Mapping[str, str] | None, digest: str | None) -> None:
    """Refuse a logged model that would run anything but what was registered.

    Args:
        folder: of the logged model.
        recorded: {name: SHA-256} as the run has them, to name what differs; None = not at hand.
        digest: over them, as the registry has it; None for a version from before it was recorded.

    Raises:
        LineageError: another form, a pickle, or a file that differs.
    """
    check_form(folder)
    if digest is None:
        return
    found = model_files(folder)
    if sha256_json(found) != digest:
        raise LineageError(
            f"{folder}: {_difference(recorded, found)}. Nothing of it was loaded; restore the store's files."
        )


def check_form(folder: Path) -> None:
    """Refuse a model that is not one of code, or that needs a pickle.

    Raises:
        LineageError: says what it is instead.
    """
    path = folder / _DESCRIPTION
    flavor = _flavor(path)
    pickled = [name for name in _PICKLED if name in flavor]
    if flavor.get("loader_module") != _LOADER or pickled or flavor.get("model_code_path") is None:
        what = f"its entry {pickled[0]!r} leads to a pickle" if pickled else "it is loaded by other code"
        raise LineageError(f"{path}: not a model that `l2p register` wrote ({what}). Nothing of it was loaded.")
    if Path(str(flavor["model_code_path"])).name != CODE_FILE:
        raise LineageError(f"{path}: names the code {flavor['model_code_path']!r}, expected {CODE_FILE}. Refused.")
    leading_out = [path for path in folder.rglob("*") if path.is_symlink()]
    if leading_out:
        raise LineageError(f"{leading_out[0]}: a link in a logged model; `l2p register` writes none. Refused.")


def _flavor(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        flavor = raw["flavors"][_FLAVOR]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LineageError(f"{path}: not readable as the description of a model ({reason}).") from error
    if not isinstance(flavor, dict):
        raise LineageError(f"{path}: describes no {_FLAVOR} model.")
    return flavor


def _difference(recorded: Mapping[str, str] | None, found: Mapping[str, str]) -> str:
    if recorded is None:
        return "its files are not those that were registered"
    for name in [*recorded, *(name for name in found if name not in recorded)]:
        old, new = recorded.get(name), found.get(name)
        if old != new:
            shown = "missing" if new is None else f"{new[:_SHORT]}"
            return f"{name} is {shown}, registered was {'nothing' if old is None else old[:_SHORT]}"
    return "its files are those of the run's record, but the registry names others: a record was changed"
