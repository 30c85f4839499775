"""Owns the section `register`: the model registry and its gate."""

from __future__ import annotations

from pydantic import Field

from l2p.config.section import Section


class RegisterParams(Section):
    """The model registry."""

    name: str = Field(min_length=1, description="Registered model name.")
    tracking_uri: str = Field(description="MLflow tracking and registry address.")
    experiment: str = Field(min_length=1, description="MLflow experiment.")
    min_geneval_retention: float = Field(ge=0, description="Gate for the alias `champion`.")
    min_dpg_retention: float = Field(ge=0, description="Gate for the alias `champion`.")
    max_artifact_mb: float = Field(
        default=2048.0, ge=0, description="Larger weights are registered by reference and digest, not uploaded."
    )
