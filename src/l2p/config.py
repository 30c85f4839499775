"""Owns params.yaml: one frozen model per section, unknown keys refused, and the names of the pipeline's files.

Units are in the names: `_px` pixels, `_s` seconds. Sigma is the noise level in [0, 1], 1 = pure noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from l2p.errors import ConfigError, MissingFileError

PARAMS_FILE = Path("params.yaml")


_Section = TypeVar("_Section", bound="Section")


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceParams(Section):
    """The latent model to convert."""

    path: str = Field(description="Folder in diffusers layout, or a Hugging Face repository id.")
    revision: str | None = Field(default=None, description="Commit of the repository; required for a repository id.")


class LlmParams(Section):
    """The language model that expands the taxonomy, and what it may cost."""

    kind: Literal["endpoint", "local"] = Field(
        default="endpoint", description="`endpoint`: an OpenAI-compatible server; `local`: a chat model run here."
    )
    base_url: str | None = Field(
        default=None, description="For `endpoint`: address up to and with `/v1`, for example http://localhost:8000/v1."
    )
    model: str | None = Field(
        default=None, description="Name that the endpoint knows, or for `local` the folder of a transformers model."
    )
    api_key_env: str | None = Field(
        default=None, description="Environment variable that holds the endpoint's key; null: it wants none."
    )
    prompts_per_request: int = Field(default=5, gt=0, description="Descriptions asked for in one request.")
    temperature: float = Field(default=0.8, ge=0, description="Sampling temperature; 0: always the likeliest word.")
    max_tokens: int = Field(default=1024, gt=0, description="Longest answer.")
    concurrency: int = Field(default=8, gt=0, description="Requests under way at once; for `local` the batch.")
    timeout_s: float = Field(default=120.0, gt=0, description="Longest silence of the endpoint before a retry.")
    max_attempts: int = Field(default=6, gt=0, description="Tries of a request that is refused for now or gets lost.")
    first_wait_s: float = Field(
        default=1.0, gt=0, description="Wait before the second try; it doubles from try to try."
    )
    max_wait_s: float = Field(default=60.0, gt=0, description="Longest wait; stop where the endpoint asks for more.")
    max_requests: int = Field(default=1000, gt=0, description="Hard limit: no more are sent, retries counted too.")
    cache: str = Field(default="data/llm", description="Folder of all answers, so that none is paid for twice.")


class TaxonomyParams(Section):
    """The hierarchy of subjects, and how a subject becomes a description."""

    path: str | None = Field(
        default=None, description="Folder of JSON files, one a main class; null: the taxonomy of this package."
    )
    expand: Literal["grammar", "llm"] = Field(
        default="grammar", description="Who writes: `grammar` (offline), or `llm` (section prompts.llm)."
    )
    min_length_chars: int = Field(default=200, gt=0, description="Shortest description to write.")
    max_length_chars: int = Field(default=350, gt=0, description="Longest description to write.")

    @model_validator(mode="after")
    def _some_length_fits(self) -> TaxonomyParams:
        if self.max_length_chars < self.min_length_chars + 50:
            raise ValueError("`max_length_chars` must exceed `min_length_chars` by 50 or more")
        return self


class ContaminationParams(Section):
    """How far prompts repeat those of the benchmarks."""

    benchmarks: tuple[str, ...] = Field(
        default=(), description="`shapes`, or files of benchmark prompts in the official formats; empty: no check."
    )
    ngram_words: int = Field(default=8, gt=0, description="Words in a row that are compared.")
    max_overlap: float | None = Field(
        default=None, ge=0, lt=1, description="Reject above this share of one benchmark prompt; null: only report."
    )


class QualityParams(Section):
    """Which prompts are let into the set; a rule that is null or empty is off."""

    min_length_chars: int = Field(default=1, gt=0, description="Shorter prompts are rejected.")
    max_length_chars: int | None = Field(default=None, gt=0, description="Longer prompts are rejected.")
    language: str | None = Field(
        default=None, min_length=2, max_length=2, description="ISO 639-1 code, for example `en`; others are rejected."
    )
    max_similarity: float | None = Field(
        default=None, gt=0, lt=1, description="Reject above this share of three-word runs in common with another."
    )
    blocklist: tuple[str, ...] = Field(default=(), description="Words or phrases that no prompt may hold.")
    blocklist_path: str | None = Field(default=None, description="More of them, one a line; `#` begins a comment.")
    max_class_share: float | None = Field(default=None, gt=0, le=1, description="Largest share of one class (style).")
    contamination: ContaminationParams = Field(default_factory=ContaminationParams)


class PromptsParams(Section):
    """The prompt set from which the corpus is made."""

    provider: Literal["shapes", "file", "taxonomy"] = Field(description="Where prompts come from.")
    path: str | None = Field(
        default=None,
        description="For `file`: txt, csv, jsonl, parquet, a folder with metadata.csv, or a Hugging Face dataset.",
    )
    text_column: str | None = Field(default=None, description="For `file`: column of the prompts; null: `text`.")
    id_column: str | None = Field(
        default=None, description="For `file`: column of your own ids; null: `prompt_id`, or else made from the text."
    )
    split: str = Field(default="train", description="For a Hugging Face dataset: the split to read.")
    count: int = Field(gt=0, description="How many different prompts.")
    seed: int = Field(ge=0, description="Seed of the draw.")
    taxonomy: TaxonomyParams = Field(default_factory=TaxonomyParams)
    llm: LlmParams = Field(default_factory=LlmParams)
    quality: QualityParams = Field(default_factory=QualityParams)

    @model_validator(mode="after")
    def _a_provider_has_what_it_needs(self) -> PromptsParams:
        if self.provider == "file" and self.path is None:
            raise ValueError("provider `file` needs `path`")
        if self.provider == "taxonomy" and self.taxonomy.expand == "llm":
            if self.llm.model is None:
                raise ValueError("`taxonomy.expand: llm` needs `llm.model`")
            if self.llm.kind == "endpoint" and self.llm.base_url is None:
                raise ValueError("`llm.kind: endpoint` needs `llm.base_url`")
        return self


class SynthesizeParams(Section):
    """How the source draws the corpus."""

    images_per_prompt: int = Field(gt=0, description="Images of each prompt, each with its own seed.")
    height_px: int = Field(gt=0, multiple_of=16, description="Image height.")
    width_px: int = Field(gt=0, multiple_of=16, description="Image width.")
    num_steps: int = Field(gt=0, description="Denoising steps.")
    guidance_scale: float = Field(ge=0, description="Guidance as the source's own pipeline takes it.")
    batch_size: int = Field(gt=0, description="Images drawn at once.")
    seed: int = Field(ge=0, description="Image i of the corpus has seed `seed + i`.")
    dtype: Literal["float32", "bfloat16"] = Field(description="Precision of the source while it draws.")


class ValidateParams(Section):
    """What the corpus must look like."""

    min_accepted_share: float = Field(gt=0, le=1, description="Fail when fewer images than this share pass.")
    min_contrast: float = Field(
        ge=0, description="Smallest standard deviation of pixel values (0..255) of a real image."
    )
    max_duplicate_share: float = Field(ge=0, le=1, description="Fail when more images than this share are duplicates.")


class EmbedParams(Section):
    """How prompt embeddings are computed."""

    batch_size: int = Field(gt=0, description="Prompts encoded at once.")


class HeadParams(Section):
    """The detailer head."""

    type: Literal["official", "unet"] = Field(
        description="`official`: the published head; `unet`: normalised residual blocks, bounded cost at any patch."
    )
    widths: tuple[int, ...] = Field(
        min_length=1, description="Channels per level, outermost first; official: 64, 128, 256, 512."
    )


class EmbedderParams(Section):
    """The patch embedder."""

    max_parameters: int = Field(gt=0, description="Above this many weights the linear embedder gets a bottleneck.")
    rank: int = Field(gt=0, description="Width of that bottleneck.")


class ConvertParams(Section):
    """The graft."""

    patch_size_px: int = Field(gt=0, description="Side of the square RGB patches that become tokens.")
    head: HeadParams
    embedder: EmbedderParams
    prediction: Literal["velocity", "x0"] = Field(description="What the head predicts; the paper: velocity.")
    init: Literal["random", "fitted"] = Field(
        description="How the new ends start: `random` (paper), or `fitted` to the source (decision 0003)."
    )
    calibration_images: int = Field(gt=0, description="For `fitted`: corpus images used by the fit.")
    ridge: float = Field(gt=0, description="For `fitted`: regularisation of the fit.")
    seed: int = Field(ge=0, description="Seed of the new weights.")

    @model_validator(mode="after")
    def _a_fit_predicts_the_image(self) -> ConvertParams:
        if self.init == "fitted" and self.prediction != "x0":
            raise ValueError("init `fitted` reads the image off the features, so it needs prediction `x0`")
        return self


class TrainableParams(Section):
    """What is trained; everything else stays the source's, bit for bit."""

    embedder: bool = Field(description="The patch embedder.")
    first_blocks: int = Field(ge=0, description="Image blocks trained at the transformer's start (n in the paper).")
    last_blocks: int = Field(ge=0, description="Image blocks trained at its end (n in the paper).")
    refiners: bool = Field(description="Refiner blocks and text projections, as in the official release.")
    pad_tokens: bool = Field(description="Learned pad tokens, where the source has them.")
    head: bool = Field(description="The detailer head.")


class TrainParams(Section):
    """The transfer."""

    num_steps: int = Field(gt=0, description="Optimizer steps.")
    batch_size: int = Field(gt=0, description="Images per optimizer step, all ranks together.")
    learning_rate: float = Field(gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(ge=0, description="AdamW weight decay.")
    warmup_steps: int = Field(ge=0, description="Linear warm-up.")
    decay: Literal["linear", "cosine"] = Field(description="How the rate falls at the end of the run.")
    decay_share: float = Field(
        ge=0, le=1, description="Share of the run, at its end, over which the rate falls to 0; 0: constant rate."
    )
    max_grad_norm: float = Field(gt=0, description="Gradient clipping.")
    ema_decay: float = Field(ge=0, lt=1, description="Decay of the averaged weights; 0 keeps the last weights.")
    trainable: TrainableParams
    caption_dropout: float = Field(ge=0, lt=1, description="Share of samples trained with the empty prompt.")
    horizontal_flip: float = Field(
        ge=0, le=1, description="Share of samples that are mirrored; 0 where pictures hold text or say left and right."
    )
    timesteps: Literal["uniform", "logit_normal", "official_1k"] = Field(description="How sigma is drawn.")
    shift: float = Field(gt=0, description="Time shift of the draw; larger = more noise.")
    min_sigma_weight: float = Field(
        gt=0, le=1, description="For x0: the loss weight 1/sigma^2 is clamped at this sigma."
    )
    dtype: Literal["float32", "bfloat16"] = Field(description="Precision of forward and backward passes.")
    gradient_checkpointing: Literal["none", "head", "blocks", "all"] = Field(
        description="What computes its activations twice to hold fewer of them."
    )
    compile_blocks: bool = Field(description="torch.compile the repeated blocks and the head.")
    num_processes: int = Field(gt=0, description="Training processes on each machine (gloo on CPU).")
    num_machines: int = Field(gt=0, description="Machines that train together; all see the same project folder.")
    rendezvous: str | None = Field(
        description="HOST:PORT of the machine at which several meet; `l2p train` is run on each."
    )
    hostfile: str | None = Field(
        description="DeepSpeed hostfile: `l2p train` is run on its first machine and starts the others over ssh."
    )
    checkpoint_every: int = Field(gt=0, description="Steps between resumable checkpoints.")
    log_every: int = Field(gt=0, description="Steps between logged metrics.")
    sample_every: int = Field(gt=0, description="Steps between logged sample grids.")
    validation_images: int = Field(
        ge=0, description="Images held out of training, with all others of their prompts; 0: none."
    )
    validate_every: int = Field(gt=0, description="Steps between losses of the held-out images.")
    geneval_every: int = Field(ge=0, description="Steps between small GenEvals of the averaged weights; 0: none.")
    geneval_subset: float = Field(gt=0, le=1, description="Share of the prompts of a small GenEval, one image each.")
    keep: Literal["last", "best_val_loss", "best_geneval"] = Field(description="Which weights become the pixel model.")
    seed: int = Field(ge=0, description="Seed of noise, order and dropout.")
    deepspeed: dict[str, object] = Field(description="DeepSpeed's own JSON keys, for example zero_optimization.")

    @model_validator(mode="after")
    def _machines_need_a_place_to_meet(self) -> TrainParams:
        if self.hostfile is not None and self.rendezvous is not None:
            raise ValueError("`hostfile` and `rendezvous` are two ways to start several machines; set one of them")
        if self.num_machines > 1 and self.hostfile is None and self.rendezvous is None:
            raise ValueError("`num_machines` above 1 needs `rendezvous` or `hostfile`")
        return self

    @model_validator(mode="after")
    def _the_best_must_be_measured(self) -> TrainParams:
        if self.keep == "best_val_loss" and not self.validation_images:
            raise ValueError("keep `best_val_loss` needs `validation_images` above 0")
        if self.keep == "best_geneval" and not self.geneval_every:
            raise ValueError("keep `best_geneval` needs `geneval_every` above 0")
        return self


class SamplerParams(Section):
    """How a model draws an image."""

    num_steps: int = Field(gt=0, description="Denoising steps.")
    guidance_scale: float = Field(ge=0, description="Guidance as the source's own pipeline takes it (decision 0005).")
    shift: float | None = Field(default=None, gt=0, description="Time shift; null: the scheduler's own.")


class SamplingParams(Section):
    """Sampling settings of both models in every evaluation."""

    source: SamplerParams
    pixel: SamplerParams
    batch_size: int = Field(gt=0, description="Images drawn at once.")
    dtype: Literal["float32", "bfloat16"] = Field(description="Precision of both models in every evaluation.")


class BenchmarkParams(Section):
    """One benchmark."""

    data: str = Field(description="`shapes`, or a file in the benchmark's official format.")
    judge: str = Field(description="Name of the judge.")
    images_per_prompt: int = Field(gt=0, description="Images of each prompt; official: 4.")
    seed: int = Field(ge=0, description="First seed; every prompt and image has its own.")
    max_failed_share: float = Field(
        ge=0, le=1, description="Fail when more images than this share could not be drawn or judged."
    )
    judge_options: dict[str, Any] = Field(
        default_factory=dict, description="Settings of the judge, for example the folder of its weights."
    )
    subset: float = Field(
        default=1.0, gt=0, le=1, description="Share of the prompts, drawn within each task or category; 1: all."
    )


class DpgParams(BenchmarkParams):
    """DPG-Bench."""

    protocol: Literal["official", "fixed"] = Field(description="`official` keeps the published script's faults.")


class FidelityParams(Section):
    """How the pixel model's images are compared with the source's, beyond the benchmarks."""

    spectrum: bool = Field(description="Power spectra: does the pixel model keep fine detail?")
    clip: str | None = Field(
        description="CLIP model, a folder or repository id, for CLIP score, CMMD and a Fréchet distance; null: none."
    )
    inception: bool = Field(description="FID with the Inception network (extra `fid`).")


class EvaluationParams(Section):
    """How evaluations are computed; no score depends on it."""

    judge_batch_size: int = Field(gt=0, description="Images (GenEval) or questions (DPG-Bench) judged at once.")
    engine: Literal["local", "ray"] = Field(description="`local`: this process; `ray`: workers of a Ray cluster.")
    num_workers: int = Field(gt=0, description="For `ray`: workers, each with a model and, where there is one, a GPU.")


class EfficiencyParams(Section):
    """What is timed."""

    resolutions_px: tuple[int, ...] = Field(description="Square image sides at which both models are timed.")
    num_steps: int = Field(gt=0, description="Denoising steps per measurement.")
    repeats: int = Field(gt=0, description="Measurements; the median is reported.")


class RegisterParams(Section):
    """The model registry."""

    name: str = Field(min_length=1, description="Registered model name.")
    tracking_uri: str = Field(description="MLflow tracking and registry address.")
    experiment: str = Field(min_length=1, description="MLflow experiment.")
    min_geneval_retention: float = Field(ge=0, description="Gate for the alias `champion`.")
    min_dpg_retention: float = Field(ge=0, description="Gate for the alias `champion`.")


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
        raise ConfigError(f"{path}: {_first_problem(error)}") from error


def validate_section(section: type[_Section], raw: Mapping[str, Any], where: str) -> _Section:
    """`raw` as a `section`; `where` is what a message calls it, for example `geneval.judge_options`.

    Raises:
        ConfigError: unknown key, missing key or impossible value; the message names the first such field.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from error


def _first_problem(error: ValidationError) -> str:
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


class Layout:
    """Names of the pipeline's files, relative to the project's root."""

    source = Path("models/source.json")
    prompts = Path("data/prompts")
    prompts_table = Path("data/prompts/prompts.parquet")
    corpus = Path("data/corpus")
    corpus_table = Path("data/corpus/metadata.parquet")
    manifest = Path("data/manifest.parquet")
    quarantine = Path("data/quarantine.parquet")
    validation = Path("reports/validation")
    embeddings = Path("data/embeddings")
    init = Path("models/init")
    pixel = Path("models/pixel")
    checkpoints = Path("models/checkpoints")
    training = Path("reports/training")
    benchmarks = Path("data/benchmarks")
    geneval = Path("reports/geneval")
    dpg = Path("reports/dpg")
    fidelity = Path("reports/fidelity.json")
    efficiency = Path("reports/efficiency.json")
    report = Path("reports/index.html")
    comparison = Path("reports/comparison.json")  # `report` writes it; `register` adds the model and calls it summary
    summary = Path("reports/summary.json")
    registration = Path("reports/registration.json")
