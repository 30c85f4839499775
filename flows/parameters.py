"""Owns what a conversion changes in params.yaml: a preset laid over it, then single values, comments kept.

params.yaml is what DVC reads, so a changed value must stand there: it is written, whole or not at all, and stays. What
was there before is kept in `.dvc/tmp/params`.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedSeq

from flows.forms import NO_PRESET
from flows.locking import TEMPORARY
from l2p.config import PARAMS_FILE, load_params
from l2p.errors import ConfigError
from l2p.files import atomic_path
from l2p.presets import FOLDER, merged_params

KEPT = TEMPORARY / "params"

_NEVER_WRAP = 1_000_000  # characters; lines stay as they are
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


@dataclass(frozen=True)
class Change:
    """One field of params.yaml, for example `train.num_steps`, that gets another value."""

    field: str
    before: Any
    after: Any

    def __str__(self) -> str:
        """FIELD: BEFORE -> AFTER."""
        return f"{self.field}: {self.before} -> {self.after}"


@dataclass(frozen=True)
class Plan:
    """What params.yaml will be, validated, and how that differs from what it is."""

    text: str
    changes: list[Change]


def plan_params(root: Path, preset: str, overrides: Sequence[str]) -> Plan:
    """Lay `preset`, then `overrides`, over the project's params.yaml, and validate the result; writes nothing.

    Args:
        root: of the project.
        preset: a name in the project's `presets`, or "none".
        overrides: KEY=VALUE, the key dotted (`train.num_steps=200`), the value in YAML (`null`, `[1, 2]`).

    Raises:
        MissingFileError: no params.yaml.
        ConfigError: no such preset, no such key, or an impossible value; the message names the first.
    """
    path = root / PARAMS_FILE
    load_params(path)
    document, before = _editor().load(path), yaml.safe_load(path.read_text(encoding="utf-8"))
    if preset != NO_PRESET:
        _lay_over(document, merged_params(path, root / FOLDER / f"{preset}.yaml"))
    for override in overrides:
        _set(document, override)
    stream = io.StringIO()
    _editor().dump(document, stream)
    after = yaml.safe_load(stream.getvalue())
    changes = _differences(before, after)
    if changes:
        _validate(stream.getvalue(), origin="overrides" if preset == NO_PRESET else f"preset {preset} and overrides")
    return Plan(stream.getvalue(), changes)


def write_plan(root: Path, plan: Plan) -> Path | None:
    """Write params.yaml, atomically; returns the copy of what it was, None if there is nothing to change."""
    if not plan.changes:
        return None
    path, now = root / PARAMS_FILE, datetime.now(UTC)
    kept = root / KEPT / f"{now:%Y-%m-%dT%H%M%S.%f}.yaml"
    with atomic_path(kept) as partial:
        shutil.copyfile(path, partial)
    with atomic_path(path) as partial:
        partial.write_text(plan.text, encoding="utf-8")
    return kept


def _editor() -> YAML:
    """Reads and writes YAML without touching what is not changed; PyYAML and DVC read the same from what it writes."""
    editor = YAML()
    editor.width = _NEVER_WRAP
    editor.preserve_quotes = True
    for kind in (type(None), float, str):
        editor.representer.add_representer(kind, _scalar)
    return editor


def _scalar(representer: Any, value: float | str | None) -> Any:
    """A scalar as PyYAML writes it: `null`, 5.0e-05, quoted if it would be read as something else."""
    node = yaml.SafeDumper(io.StringIO()).represent_data(value)
    plain = not isinstance(value, str) or (yaml.safe_load(value) == value if value.strip() == value else False)
    return representer.represent_scalar(node.tag, node.value, style=None if plain else "'")


def _lay_over(document: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(document.get(key), Mapping):
            _lay_over(document[key], value)
        elif key not in document or document[key] != value:
            document[key] = _on_one_line(value)


def _set(document: Any, override: str) -> None:
    key, equals, text = override.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not equals or not all(names):
        raise ConfigError(f"override {override!r}: expected KEY=VALUE, for example train.num_steps=200.")
    try:
        value = _read_value(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"override {override!r}: the value is not valid YAML ({' '.join(str(error).split())})."
        ) from error
    section = document
    for depth, name in enumerate(names[:-1]):
        section = section.get(name)
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"override {override!r}: params.yaml has no section `{'.'.join(names[: depth + 1])}`; `l2p explain` "
                "lists the fields."
            )
    section[names[-1]] = _on_one_line(value)


def _on_one_line(value: Any) -> Any:
    """Lists as params.yaml has them."""
    if not isinstance(value, list):
        return value
    line = CommentedSeq(value)
    line.fa.set_flow_style()
    return line


def _read_value(text: str) -> Any:
    """A value in YAML, which takes 1e-4 for a text where everybody else means a number."""
    value = yaml.safe_load(text)
    if isinstance(value, str) and _EXPONENT.fullmatch(value):
        return float(value)
    return value


def _differences(before: Any, after: Any, prefix: str = "") -> list[Change]:
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return [] if before == after else [Change(prefix, before, after)]
    names = dict.fromkeys([*before, *after])
    return [
        change
        for name in names
        for change in _differences(before.get(name), after.get(name), f"{prefix}.{name}".lstrip("."))
    ]


def _validate(text: str, *, origin: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / PARAMS_FILE
        path.write_text(text, encoding="utf-8")
        try:
            load_params(path)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {str(error).removeprefix(f'{path}: ')}") from error
