"""Owns the source: pinning it by content, verifying the pin, and loading its pipeline."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from l2p.errors import SourceError
from l2p.files import read_json, require_below, sha256_file, sha256_json, write_json

MODEL_INDEX = "model_index.json"
_WEIGHT_SUFFIXES = (".safetensors",)
CARD = "README.md"  # names the licence
_VARIANTS = ("*.fp16*", "*.bf16*", "*.non_ema*")  # second forms of weights that are there already
_PINNED_SUFFIXES = (".safetensors", ".json", ".jinja", ".txt", ".model")


@dataclass(frozen=True)
class SourcePin:
    """A source model, pinned by the SHA-256 of every file that its pipeline reads."""

    path: str
    revision: str | None
    pipeline_class: str
    transformer_class: str
    files: dict[str, str]
    digest: str
    licence: str | None = None

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> SourcePin:
        """Read what `save` wrote."""
        return cls(**read_json(path, written_by="l2p source"))

    @property
    def folder(self) -> Path:
        """Local folder of the pinned files; a repository is looked up in the Hugging Face cache or downloaded."""
        return resolve_source(self.path, self.revision)


def resolve_source(path: str, revision: str | None) -> Path:
    """Folder in diffusers layout for a local path or a `repo@revision` of the Hugging Face hub.

    Raises:
        SourceError: neither a folder nor a repository with a pinned revision, or the download failed.
    """
    if Path(path).is_dir():
        return Path(path)
    if path.startswith((".", "/")) or path.count("/") != 1 or Path(path).parent.is_dir():
        raise SourceError(
            f"source.path = {path!r}: no such folder. Give a folder in diffusers layout or a repository id."
        )
    if revision is None:
        raise SourceError(f"source.revision is missing: {path!r} is a repository id and must be pinned to a commit.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        # folders only: what lies beside model_index.json is the whole model again, for other programs
        patterns = [MODEL_INDEX, CARD, *(f"*/*{suffix}" for suffix in _PINNED_SUFFIXES)]
        return Path(
            snapshot_download(path, revision=revision, allow_patterns=patterns, ignore_patterns=list(_VARIANTS))
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise SourceError(
            f"source {path}@{revision}: cannot be fetched ({reason}). Check the name and the network."
        ) from error


def pin_source(path: str, revision: str | None = None) -> SourcePin:
    """Pin the source at `path` by content.

    Raises:
        SourceError: not a diffusers pipeline folder, no transformer, no safetensors weights, or a class or variant that
            is not supported.
    """
    from l2p.models.adapters import get_adapter

    folder = resolve_source(path, revision)
    if not (folder / MODEL_INDEX).is_file():
        raise SourceError(f"{folder / MODEL_INDEX}: not found, so {path!r} is no diffusers pipeline folder.")
    index = read_json(folder / MODEL_INDEX, written_by="the source's author")
    if "transformer" not in index:
        raise SourceError(f"{folder / MODEL_INDEX}: names no `transformer`; only transformer sources can be converted.")
    transformer_class, pipeline_class = str(index["transformer"][1]), str(index["_class_name"])
    adapter = get_adapter(transformer_class)
    if pipeline_class != adapter.pipeline_class:
        raise SourceError(
            f"{folder / MODEL_INDEX}: a {pipeline_class}; of {transformer_class} models only the text-to-image "
            f"pipeline {adapter.pipeline_class} can be converted."
        )
    adapter.check_source(_part_config(folder, "transformer"))
    adapter.check_scheduler(_part_config(folder, "scheduler"))
    files = digest_pipeline(folder)
    if not any(name.startswith("transformer/") and name.endswith(_WEIGHT_SUFFIXES) for name in files):
        raise SourceError(
            f"{folder / 'transformer'}: holds no .safetensors weights (pickled weights are not accepted)."
        )
    return SourcePin(
        path=path,
        revision=revision,
        pipeline_class=pipeline_class,
        transformer_class=transformer_class,
        files=files,
        digest=sha256_json(files),
        licence=_licence(folder),
    )


def verify_source(pin: SourcePin) -> None:
    """Re-hash every pinned file.

    Raises:
        SourceError: a file is missing or differs; the message names the first such file.
    """
    folder = pin.folder
    require_below(pin.files, where=f"the pin of {pin.path}")
    for name, digest in pin.files.items():
        path = folder / name
        if not path.is_file():
            raise SourceError(f"{path}: missing, but pinned. Restore it, or pin again with `l2p source`.")
        if sha256_file(path) != digest:
            raise SourceError(
                f"{path}: differs from the pin (sha256 {digest[:12]}). Restore it, or pin again with `l2p source`."
            )


def load_source_pipeline(pin: SourcePin, *, dtype: str = "float32", device: str = "cpu") -> Any:
    """The source's own diffusers pipeline, verified, without a progress bar."""
    return _load(pin, dtype, device, {})


def load_text_pipeline(pin: SourcePin, *, dtype: str = "float32", device: str = "cpu") -> Any:
    """The source's pipeline with its text encoders only: no VAE, no transformer."""
    return _load(pin, dtype, device, {"vae": None, "transformer": None})


def load_drawing_pipeline(
    pin: SourcePin, *, dtype: str = "float32", device: str = "cpu", shift: float | None = None
) -> Any:
    """The source's pipeline without text encoders, to draw from ready embeddings; None: the scheduler's own shift."""
    from l2p.models.pipeline_schedule import build_scheduler

    index = read_json(pin.folder / MODEL_INDEX, written_by="the source's author")
    pipeline = _load(pin, dtype, device, {name: None for name in index if name.startswith("text_encoder")})
    if shift is not None:
        pipeline.scheduler = build_scheduler(pin, shift)
    return pipeline


def load_source_config(pin: SourcePin, part: str) -> dict[str, Any]:
    """Configuration of one part ("transformer", "scheduler", ...) of the source."""
    return _part_config(pin.folder, part)


def _part_config(folder: Path, part: str) -> dict[str, Any]:
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    config: dict[str, Any] = read_json(folder / part / name, written_by="the source's author")
    return config


def _load(pin: SourcePin, dtype: str, device: str, replaced: dict[str, None]) -> Any:
    import diffusers

    from l2p.models.pixel_transformer import tensor_dtype

    verify_source(pin)
    pipeline_class = getattr(diffusers, pin.pipeline_class)
    try:
        pipeline = pipeline_class.from_pretrained(
            pin.folder, dtype=tensor_dtype(dtype), use_safetensors=True, trust_remote_code=False, **replaced
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"{pin.path}: diffusers cannot load it ({' '.join(str(error).split())[:300]}).") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def digest_pipeline(folder: Path) -> dict[str, str]:
    """{file: SHA-256} of what a pipeline in `folder` reads: its index, and each part's own folder without variants."""
    paths = [folder / MODEL_INDEX, *(path for path in sorted(folder.glob("*/**/*")) if _is_pinned(path))]
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}


def _is_pinned(path: Path) -> bool:
    if not path.is_file() or path.suffix not in _PINNED_SUFFIXES:
        return False
    return not any(fnmatch(path.name, pattern) for pattern in _VARIANTS)


def _licence(folder: Path) -> str | None:
    card = folder / CARD
    if not card.is_file():
        return None
    lines = [line for line in card.read_text(encoding="utf-8").splitlines() if line.startswith("license:")]
    return lines[0].split(":", 1)[1].strip() if lines else None
