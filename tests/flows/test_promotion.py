"""The promotion as it runs in a server: through the gate, and with a person's answer."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.flow_runs import resume_flow_run
from prefect.testing.utilities import prefect_test_harness
from pydantic import ValidationError

from flows import promotion as module
from flows.projects import find_version, read_project
from flows.promotion import APPROVAL_TAG, Approval, gate_page, judge_gate
from l2p.errors import RegistryError
from l2p.registry.store import Store
from l2p.registry.versions import CANDIDATE, CHAMPION, PREVIOUS, SCORES_TAG, TAG_PREFIX, ModelRegistry
from tests.conftest import ROOT
from tests.registry import conftest as registries

NAME = "shapes-pixel"

empty_store, drawable_template = registries.empty_store, registries.drawable_template  # fixtures


def scores(retention: float) -> dict[str, Any]:
    each = {"source": 0.9, "pixel": 0.9 * retention, "retention": retention, "interval": [retention - 0.05, 1.0]}
    return {"geneval": each, "dpg": each}


@pytest.fixture(scope="module")
def filled(drawable_template: registries.Drawable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose registry holds a champion, version 1, and a candidate, version 2; do not write into it."""
    root = tmp_path_factory.mktemp("filled")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["register"] |= {"min_geneval_retention": 0.9, "min_dpg_retention": 0.9}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copyfile(drawable_template.database, root / "mlflow.db")
    registry = open_registry(root)
    with Store(registry.tracking_uri, "tests").run("register", {}) as run_id:
        pass
    for retention, alias in ((0.95, CHAMPION), (0.97, CANDIDATE)):
        tags = drawable_template.tags | {SCORES_TAG: json.dumps(scores(retention))}
        version = registry.create(NAME, source=drawable_template.source, run_id=run_id, tags=tags, description="")
        registry.set_alias(version, alias)
    return root


@pytest.fixture
def root(filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, seen from another folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return Path(shutil.copytree(filled, tmp_path / "project"))


def open_registry(root: Path) -> ModelRegistry:
    return ModelRegistry(f"sqlite:///{root / 'mlflow.db'}")


def aliases(root: Path) -> dict[str, int]:
    return {alias: version.version for version in open_registry(root).all(NAME) for alias in version.aliases}


UNTOUCHED = {CHAMPION: 1, CANDIDATE: 2}


def test_the_gate_is_asked_without_moving_anything(root: Path) -> None:
    project = read_project(root)
    version = find_version(project, "@candidate")
    assert str(version) == f"{NAME}/2"
    decision = judge_gate(project, version)
    assert decision.passed
    page = gate_page(version, decision)
    assert page.startswith(f"# `{NAME}/2` (`@candidate`)\n\nThe gate is **open**:\n\n- GenEval retention 0.970 reaches")
    assert aliases(root) == UNTOUCHED


def test_a_version_is_found_by_any_of_its_names_from_any_folder(root: Path) -> None:
    project = read_project(root)
    for reference in ("@champion", "/1", f"{NAME}@champion", f"{NAME}/1"):
        assert find_version(project, reference).version == 1
    with pytest.raises(RegistryError, match="aliases candidate, champion"):
        find_version(project, "@nope")


def test_a_version_without_scores_cannot_pass(root: Path) -> None:
    registry = open_registry(root)
    run_id = registry.all(NAME)[0].run_id
    bare = registry.create(NAME, source=f"runs:/{run_id}/3", run_id=run_id, tags={}, description="")
    with pytest.raises(RegistryError, match="has no scores, so the gate cannot open"):
        judge_gate(read_project(root), bare)


def test_an_answer_needs_a_reason() -> None:
    with pytest.raises(ValidationError):
        Approval(approve=True, reason="")
    assert not APPROVAL_TAG.startswith(TAG_PREFIX)  # or `l2p verify` would call the version changed


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=240):
        yield


def answer_when_asked(answer: dict[str, Any] | None) -> FlowRun:
    """Wait for the paused run and fill in its form."""
    with get_client(sync_client=True) as client:
        end = time.monotonic() + 240
        while True:
            paused = [run for run in client.read_flow_runs() if run.state is not None and run.state.is_paused()]
            if paused:
                break
            assert time.monotonic() < end, "no run asked"
            time.sleep(0.2)
    resume_flow_run(paused[0].id, run_input=answer)
    return paused[0]


def promote(root: Path, answer: dict[str, Any] | None, **options: Any) -> Any:
    thread = threading.Thread(target=answer_when_asked, args=(answer,), daemon=True)
    if answer is not None:
        thread.start()
    return module.promotion(root=str(root), return_state=True, **options)


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_an_approved_candidate_becomes_the_champion_and_the_answer_is_recorded(root: Path) -> None:
    state = promote(root, {"approve": True, "reason": "looked at 50 images"})
    assert state.name == "Promoted", state
    assert aliases(root) == {CHAMPION: 2, CANDIDATE: 2, PREVIOUS: 1}
    recorded = json.loads(open_registry(root).resolve(f"{NAME}/2").tags[APPROVAL_TAG])
    assert (recorded["approve"], recorded["reason"]) == (True, "looked at 50 images")


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_refusal_leaves_the_aliases_and_is_recorded(root: Path) -> None:
    state = promote(root, {"approve": False, "reason": "hands look wrong"})
    assert (state.name, state.message) == ("Refused", f"{NAME}/2 stays as it is: hands look wrong")
    assert aliases(root) == UNTOUCHED
    assert "hands look wrong" in open_registry(root).resolve(f"{NAME}/2").tags[APPROVAL_TAG]


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_without_an_answer_nothing_is_promoted(root: Path) -> None:
    state = promote(root, None, wait_hours=2 / 3600)
    assert state.is_failed()
    assert aliases(root) == UNTOUCHED


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_shut_gate_is_not_even_asked_about(root: Path) -> None:
    text = (root / "params.yaml").read_text().replace("min_dpg_retention: 0.9", "min_dpg_retention: 0.99")
    (root / "params.yaml").write_text(text)
    state = promote(root, None)
    assert state.is_failed()
    assert "DPG-Bench retention 0.970 is below the required 0.990" in state.message
    assert aliases(root) == UNTOUCHED
