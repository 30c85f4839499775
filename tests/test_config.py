"""params.yaml: every mistake is refused with a message that names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from l2p.config import Params, load_params, precision
from l2p.errors import ConfigError, MissingFileError

ROOT = Path(__file__).parents[1]


def written(tmp_path: Path, **changes: Any) -> Path:
    """The repository's params.yaml with `section__field` changed; None removes it."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name, value in changes.items():
        *parents, field = name.split("__")
        section = params
        for parent in parents:
            section = section[parent]
        if value is None:
            del section[field]
        else:
            section[field] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    return path


def test_the_params_of_the_repository_are_valid() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.model_dump(by_alias=True)["validate"]["min_contrast"] >= 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train__learning_rat": 1}, r"unknown key `train\.learning_rat`"),
        ({"trian": {}}, r"unknown key `trian`"),
        ({"convert__head__width": 1}, r"unknown key `convert\.head\.width`"),
        ({"train__batch_size": 0}, r"`train\.batch_size` = 0: .*greater than 0"),
        ({"train__num_steps": "many"}, r"`train\.num_steps` = 'many'"),
        ({"synthesize__height_px": 65}, r"`synthesize\.height_px` = 65: .*multiple of 16"),
        ({"train__dtype": "float16"}, r"`train\.dtype` = 'float16'"),
        ({"geneval": None}, r"`geneval` is missing"),
        ({"sampling__pixel__num_steps": None}, r"`sampling\.pixel\.num_steps` is missing"),
        ({"prompts__provider": "file"}, r"`prompts`: provider `file` needs `path`"),
    ],
)
def test_a_mistake_is_refused_and_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_params(written(tmp_path, **change))


def test_several_mistakes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(1 more problem"):
        load_params(written(tmp_path, train__batch_size=0, train__num_steps=0))


def test_a_missing_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nothing\.yaml: not found.*--params"):
        load_params(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("text", "message"), [("train: [", "not valid YAML"), ("- 1\n", "expected sections"), ("", "sections")]
)
def test_a_file_that_holds_no_sections_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_params(path)
    assert "\n" not in str(caught.value)


def test_every_field_says_what_it_means() -> None:
    def undescribed(model: Any, prefix: str = "") -> list[str]:
        missing = []
        for name, field in model.model_fields.items():
            nested = field.annotation
            if hasattr(nested, "model_fields"):
                assert nested.__doc__, f"{prefix}{name}: its section has no docstring"
                missing += undescribed(nested, f"{prefix}{name}.")
            elif not field.description:
                missing.append(f"{prefix}{name}")
        return missing

    assert undescribed(Params) == []


def test_what_contradicts_within_a_section_is_told_without_the_whole_section(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["train"]["num_machines"] = 2
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"`train`: `num_machines` above 1 needs `rendezvous` or `hostfile`\.$"):
        load_params(path)


@pytest.mark.parametrize("fast", ["float32", "bfloat16"])
def test_auto_is_what_the_machine_is_fast_in_and_no_digest_depends_on_it(
    monkeypatch: pytest.MonkeyPatch, fast: str
) -> None:
    monkeypatch.setattr(precision, "fast_dtype", lambda: fast)
    params = load_params(ROOT / "params.yaml")
    assert (params.train.dtype, params.train.precision) == ("auto", fast)
    assert params.sampling.model_dump()["dtype"] == "auto"
    assert params.train.model_copy(update={"dtype": "bfloat16"}).precision == "bfloat16"


def test_a_cpu_without_instructions_for_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for features, expected in (({"avx512_f": True, "avx512_bf16": False}, "float32"), ({"amx_bf16": True}, "bfloat16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=features: found)
        assert precision.fast_dtype.__wrapped__() == expected
