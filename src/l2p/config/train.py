"""Owns the section `train`: the transfer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from l2p.config.precision import AUTO_MEANS, Computing, Dtype
from l2p.config.section import Section


class TrainableParams(Section):
    """What is trained; everything else stays the source's, bit for bit."""

    embedder: bool = Field(description="The patch embedder.")
    first_blocks: int = Field(ge=0, description="Image blocks trained at the transformer's start (n in the paper).")
    last_blocks: int = Field(ge=0, description="Image blocks trained at its end (n in the paper).")
    refiners: bool = Field(description="Refiner blocks and text projections, as in the official release.")
    pad_tokens: bool = Field(description="Learned pad tokens, where the source has them.")
    head: bool = Field(description="The detailer head.")


class TrainParams(Computing):
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
    dtype: Dtype = Field(description=f"Precision of forward and backward passes; {AUTO_MEANS}.")
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
