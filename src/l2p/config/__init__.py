"""Owns params.yaml: one frozen model per section, unknown keys refused, and the names of the pipeline's files.

Units are in the names: `_px` pixels, `_s` seconds. Sigma is the noise level in [0, 1], 1 = pure noise.
"""

from l2p.config.convert import ConvertParams, EmbedderParams, HeadParams
from l2p.config.evaluation import (
    BenchmarkParams,
    DpgParams,
    EfficiencyParams,
    EvaluationParams,
    FidelityParams,
    SamplerParams,
    SamplingParams,
)
from l2p.config.layout import Layout
from l2p.config.params import PARAMS_FILE, Params, load_params
from l2p.config.prompts import ContaminationParams, LlmParams, PromptsParams, QualityParams, TaxonomyParams
from l2p.config.registry import RegisterParams
from l2p.config.section import Section, validate_section
from l2p.config.synthesis import EmbedParams, SourceParams, SynthesizeParams
from l2p.config.train import TrainableParams, TrainParams
from l2p.config.validation import ValidateParams

__all__ = [
    "PARAMS_FILE",
    "BenchmarkParams",
    "ContaminationParams",
    "ConvertParams",
    "DpgParams",
    "EfficiencyParams",
    "EmbedParams",
    "EmbedderParams",
    "EvaluationParams",
    "FidelityParams",
    "HeadParams",
    "Layout",
    "LlmParams",
    "Params",
    "PromptsParams",
    "QualityParams",
    "RegisterParams",
    "SamplerParams",
    "SamplingParams",
    "Section",
    "SourceParams",
    "SynthesizeParams",
    "TaxonomyParams",
    "TrainParams",
    "TrainableParams",
    "ValidateParams",
    "load_params",
    "validate_section",
]
