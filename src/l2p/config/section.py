"""Owns what all sections of params.yaml have in common, and what a message says of a wrong field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from l2p.errors import ConfigError

_Section = TypeVar("_Section", bound="Section")


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def validate_section(section: type[_Section], raw: Mapping[str, Any], where: str) -> _Section:
    """`raw` as a `section`; `where` is what a message calls it, for example `geneval.judge_options`.

    Raises:
        ConfigError: unknown key, missing key or impossible value; the message names the first such field.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error)}") from error


def first_problem(error: ValidationError) -> str:
    """What is wrong with the first field that is; a misspelling before anything else."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")  # a misspelling first
    first, more = problems[0], len(problems) - 1
    field = ".".join(str(part) for part in first["loc"]) or "(root)"
    if first["type"] == "extra_forbidden":
        problem = f"unknown key `{field}`; check its spelling (`l2p explain` lists those there are)."
    elif first["type"] == "missing":
        problem = f"`{field}` is missing."
    elif isinstance(first["input"], Mapping):  # of a whole section
        problem = f"`{field}`: {first['msg'].removeprefix('Value error, ')}."
    else:
        problem = f"`{field}` = {first['input']!r}: {first['msg']}."
    return problem + (f" ({more} more problem{'s' if more > 1 else ''})" if more else "")
