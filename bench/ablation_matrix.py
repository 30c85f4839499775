"""Owns the matrix of ablations as data: bench/ablations.yaml becomes jobs, each with a params.yaml of its own.

An override is a dotted key of params.yaml, so a field that params.yaml gains later needs no word here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from l2p.config import Params, Section, validate_section
from l2p.errors import ConfigError, MissingFileError

BASELINE = "baseline"
_NAME = r"^[a-z0-9][a-z0-9-]*$"

CorpusKind = Literal["source", "renders", "polluted"]


class Group(Section):
    """A question."""

    question: str = Field(description="What the variants of this group are to answer.")
    baseline: str = Field(description="What the baseline is in the words of the question.")
    note: str | None = Field(default=None, description="What a reader of the table must know.")


class Variant(Section):
    """One change to the base."""

    group: str = Field(description="The question it belongs to.")
    name: str = Field(pattern=_NAME, description="Names its folder and its row; unique.")
    overrides: dict[str, Any] = Field(default_factory=dict, description="Dotted keys of params.yaml.")
    corpus: CorpusKind = Field(
        default="source",
        description="Who draws the corpus: the source, the renderer, or the source with images replaced.",
    )
    also_against: str | None = Field(default=None, description="A variant to compare with, besides the baseline.")


class Matrix(Section):
    """All of ablations.yaml."""

    base: dict[str, Any] = Field(description="Dotted keys of params.yaml that hold for every variant.")
    seeded: tuple[str, ...] = Field(description="Dotted keys that a training seed sets.")
    groups: dict[str, Group]
    variants: tuple[Variant, ...]

    @model_validator(mode="after")
    def _names_are_known(self) -> Matrix:
        names = [variant.name for variant in self.variants]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two variants are called {double!r}")
        if BASELINE in names or BASELINE in self.groups:
            raise ValueError(f"{BASELINE!r} is the name of the base itself")
        for variant in self.variants:
            if variant.group not in self.groups:
                raise ValueError(
                    f"variant {variant.name!r} is of the group {variant.group!r}, which is not in `groups`"
                )
            if variant.also_against not in (None, *names):
                raise ValueError(f"variant {variant.name!r}: also_against {variant.also_against!r} is no variant")
        return self


@dataclass(frozen=True)
class Job:
    """A variant with a training seed, and every number of its pipeline; the baseline's group is empty."""

    group: str
    variant: str
    seed: int
    corpus: CorpusKind
    params: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Names its folder."""
        return f"{self.variant}-seed{self.seed}"


def read_matrix(path: Path) -> Matrix:
    """Read and validate ablations.yaml.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: not YAML, an unknown key, or names that do not fit together.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. --matrix names a file such as bench/ablations.yaml.")
    return validate_section(Matrix, read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigError: it is not one.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping, found {type(raw).__name__}.")
    return raw


def select(matrix: Matrix, only: Iterable[str]) -> list[Variant]:
    """The variants that `only` names by themselves or by their group, with those they are compared with; empty: all.

    Raises:
        ConfigError: a name that is neither a group nor a variant.
    """
    wanted = set(only)
    known = {BASELINE, *matrix.groups, *(variant.name for variant in matrix.variants)}
    if unknown := sorted(wanted - known):
        raise ConfigError(f"--only {unknown[0]}: no such group or variant. There are: {', '.join(sorted(known))}.")
    if not wanted:
        return list(matrix.variants)
    chosen = [variant for variant in matrix.variants if wanted & {variant.group, variant.name}]
    compared = {variant.also_against for variant in chosen}
    return [variant for variant in matrix.variants if variant in chosen or variant.name in compared]


def plan(
    matrix: Matrix,
    variants: Iterable[Variant],
    *,
    seeds: Iterable[int],
    params: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> list[Job]:
    """The jobs, the baseline first, and all variants of one seed before those of the next.

    Args:
        matrix: ablations.yaml.
        variants: those to run.
        seeds: training seeds.
        params: params.yaml of the project.
        settings: overrides of the base, dotted keys.

    Raises:
        ConfigError: an override that params.yaml does not take; names variant and field.
    """
    base = with_overrides(params, {**matrix.base, **settings}, where="base")
    jobs = []
    for seed in seeds:
        seeded = with_overrides(base, dict.fromkeys(matrix.seeded, seed), where="seeded")
        jobs.append(_job(Job("", BASELINE, seed, "source", seeded)))
        for variant in variants:
            changed = with_overrides(seeded, variant.overrides, where=f"variant {variant.name}")
            jobs.append(_job(Job(variant.group, variant.name, seed, variant.corpus, changed)))
    return jobs


def with_overrides(params: Mapping[str, Any], overrides: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """A copy of `params` with dotted keys replaced.

    Raises:
        ConfigError: a key leads through a section that is not there; `where` says whose override it is.
    """
    changed = copy.deepcopy(dict(params))
    for key, value in overrides.items():
        *sections, field = key.split(".")
        place: Any = changed
        for section in sections:
            place = place.get(section) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise ConfigError(f"{where}: override `{key}`: params.yaml has no section `{'.'.join(sections)}`.")
        place[field] = value
    return changed


def parse_setting(text: str) -> tuple[str, Any]:
    """`train.num_steps=6` as a dotted key and a YAML value.

    Raises:
        ConfigError: no `=`, or a value that is not YAML.
    """
    key, sign, value = text.partition("=")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text}: the value is not valid YAML.") from error
    if not sign or not key:
        raise ConfigError(f"--set {text}: expected KEY=VALUE, such as train.num_steps=100.")
    return key, parsed


def _job(job: Job) -> Job:
    """`job`, if its parameters are possible."""
    validate_section(Params, job.params, f"variant {job.variant}, params.yaml with its overrides")
    return job
