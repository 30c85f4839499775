"""Owns presets: small overlays of params.yaml for published sources, presets/NAME.yaml, and writing the merged file.

An overlay states what the source or the paper asks for; the rest stays. All overlays state the same fields, so one
preset after another gives what the last one gives alone.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from l2p.config import Params, load_params
from l2p.errors import ConfigError
from l2p.files import atomic_path

FOLDER = Path("presets")  # beside params.yaml
_LINE_LENGTH = 120


def list_presets(folder: Path) -> dict[str, str]:
    """Name and first comment line of every preset in `folder`.

    Raises:
        ConfigError: there is none.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ConfigError(f"{folder}: holds no presets. Run l2p in the root of a project.")
    return {path.stem: path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ") for path in paths}


def merged_params(
    params_file: Path, preset: Path, *, source: str | None = None, revision: str | None = None
) -> dict[str, Any]:
    """params.yaml with a preset over it, validated.

    Args:
        params_file: what the preset is laid over.
        preset: the overlay.
        source: a folder or repository id in place of the preset's; its revision is then the next argument alone.
        revision: commit of the repository.

    Raises:
        MissingFileError: there is no `params_file`.
        ConfigError: no such preset, or the result is not valid; the message names the first such field.
    """
    load_params(params_file)
    known = list_presets(preset.parent)
    if preset.stem not in known:
        raise ConfigError(f"preset {preset.stem!r}: not there. Choose one of {', '.join(known)}.")
    merged = deep_merge(_read(params_file), _read(preset))
    if source is not None:
        merged["source"] = {"path": source, "revision": revision}
    elif revision is not None:
        merged["source"]["revision"] = revision
    _validate(merged, origin=f"{preset} over {params_file}")
    return merged


def deep_merge(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `overlay`, section by section; lists are replaced whole."""
    merged = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = deep_merge(merged[key], value) if both else value
    return merged


def render(params: dict[str, Any], *, preset: str) -> str:
    """The text of params.yaml, a blank line between sections."""
    head = (
        f"# The repository's params.yaml with presets/{preset}.yaml over it, as `l2p preset {preset}` wrote it.\n"
        "# The meaning of each field: src/l2p/config/, or `l2p explain`.\n"
    )
    sections = [
        yaml.dump({name: section}, Dumper=_Dumper, sort_keys=False, width=_LINE_LENGTH)
        for name, section in params.items()
    ]
    return "\n".join([head, *sections])


def write_params(path: Path, text: str, *, force: bool) -> None:
    """Write params.yaml, atomically.

    Raises:
        ConfigError: `path` has contents that git does not hold, and `force` is not set.
    """
    if path.is_file() and not force and path.read_text(encoding="utf-8") != text and not _held_by_git(path):
        raise ConfigError(
            f"{path}: has changes that git does not hold. Commit them, write elsewhere with --out, or give them up "
            "with --force."
        )
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Lists on one line, as in params.yaml."""


def _list_on_one_line(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


_Dumper.add_representer(list, _list_on_one_line)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from error
    return raw


def _validate(params: dict[str, Any], *, origin: str) -> Params:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "params.yaml"
        path.write_text(yaml.safe_dump(params), encoding="utf-8")
        try:
            return load_params(path)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {str(error).removeprefix(f'{path}: ')}") from error


def _held_by_git(path: Path) -> bool:
    """Whether the file is exactly as in the last commit."""
    for arguments in (["ls-files", "--error-unmatch"], ["diff", "--quiet", "HEAD"]):
        command = ["git", *arguments, "--", path.name]
        try:
            done = subprocess.run(command, cwd=path.resolve().parent, capture_output=True, check=False)
        except FileNotFoundError:  # no git
            return False
        if done.returncode != 0:
            return False
    return True
