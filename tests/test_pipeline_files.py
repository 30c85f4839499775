"""dvc.yaml against command line and params.yaml, asked of DVC itself in a copy of the project with dummy outputs."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from l2p.commands.stages import PER_MODEL, STAGES
from l2p.config import Params

ROOT = Path(__file__).parents[1]
ALWAYS = "register"
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")  # DVC's use of its own library

EVALUATED = {"geneval@pixel", "dpg@pixel", "fidelity", "efficiency", "report"}
UNWATCHED = {"evaluation"}  # how scores are computed, not what they are: another batch size makes no score stale


class Project:
    """A copy of the pipeline in which every output exists and is locked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder / name)
        (folder / ".dvc").mkdir()
        for name in ("config", ".gitignore"):
            shutil.copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        (folder / "sources" / "shapes").mkdir(parents=True)
        (folder / "sources" / "shapes" / "weights").write_text("weights", encoding="utf-8")
        self._params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        with self._repo() as repo:
            for out in (out for stage in repo.index.stages for out in stage.outs):
                _fill(Path(out.fs_path))
            for dependency in ("models/init/config.json", "models/init/delta.safetensors"):
                _fill(folder / dependency)
            repo.commit(force=True)

    def stages(self) -> dict[str, Any]:
        """DVC's stages by address."""
        with self._repo() as repo:
            return {stage.addressing: stage for stage in repo.index.stages}

    def recomputed(self, changes: dict[str, Any] | None = None) -> set[str]:
        """Stages that may run after a change of params.yaml, {dotted name: value}, those downstream included."""
        params = yaml.safe_load(yaml.safe_dump(self._params))
        for name, value in (changes or {}).items():
            *parents, field = name.split(".")
            section = params
            for parent in parents:
                section = section[parent]
            assert section[field] != value, f"{name} is {value} already"
            section[field] = value
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        with self._repo() as repo:
            changed = set(repo.status()) - {ALWAYS}
            graph = {stage.addressing: stage for stage in repo.index.stages}
            upstream = {
                name: {other.addressing for other in repo.index.graph.successors(stage)}
                for name, stage in graph.items()
            }
        while more := {name for name, before in upstream.items() if before & changed} - changed:
            changed |= more
        return changed - {ALWAYS}

    def _repo(self) -> Any:
        from dvc.repo import Repo

        return Repo(str(self.folder))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    here = Path.cwd()
    folder = tmp_path_factory.mktemp("project")
    os.chdir(folder)
    yield Project(folder)
    os.chdir(here)


def test_dvc_has_a_stage_for_each_command_and_no_other(project: Project) -> None:
    expected = {name for name in STAGES if name not in PER_MODEL}
    expected |= {f"{name}@{model}" for name in PER_MODEL for model in ("source", "pixel")}
    assert set(project.stages()) == expected


def test_every_stage_runs_its_own_command(project: Project) -> None:
    for address, stage in project.stages().items():
        name, _, model = address.partition("@")
        assert stage.cmd == (f"l2p {name} --model {model}" if model else f"l2p {name}")


def test_nothing_is_recomputed_when_nothing_changed(project: Project) -> None:
    assert project.recomputed() == set()


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"train.learning_rate": 0.5}, {"train"} | EVALUATED),
        ({"efficiency.repeats": 99}, {"efficiency", "report"}),
        ({"geneval.seed": 99}, {"geneval@source", "geneval@pixel", "fidelity", "report"}),
        ({"fidelity.inception": True}, {"fidelity", "report"}),
        ({"evaluation.judge_batch_size": 99}, set()),
        ({"dpg.protocol": "official"}, {"dpg@source", "dpg@pixel", "report"}),
        ({"sampling.source.num_steps": 99}, {"geneval@source", "dpg@source", "fidelity", "report"}),
        ({"sampling.pixel.num_steps": 99}, {"convert", "train"} | EVALUATED),
        ({"convert.seed": 99}, {"convert", "train"} | EVALUATED),
        ({"validate.min_contrast": 9.5}, {"synthesize", "validate", "convert", "train"} | EVALUATED),
        ({"synthesize.num_workers": 5}, set()),
        ({"synthesize.seed": 5}, {"synthesize", "validate", "convert", "train"} | EVALUATED),
        ({"embed.batch_size": 1}, {"embed", "synthesize", "validate", "convert", "train"} | EVALUATED),
        ({"prompts.count": 1}, {"prompts", "synthesize", "validate", "embed", "convert", "train"} | EVALUATED),
        ({"register.min_dpg_retention": 0.5}, set()),
    ],
)
def test_a_changed_value_recomputes_exactly_what_depends_on_it(
    project: Project, change: dict[str, Any], stages: set[str]
) -> None:
    assert project.recomputed(change) == stages


def test_the_scores_of_the_source_do_not_depend_on_the_pixel_model(project: Project) -> None:
    for name in PER_MODEL:
        assert [dep.def_path for dep in project.stages()[f"{name}@source"].deps if "params" not in str(dep)] == [
            "models/source.json"
        ]


def test_every_section_of_params_is_watched_by_a_stage(project: Project) -> None:
    watched = {name.split(".")[0] for stage in project.stages().values() for name in _params_of(stage)}
    assert watched == {info.alias or name for name, info in Params.model_fields.items()} - UNWATCHED


@pytest.mark.parametrize("name", [name for name in STAGES if name != ALWAYS])
def test_a_stage_declares_every_section_that_its_code_reads(project: Project, name: str) -> None:
    stage = next(stage for address, stage in project.stages().items() if address.partition("@")[0] == name)
    declared = {param.split(".")[0] for param in _params_of(stage)}
    read = _sections_read(ROOT / "src" / "l2p" / "stages" / f"{name}.py")
    assert read - declared - UNWATCHED == set()


def test_resumable_outputs_survive_the_start_of_their_stage(project: Project) -> None:
    kept = {out.def_path for stage in project.stages().values() for out in stage.outs if out.persist}
    assert {"data/corpus", "reports/training/curves.csv", "reports/geneval/pixel/images"} <= kept


def test_what_a_remote_does_not_hold_makes_no_stage_run_again(project: Project) -> None:
    """A clone that pulls has the cached outputs alone; DVC would repeat a stage for any other that is missing."""
    uncached = {name for name, stage in project.stages().items() if any(not out.use_cache for out in stage.outs)}
    assert uncached == {ALWAYS}


def test_the_lock_is_not_ignored_by_git_since_dvc_refuses_that(project: Project) -> None:
    ignored = subprocess.run(["git", "check-ignore", "dvc.lock"], cwd=project.folder, check=False)
    assert ignored.returncode == 1
    assert (project.folder / "dvc.lock").is_file()


def _params_of(stage: Any) -> set[str]:
    """Dotted names of the parameters that a stage depends on."""
    return {name for dep in stage.deps for name in getattr(dep, "params", ())}


def _sections_read(path: Path) -> set[str]:
    """Sections of `params` that a module reads, by their names in params.yaml."""
    aliases = {name: info.alias or name for name, info in Params.model_fields.items()}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        aliases[node.attr]
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
        if node.attr in aliases
    }


def _fill(path: Path) -> None:
    """A dummy output: a file where the name has a suffix, a folder with a file in it otherwise."""
    file = path if path.suffix else path / "file"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(path), encoding="utf-8")
