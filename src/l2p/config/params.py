"""Owns params.yaml as a whole: its sections, and reading it."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from l2p.config.convert import ConvertParams
from l2p.config.evaluation import (
    BenchmarkParams,
    DpgParams,
    EfficiencyParams,
    EvaluationParams,
    FidelityParams,
    SamplingParams,
)
from l2p.config.prompts import PromptsParams
from l2p.config.registry import RegisterParams
from l2p.config.section import Section, first_problem
from l2p.config.synthesis import EmbedParams, SourceParams, SynthesizeParams
from l2p.config.train import TrainParams
from l2p.config.validation import ValidateParams
from l2p.errors import ConfigError, MissingFileError

PARAMS_FILE = Path("params.yaml")


class Params(Section):
    """All of params.yaml."""

    source: SourceParams
    prompts: PromptsParams
    synthesize: SynthesizeParams
    # pydantic's BaseModel has a `validate` of its own, so the field has another name than the section
    validation: ValidateParams = Field(alias="validate")
    embed: EmbedParams
    convert: ConvertParams
    train: TrainParams
    sampling: SamplingParams
    geneval: BenchmarkParams
    dpg: DpgParams
    fidelity: FidelityParams
    evaluation: EvaluationParams
    efficiency: EfficiencyParams
    register_: RegisterParams = Field(alias="register")


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read and validate `path`.

    Raises:
        MissingFileError: there is no such file.
        ConfigError: unknown key, missing key or impossible value; the message names the first such field.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. Run l2p in the root of a project, or pass --params.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())}).") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections such as `source:` and `train:`, found {type(raw).__name__}.")
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{path}: {first_problem(error)}") from error
