import base64
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import l2p
from l2p.cli import app
from l2p.config import Layout, Params, load_params
from l2p.errors import LineageError, MissingFileError, RegistryError
from l2p.evaluation.subject import delta_digest
from l2p.files import read_json, sha256_file, write_json
from l2p.models.delta import read_delta_card
from l2p.models.pipeline import load_pixel_pipeline
from l2p.registry import promotion
from l2p.registry.store import Store
from l2p.registry.tracking import TrainingRun
from l2p.registry.versions import ModelRegistry, ModelVersion
from l2p.stages import register
from tests.registry.conftest import SCORES, flip_byte, write_scores

NAME = "shapes-pixel"


@pytest.fixture
def registry(project: Path) -> ModelRegistry:
    return ModelRegistry("sqlite:///mlflow.db")


@pytest.fixture
def registered_alone(registry: ModelRegistry, params: Params) -> ModelVersion:
    """The project's model, registered in a store of its own."""
    register.run(params)
    return registry.resolve(f"{NAME}@candidate")


@pytest.fixture(scope="module")
def registered_template(project_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registered") / "project"
    shutil.copytree(project_template, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        register.run(load_params())
    return folder


@pytest.fixture
def registered(registered_template: Path, project: Path) -> ModelVersion:
    """The project's model, registered; the artifacts are shared, so do not change them."""
    shutil.copytree(registered_template, project, dirs_exist_ok=True, ignore=shutil.ignore_patterns("mlruns"))
    return ModelRegistry("sqlite:///mlflow.db").resolve(f"{NAME}@candidate")


def with_retention(geneval: float) -> None:
    """Another result of the benchmarks, as a report would write it: score and comparison."""
    scores = {name: dict(score) for name, score in SCORES.items()}
    scores["geneval"]["retention"] = geneval
    write_scores(scores)
    path = Layout.geneval / "pixel/scores.json"
    write_json(path, read_json(path, written_by="") | {"overall": geneval * 0.9})


def test_a_registration_completes_the_summary(registered: ModelVersion) -> None:
    summary = read_json(Layout.summary, written_by="")
    assert summary["model"] == {"name": NAME, "version": 1, "aliases": ["candidate", "champion"]}
    assert summary["verified"] is True
    assert summary["geneval"] == SCORES["geneval"]
    assert read_json(Layout.registration, written_by="")["lineage"]["root"] == registered.tags["l2p.lineage_root"]


def test_the_run_holds_everything_a_reader_needs(registered: ModelVersion) -> None:
    store = Store("sqlite:///mlflow.db", "l2p")
    run = store.client.get_run(registered.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.num_steps"] == "6"
    assert run.data.metrics["geneval.retention"] == 0.978
    assert [point.step for point in store.client.get_metric_history(registered.run_id, "train.loss")] == list(
        range(1, 7)
    )
    assert {item.dataset.name: item.dataset.digest for item in run.inputs.dataset_inputs}.keys() == {
        "source",
        "prompts",
        "corpus",
        "manifest",
        "embeddings",
    }
    for name in ("lineage.json", "sample.png", "project/params.yaml", "training/samples/step-000006.png"):
        assert store.fetch(registered.run_id, name).is_file()
    assert read_json(store.fetch(registered.run_id, "geneval/pixel/scores.json"), written_by="")["overall"] == 0.88


def test_the_run_says_in_which_environment_and_how_long(registered: ModelVersion) -> None:
    store = Store("sqlite:///mlflow.db", "l2p")
    lines = store.fetch(registered.run_id, "project/environment.lock").read_text().splitlines()
    assert any(line.startswith("torch==") for line in lines)
    assert [line for line in lines if "/" in line or "@" in line or "==" not in line] == []
    hours = read_json(store.fetch(registered.run_id, "project/device-hours.json"), written_by="")
    assert hours == {"total": 0.0}
    description = store.client.get_model_version(NAME, "1").description
    assert store.fetch(registered.run_id, "model-card.md").read_text() == description


def test_what_was_recorded_of_the_machine_while_training_is_in_the_run(project: Path, params: Params) -> None:
    store = Store("sqlite:///mlflow.db", "l2p")
    with TrainingRun.open(
        tracking_uri="sqlite:///mlflow.db", experiment="l2p", run_file=Layout.checkpoints / "mlflow.json", name="train"
    ) as run:
        run.log_metrics({"system/cpu_utilization_percentage": 50.0}, step=0)
    write_json(Layout.training / "result.json", {"seconds": 1800.0, "num_processes": 4, "device": "GPU"})
    register.run(params)
    version = ModelRegistry("sqlite:///mlflow.db").resolve(f"{NAME}@champion")
    found = store.client.get_run(version.run_id).data
    assert found.metrics["system/cpu_utilization_percentage"] == 50.0
    assert found.metrics["device_hours.train"] == found.metrics["device_hours.total"] == 2.0
    assert found.tags["l2p.training_run"] == run.run_id


def test_a_second_process_that_was_faster_keeps_its_version_and_ours_goes(
    registered_alone: ModelVersion, registry: ModelRegistry, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, asked = ModelRegistry.find, []

    def late(self: ModelRegistry, name: str, tags: dict[str, str]) -> ModelVersion | None:
        asked.append(name)
        return None if len(asked) == 1 else find(self, name, tags)  # the other one's comes while we register

    monkeypatch.setattr(ModelRegistry, "find", late)
    register.run(params)
    assert [version.version for version in registry.all(NAME)] == [1]
    runs = Store("sqlite:///mlflow.db", "l2p").client.search_runs(["1"])
    assert [run.info.run_id for run in runs] == [registered_alone.run_id]
    assert read_json(Layout.summary, written_by="")["model"]["version"] == 1


def test_dvc_finds_no_second_pipeline_among_the_artifacts(registered_template: Path) -> None:
    assert list(registered_template.rglob("dvc.yaml")) == [registered_template / "dvc.yaml"]
    assert len(list(registered_template.glob("mlruns/**/pipeline.yaml"))) == 1


def test_the_version_carries_a_model_card(registered: ModelVersion) -> None:
    client = Store("sqlite:///mlflow.db", "l2p").client
    description = client.get_model_version(NAME, "1").description
    assert "| GenEval | 0.900 | 0.880 | 0.978 | 0.940 to 1.010 |" in description
    digest = read_json(Layout.source, written_by="")["digest"]
    assert f"(digest `{digest[:12]}`, licence not named by it), whose licence holds" in description
    assert "on a corpus of 3 images of 64 x 64 pixels, drawn by the source from prompts of `shapes`" in description
    assert f"models:/{NAME}@champion" in description


def test_the_same_model_is_never_registered_twice(
    registered: ModelVersion, registry: ModelRegistry, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_json(Layout.registration, written_by="")
    Layout.summary.unlink()
    register.run(params)
    assert [version.version for version in registry.all(NAME)] == [1]
    assert "found shapes-pixel version 1 (@candidate, @champion)" in capsys.readouterr().out
    assert read_json(Layout.registration, written_by="")["lineage"]["inputs"] == before["lineage"]["inputs"]
    assert read_json(Layout.summary, written_by="")["verified"] is True


def test_a_champion_falls_only_to_one_that_the_gate_lets_through(
    registered: ModelVersion, registry: ModelRegistry, params: Params
) -> None:
    with_retention(0.95)  # enough, but less than the champion has
    register.run(params)
    assert registry.resolve(f"{NAME}@champion").version == 1
    assert registry.resolve(f"{NAME}@candidate").version == 2
    with_retention(0.99)
    register.run(params)
    assert {version.version: version.aliases for version in registry.all(NAME)} == {
        3: ("candidate", "champion"),
        2: (),
        1: ("previous",),
    }


def test_a_model_below_the_thresholds_is_a_candidate_only(registry: ModelRegistry, params: Params) -> None:
    with_retention(0.5)
    register.run(params)
    assert registry.resolve(f"{NAME}/1").aliases == ("candidate",)
    assert read_json(Layout.registration, written_by="")["gate"]["passed"] is False


def test_registering_again_does_not_undo_a_rollback(
    registered: ModelVersion, registry: ModelRegistry, params: Params
) -> None:
    with_retention(0.99)
    register.run(params)
    registry.make_champion(registry.resolve(f"{NAME}/1"))
    register.run(params)
    assert registry.resolve(f"{NAME}@champion").version == 1


def test_other_thresholds_open_the_gate_again(
    registry: ModelRegistry, params: Params, change_params: Callable[..., Params]
) -> None:
    with_retention(0.8)
    register.run(params)
    register.run(change_params("register", min_geneval_retention=0.7))
    assert registry.resolve(f"{NAME}/1").aliases == ("candidate", "champion")


def test_a_registration_that_was_interrupted_before_its_aliases_is_completed(
    registered: ModelVersion, registry: ModelRegistry, params: Params
) -> None:
    client = Store("sqlite:///mlflow.db", "l2p").client
    for alias in registered.aliases:
        client.delete_registered_model_alias(NAME, alias)
    client.delete_model_version_tag(NAME, "1", "l2p.gate")
    register.run(params)
    assert registry.resolve(f"{NAME}/1").aliases == ("candidate", "champion")


def broken_weights() -> None:
    """Weights that load, with a card that fits them, and that put out nothing finite."""
    weights = Layout.pixel / "delta.safetensors"
    tensors = {name: tensor.fill_(float("nan")) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    claim_weights()


def incomplete_weights() -> None:
    weights = Layout.pixel / "delta.safetensors"
    tensors = load_file(weights)
    tensors.popitem()
    save_file(tensors, weights, metadata={"format": "pt"})
    claim_weights()


def claim_weights() -> None:
    """Let the card and the scores speak of the weights that are there."""
    digest = sha256_file(Layout.pixel / "delta.safetensors")
    write_json(Layout.pixel / "delta.json", read_delta_card(Layout.pixel) | {"weights_sha256": digest})
    for folder in (Layout.geneval, Layout.dpg):
        scores = read_json(folder / "pixel/scores.json", written_by="")
        scores["card"]["model"]["digest"] = register.open_subject("pixel", load_params()).digest
        write_json(folder / "pixel/scores.json", scores)


@pytest.mark.parametrize(("damage", "message"), [(broken_weights, "not finite"), (incomplete_weights, "missing")])
def test_a_model_that_does_not_draw_becomes_no_version(
    registry: ModelRegistry, params: Params, damage: Callable[[], None], message: str
) -> None:
    damage()
    with pytest.raises(RegistryError, match=f"does not load and draw .*{message}"):
        register.run(params)
    assert registry.all(NAME) == []
    assert not Layout.summary.exists()
    (run,) = Store("sqlite:///mlflow.db", "l2p").client.search_runs(["1"])
    assert run.info.status == "FAILED"


def test_scores_of_other_weights_are_refused(registry: ModelRegistry, params: Params) -> None:
    path = Layout.dpg / "pixel/scores.json"
    scores = read_json(path, written_by="")
    scores["card"]["model"]["digest"] = "0" * 64
    write_json(path, scores)
    with pytest.raises(LineageError, match=r"measured on pixel 000000000000.*dvc repro dpg@pixel"):
        register.run(params)


def test_without_a_report_the_stage_to_run_is_named(params: Params) -> None:
    Layout.comparison.unlink()
    with pytest.raises(MissingFileError, match="`l2p report` writes it"):
        register.run(params)


def states(params: Params, reference: str = f"{NAME}@champion") -> dict[str, tuple[str, str]]:
    """State and text of every link."""
    return {link.name: (link.state, link.told) for link in register.verify(params, reference)}


def only_broken(found: dict[str, tuple[str, str]], name: str) -> str:
    """What is told of the one broken link."""
    assert [link for link, (state, _) in found.items() if state != "holds"] == [name]
    assert found[name][0] == "broken"
    return found[name][1]


def test_verification_passes_for_what_was_registered(registered: ModelVersion, params: Params) -> None:
    for reference in (f"{NAME}@candidate", f"{NAME}/1"):
        assert {state for state, _ in states(params, reference).values()} == {"holds"}


def test_verification_names_an_input_that_changed_and_goes_on(registered: ModelVersion, params: Params) -> None:
    flip_byte(Layout.manifest)
    assert "manifest is" in only_broken(states(params), "manifest")


def test_verification_notices_an_image_that_was_tampered_with(registered: ModelVersion, params: Params) -> None:
    flip_byte(Layout.corpus / "00000" / "000001.png")
    assert "000001.png: has sha256" in only_broken(states(params), "corpus")


def test_verification_notices_a_changed_parameter(
    registered: ModelVersion, change_params: Callable[..., Params]
) -> None:
    assert "params > train is" in only_broken(states(change_params("train", seed=99)), "params")


def test_verification_tells_what_cannot_be_reached_from_here(registered: ModelVersion, params: Params) -> None:
    Layout.prompts_table.unlink()
    found = states(params)
    assert found["prompts"][0] == "unreachable"
    assert "data/prompts/prompts.parquet is not here" in found["prompts"][1]
    assert {state for name, (state, _) in found.items() if name != "prompts"} == {"holds"}


def test_verification_notices_weights_changed_in_the_store(registered_alone: ModelVersion, params: Params) -> None:
    registry = ModelRegistry("sqlite:///mlflow.db")
    flip_byte(registry.download_delta_of(registered_alone.source) / "delta.safetensors")
    state, told = states(params)["registered weights"]
    assert state == "broken"
    assert re.search(r"mlruns.*delta\.safetensors: found .*, registered was", told)


def test_verification_notices_a_record_changed_in_the_store(registered_alone: ModelVersion, params: Params) -> None:
    path = Store("sqlite:///mlflow.db", "l2p").fetch(registered_alone.run_id, "lineage.json")
    record = json.loads(path.read_text())
    record["inputs"]["manifest"] = "0" * 64
    path.write_text(json.dumps(record))
    assert "The record in the registry was changed" in only_broken(states(params), "record")


def test_verification_notices_a_tag_changed_in_the_registry(
    registered_alone: ModelVersion, registry: ModelRegistry, params: Params
) -> None:
    registry.set_tag(registered_alone, "l2p.lineage_root", "0" * 64)
    assert "its tag l2p.lineage_root" in only_broken(states(params), "record")


@pytest.mark.parametrize("tag", ["l2p.scores", "l2p.origin", "l2p.weights_sha256", "l2p.git_commit", "l2p.new"])
def test_verification_notices_any_tag_that_was_changed_and_promotion_refuses_it(
    registered_alone: ModelVersion, registry: ModelRegistry, params: Params, tag: str
) -> None:
    registry.set_tag(registered_alone, tag, registered_alone.tags.get(tag, "{}").replace("0.97", "0.99") + " ")
    state, told = states(params)["tags"]
    assert state == "broken"
    assert f"its tag {tag} differs" in told
    if tag == "l2p.origin":
        with pytest.raises(LineageError, match=r"its tag l2p\.origin differs"):
            promotion.promote(params, NAME, 1)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("project/params.yaml", "num_steps: 6", "num_steps: 7"),
        ("geneval/pixel/scores.json", "0.88", "0.98"),
        ("project/source.json", '"digest": "', '"digest": "0'),
    ],
)
def test_verification_notices_a_copy_in_the_run_that_was_changed(
    registered_alone: ModelVersion, params: Params, name: str, before: str, after: str
) -> None:
    path = Store("sqlite:///mlflow.db", "l2p").fetch(registered_alone.run_id, name)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    assert name in only_broken(states(params), "run's files")


def test_verification_loads_no_code_that_was_changed_in_the_store(
    registered_alone: ModelVersion, registry: ModelRegistry, params: Params
) -> None:
    code = registry.download_model_of(registered_alone.source) / "served_model.py"
    code.write_text(f"import os\nos.mkdir({str(Path('it-ran').resolve())!r})\n{code.read_text()}")
    assert "served_model.py is" in only_broken(states(params), "drawing")
    with pytest.raises(LineageError, match=r"served_model\.py is .* Nothing of it was loaded"):
        promotion.promote(params, NAME, 1)
    assert not Path("it-ran").exists()


def test_a_source_that_is_away_is_unreachable_and_not_broken(
    registered_alone: ModelVersion, params: Params, tiny_source: Path
) -> None:
    pin = read_json(Layout.source, written_by="")
    write_json(Layout.source, pin | {"path": "./nowhere"})
    state, told = states(params)["source"]
    assert state == "unreachable"
    assert "no such folder" in told


def test_verification_notices_a_model_that_draws_something_else(registered_alone: ModelVersion, params: Params) -> None:
    path = Store("sqlite:///mlflow.db", "l2p").fetch(registered_alone.run_id, "sample.png")
    Image.new("RGB", Image.open(path).size, "white").save(path)
    assert "its drawing differs from the one made when it was registered" in only_broken(states(params), "drawing")


def test_the_tree_of_a_version_goes_back_to_its_source(registered: ModelVersion, project: Path) -> None:
    shown = CliRunner().invoke(app, ["lineage", f"{NAME}@champion"])
    assert shown.exit_code == 0, shown.output
    titles = [
        line.strip("└─ ").split()[0] for line in shown.output.splitlines() if "─" in line or not line[0].isspace()
    ]
    assert titles == ["version", "run", "weights", "corpus", "prompts", "source"]
    assert "GenEval: source 0.900, pixel 0.880, retention 0.978 (0.940 to 1.010)" in shown.output
    assert read_json(Layout.source, written_by="")["digest"][:12] in shown.output


def test_the_command_verify_says_in_its_exit_code_what_it_found(registered: ModelVersion, project: Path) -> None:
    run = CliRunner().invoke
    assert run(app, ["verify", f"{NAME}@champion"]).exit_code == 0
    Layout.prompts_table.unlink()
    assert run(app, ["verify", f"{NAME}@champion"]).exit_code == 1
    flip_byte(Layout.manifest)
    done = run(app, ["verify", f"{NAME}@champion"])
    assert isinstance(done.exception, LineageError)
    assert "1 of " in str(done.exception)


def test_an_application_loads_the_champion_from_anywhere_and_draws(
    registered: ModelVersion, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_pixel_pipeline(Layout.pixel)(
        "a red circle",
        height=64,
        width=64,
        num_inference_steps=2,
        generator=[torch.Generator().manual_seed(5)],
        output_type="np",
    ).images[0]
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    images = model.predict(pd.DataFrame({"prompt": ["a red circle", "two blue squares"], "seed": [5, 6]}))
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image)))) for image in images]
    assert [image.shape for image in pixels] == [(64, 64, 3)] * 2
    assert np.abs(pixels[0] / 255 - expected).max() < 0.01
    (small,) = model.predict([{"prompt": "a red circle"}], params={"height_px": 32, "width_px": 32})
    assert Image.open(io.BytesIO(base64.b64decode(small))).size == (32, 32)


def test_a_row_may_have_its_own_size_steps_and_guidance(registered: ModelVersion, project: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    rows = pd.DataFrame(
        {
            "prompt": ["a red circle"] * 3,
            "seed": [5] * 3,
            "height_px": [64, 32, 64],
            "width_px": [64, 48, 64],
            "num_steps": [2, 2, 5],
            "guidance_scale": [0.0] * 3,
        }
    )
    images = [Image.open(io.BytesIO(base64.b64decode(image))) for image in model.predict(rows)]
    assert [image.size for image in images] == [(64, 64), (48, 32), (64, 64)]
    (alone,) = model.predict([{"prompt": "a red circle", "seed": 5}], params={"num_steps": 5})
    assert base64.b64decode(alone) == base64.b64decode(model.predict(rows.iloc[2:])[0])
    assert not np.array_equal(np.asarray(images[0]), np.asarray(images[2]))


def test_a_pipeline_comes_from_the_registry_by_name(
    registered: ModelVersion, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it where a store was named before
    assert l2p.L2PPipeline.from_registry(f"{NAME}@champion").config.num_inference_steps == 2
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match="no MLflow store is named"):
        l2p.L2PPipeline.from_registry(f"{NAME}@champion")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project}/mlflow.db")
    pipeline = l2p.L2PPipeline.from_registry(f"{NAME}/1")
    expected = load_pixel_pipeline(project / Layout.pixel)
    for name, tensor in expected.transformer.state_dict().items():
        assert torch.equal(pipeline.transformer.state_dict()[name], tensor)
    with pytest.raises(RegistryError, match="no model 'other'"):
        l2p.L2PPipeline.from_registry("other@champion")


def test_a_pipeline_of_weights_changed_in_the_store_is_refused(
    registered_alone: ModelVersion, registry: ModelRegistry
) -> None:
    flip_byte(registry.download_delta_of(registered_alone.source) / "delta.safetensors")
    with pytest.raises(LineageError, match="registered was"):
        l2p.L2PPipeline.from_registry(f"{NAME}@champion")


EVALUATE = ["evaluate", "geneval", "--data", "shapes", "--judge", "shapes", "--steps", "1"]


def test_a_registered_model_is_evaluated_by_its_alias(registered: ModelVersion, project: Path) -> None:
    few = ["--images-per-prompt", "1", "--subset", "0.05", "--size", "32x32"]
    done = CliRunner().invoke(app, [*EVALUATE, *few, "--model", f"{NAME}@candidate"])
    assert done.exit_code == 0, done.output
    scores = read_json(project / "evaluations" / f"{NAME}@candidate" / "geneval/scores.json", written_by="")
    assert scores["card"]["model"] == {"name": f"{NAME}@candidate", "digest": delta_digest(Layout.pixel)}


def test_a_model_that_is_not_registered_is_not_evaluated(registered: ModelVersion, project: Path) -> None:
    done = CliRunner().invoke(app, [*EVALUATE, "--model", f"{NAME}@nobody"])
    assert isinstance(done.exception, RegistryError)
    assert "nobody" in str(done.exception)
    assert not (project / "evaluations").exists()


@pytest.mark.parametrize(
    ("rows", "changes", "told"),
    [
        (65, {}, "65 rows: expected 1 to 64"),
        (1, {"height_px": 4096, "width_px": 4096}, "4096x4096 pixels: at most 65,536"),
        (1, {"num_steps": 1000}, "num_steps = 1000: expected 1 to 200"),
        (1, {"prompt": "long " * 500}, "a prompt of 2500 characters: at most 2000"),
        (1, {"prompt": " "}, "an empty prompt"),
    ],
)
def test_a_request_that_is_too_large_is_refused_before_anything_is_drawn(
    registered: ModelVersion, params: Params, rows: int, changes: dict[str, Any], told: str
) -> None:
    mlflow.set_tracking_uri(Store("sqlite:///mlflow.db", "l2p").tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    settings = {"height_px": 64, "width_px": 64, "num_steps": 2, "guidance_scale": 0.0} | changes
    prompt = settings.pop("prompt", "a red circle")
    with pytest.raises(mlflow.exceptions.MlflowException, match=told) as caught:
        model.predict([{"prompt": prompt, "seed": 0}] * rows, params=settings)
    assert caught.value.get_http_status_code() == 400
