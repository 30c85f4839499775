"""Owns the section `prompts`: where prompts come from, who writes them, and which are let in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from l2p.config.section import Section


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
