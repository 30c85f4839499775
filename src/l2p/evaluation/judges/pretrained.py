"""Owns a judge's pretrained model: finding it in a folder or on the Hugging Face hub, digesting and loading it.

No pickle is loaded and no code of a repository's own is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from l2p.errors import EvaluationError
from l2p.files import sha256_file, sha256_json

_WEIGHTS = ".safetensors"
_READ_SUFFIXES = (_WEIGHTS, ".json", ".txt", ".model", ".jinja")  # weights, configurations, tokenizer, chat template
_NOT_READ = ("*/*", "*.fp16*", "*.bf16*")  # forms for other programs in folders of their own; second forms
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_NAMED = 3
_MAX_REASON = 300  # characters


def locate_weights(model: str, revision: str | None, *, option: str = "judge_options.model") -> Path:
    """Folder of a model that transformers can load.

    Args:
        model: a folder, taken as it is, or a repository id, found in the Hugging Face cache or downloaded.
        revision: commit, branch or tag of the repository; None: its main branch.
        option: what messages call the setting that holds `model`.

    Raises:
        EvaluationError: neither a folder nor a repository that can be fetched, or there are no safetensors weights.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") > 1 or folder.exists():
            raise EvaluationError(
                f"{option} = {model!r}: no such folder. Give a folder with config.json and {_WEIGHTS} weights, or a "
                "repository id of the Hugging Face hub."
            )
        folder = _fetch(model, revision, option)
    if not any(folder.glob(f"*{_WEIGHTS}")):
        raise EvaluationError(
            f"{option} = {model!r}: {folder} holds no {_WEIGHTS} weights, and pickled ones are never loaded, because "
            "they can run any code. Choose a model or revision that has them, or convert it with save_pretrained."
        )
    return folder


def digest_folder(path: Path) -> str:
    """SHA-256 over names and contents of the files of `path` that are read: weights, configurations, tokenizer."""
    files = sorted(file for file in path.iterdir() if file.suffix in _READ_SUFFIXES and file.is_file())
    return sha256_json({file.name: sha256_file(file) for file in files})


def load_model(model_class: Any, folder: Path, *, dtype: str, device: str) -> Any:
    """The model in `folder`, in eval mode on `device`.

    Args:
        model_class: a model class of transformers.
        folder: what `locate_weights` returned.
        dtype: precision of the weights, a name in torch such as "float32".
        device: "cpu", "cuda", ...

    Raises:
        EvaluationError: another kind of model, damaged or incomplete.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig

    expected = model_class.config_class.model_type
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.model_type != expected:
            raise EvaluationError(f"{folder}: config.json is of a {config.model_type!r} model, not {expected!r}.")
        model, loading = model_class.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EvaluationError(f"{folder}: cannot be loaded ({_one_line(error)}). Fetch the model again.") from error
    # Buffers that a checkpoint lacks follow from the configuration; weights would be random.
    if missing := sorted(set(loading["missing_keys"]) & {name for name, _ in model.named_parameters()}):
        raise EvaluationError(
            f"{folder}: incomplete, {len(missing)} weights of {model_class.__name__} are missing, first "
            f"{', '.join(missing[:_NAMED])}. Fetch the model again."
        )
    return model.eval().to(device)


def load_image_processor(folder: Path) -> Any:
    """The checkpoint's image processor, always the one made of Pillow: torchvision's gives slightly other pixels.

    Raises:
        EvaluationError: there is none, or none that can be read.
    """
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{folder / 'preprocessor_config.json'}: cannot be loaded ({_one_line(error)}). It belongs beside the "
            "weights; fetch the model again."
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """The checkpoint's tokenizer.

    Raises:
        EvaluationError: there is none, or none that can be read.
    """
    from transformers import AutoTokenizer

    # Without its files transformers makes a tokenizer that knows no word, and says nothing.
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise EvaluationError(
            f"{folder}: holds no tokenizer ({', '.join(_TOKENIZER_FILES)}). Its files belong beside the weights; fetch "
            "the model again."
        )
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{folder}: its tokenizer cannot be loaded ({_one_line(error)}). Its files belong beside the weights; "
            "fetch the model again."
        ) from error


def _fetch(model: str, revision: str | None, option: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [f"*{suffix}" for suffix in _READ_SUFFIXES]
    try:
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=list(_NOT_READ))
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        where = f"{model}@{revision}" if revision else model
        raise EvaluationError(
            f"{option} = {model!r}: no such folder, and the repository {where} cannot be fetched ({_one_line(error)}). "
            "Check the name and the network, or give a folder that holds the model."
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:_MAX_REASON]
