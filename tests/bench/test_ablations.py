"""The ablations: the matrix as data, stages that are run once, renders of the prompts, and the table's figures."""

from __future__ import annotations

import csv
import fcntl
import json
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from bench import ablation_matrix as matrix
from bench import ablation_renders as renders
from bench import ablation_stages as stages
from bench import ablation_tables as tables
from bench import ablations
from bench.ablation_matrix import BASELINE, Group, Job, Variant
from bench.ablation_scores import COSTS, RESULT, Row, compare_all
from l2p.config import Layout, Params, load_params
from l2p.data.corpus import COLUMNS
from l2p.data.prompts import draw_prompts, write_prompts
from l2p.data.validation import validate_corpus
from l2p.errors import ConfigError
from l2p.evaluation import dpg, geneval
from l2p.files import write_json

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")  # DVC's own use
TINY = {
    "base": {"train.num_steps": 3},
    "seeded": ["train.seed", "convert.seed"],
    "groups": {"draw": {"question": "Which levels?", "baseline": "uniform", "note": "A note."}},
    "variants": [
        {"group": "draw", "name": "official", "overrides": {"train.timesteps": "official_1k"}},
        {
            "group": "draw",
            "name": "normal",
            "overrides": {"train.timesteps": "logit_normal"},
            "also_against": "official",
        },
    ],
}


@pytest.fixture(scope="module")
def params() -> dict[str, Any]:
    return matrix.read_yaml(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def pipeline() -> list[stages.Stage]:
    return stages.read_pipeline(ROOT)


def tiny(**changed: Any) -> matrix.Matrix:
    return matrix.Matrix.model_validate({**TINY, **changed})


def plan(
    params: Mapping[str, Any],
    this: matrix.Matrix,
    seeds: tuple[int, ...] = (0,),
    settings: Mapping[str, Any] | None = None,
) -> list[Job]:
    return matrix.plan(this, this.variants, seeds=seeds, params=params, settings=settings or {})


# the matrix


def test_every_variant_of_the_repository_is_one_that_params_yaml_takes(params: dict[str, Any]) -> None:
    whole = matrix.read_matrix(ablations.MATRIX)
    jobs = plan(params, whole)
    assert [job.variant for job in jobs] == [BASELINE, *(variant.name for variant in whole.variants)]
    assert {variant.group for variant in whole.variants} == set(whole.groups)


def test_a_seed_sets_what_is_seeded_and_nothing_else(params: dict[str, Any]) -> None:
    first, *_, second, _, _ = plan(params, tiny(), seeds=(0, 7))
    assert (second.name, second.params["train"]["seed"], second.params["convert"]["seed"]) == ("baseline-seed7", 7, 7)
    assert second.params["prompts"] == first.params["prompts"]
    assert second.params["geneval"] == first.params["geneval"]


def test_settings_of_the_command_line_are_stronger_than_the_base_and_weaker_than_a_variant(
    params: dict[str, Any],
) -> None:
    jobs = plan(params, tiny(), settings={"train.num_steps": 6, "train.timesteps": "uniform"})
    assert [job.params["train"]["num_steps"] for job in jobs] == [6, 6, 6]
    assert [job.params["train"]["timesteps"] for job in jobs] == ["uniform", "official_1k", "logit_normal"]
    assert matrix.parse_setting("train.num_steps=6") == ("train.num_steps", 6)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"trian.num_steps": 1}, "no section `trian`"),
        ({"train.num_stepps": 1}, "unknown key `train.num_stepps`"),
        ({"train.num_steps": 0}, "`train.num_steps` = 0"),
        ({"convert.prediction": "velocity"}, "needs prediction `x0`"),
    ],
)
def test_an_override_that_params_yaml_does_not_take_is_refused_with_the_variants_name(
    params: dict[str, Any], overrides: dict[str, Any], said: str
) -> None:
    bad = tiny(variants=[{"group": "draw", "name": "bad", "overrides": overrides}])
    with pytest.raises(ConfigError, match="variant bad") as error:
        plan(params, bad)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ([{"group": "draw", "name": "a"}, {"group": "draw", "name": "a"}], "two variants are called 'a'"),
        ([{"group": "other", "name": "a"}], "not in `groups`"),
        ([{"group": "draw", "name": "a", "also_against": "b"}], "is no variant"),
        ([{"group": "draw", "name": "baseline"}], "name of the base itself"),
        ([{"group": "draw", "name": "a", "corpus": "photos"}], "variants.0.corpus"),
    ],
)
def test_a_matrix_whose_names_do_not_fit_together_is_refused(
    tmp_path: Path, variants: list[dict[str, Any]], said: str
) -> None:
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump({**TINY, "variants": variants}), encoding="utf-8")
    with pytest.raises(ConfigError, match=said):
        matrix.read_matrix(path)


def test_a_group_or_a_variant_is_chosen_with_what_it_is_compared_with() -> None:
    names = lambda *only: [variant.name for variant in matrix.select(tiny(), only)]  # noqa: E731
    assert names() == names("draw") == names("normal") == ["official", "normal"]
    assert names("official") == ["official"]
    assert names(BASELINE) == []
    with pytest.raises(ConfigError, match="--only nothing: no such group or variant"):
        names("nothing")


# stages


def keys(pipeline: list[stages.Stage], job: Job) -> dict[str, str]:
    return {
        name: each.key for name, each in stages.with_keys(stages.for_corpus(pipeline, job), job.params, ROOT).items()
    }


def test_variants_share_exactly_the_stages_that_do_not_depend_on_what_they_change(
    params: dict[str, Any], pipeline: list[stages.Stage]
) -> None:
    jobs = {job.variant: job for job in plan(params, matrix.read_matrix(ablations.MATRIX))}
    base = keys(pipeline, jobs[BASELINE])
    changed = {
        name: {stage for stage, key in keys(pipeline, job).items() if key != base[stage]} for name, job in jobs.items()
    }
    trained = {"train", "geneval@pixel", "dpg@pixel"}
    assert changed[BASELINE] == set()
    assert changed["official-1k"] == changed["blocks-2"] == trained
    assert changed["unet"] == trained | {"convert"}
    assert changed["renders"] == trained | {"convert", "synthesize", "validate"}
    assert changed["images-500"] == trained | {"convert", "synthesize", "validate", "prompts", "embed"}
    assert keys(pipeline, jobs["full"]) == keys(pipeline, jobs["blocks-3"])


def test_a_training_seed_shares_the_corpus_and_the_sources_scores(
    params: dict[str, Any], pipeline: list[stages.Stage]
) -> None:
    first, second = plan(params, tiny(variants=[]), seeds=(0, 1))
    old, new = keys(pipeline, first), keys(pipeline, second)
    assert {name for name in old if old[name] != new[name]} == {"convert", "train", "geneval@pixel", "dpg@pixel"}


def test_what_says_only_how_scores_are_computed_is_in_no_key(
    params: dict[str, Any], pipeline: list[stages.Stage]
) -> None:
    (job,) = plan(params, tiny(variants=[]))
    (other,) = plan(params, tiny(variants=[]), settings={"evaluation.judge_batch_size": 3, "register.name": "other"})
    assert keys(pipeline, job) == keys(pipeline, other)


def test_stages_come_after_those_that_they_need_and_only_those_that_scores_need(pipeline: list[stages.Stage]) -> None:
    names = [stage.name for stage in pipeline]
    assert all(names.index(needed) < names.index(stage.name) for stage in pipeline for needed in stage.upstream)
    assert not {"register", "report", "efficiency"} & set(names)
    assert next(stage.files for stage in pipeline if stage.name == "source") == ("sources/shapes",)


def python(code: str) -> str:
    return f'python -c "{code}"'


def chain(second: str) -> dict[str, stages.Keyed]:
    """Two stages: one writes `a/x`, the other runs `second`, which should write `b`."""
    write = python("import os; os.makedirs('a', exist_ok=True); open('a/x', 'a').write('1')")
    one = stages.Stage("one", write, ("train.num_steps",), (), ("a",), ())
    two = stages.Stage("two", second, (), (), ("b",), ("one",))
    return stages.with_keys([one, two], {"train": {"num_steps": 1}}, Path("/"))


def test_a_stage_runs_once_and_the_next_one_finds_what_it_wrote(tmp_path: Path) -> None:
    keyed = chain(python("open('b', 'w').write(open('a/x').read() + open('params.yaml').read())"))
    run = lambda name: stages.run_stage(name, keyed, {"k": 1}, root=ROOT, out=tmp_path)  # noqa: E731
    assert [run("one"), run("one"), run("two"), run("two")] == [True, False, True, False]
    assert (keyed["two"].folder(tmp_path) / "b").read_text() == "1k: 1\n"
    assert stages.seconds_of(keyed["one"], tmp_path) >= 0


def test_a_stage_that_failed_says_so_and_goes_on_in_its_folder(tmp_path: Path) -> None:
    first = "import os, sys; known = os.path.exists('half'); open('half', 'w'); "
    code = first + "known or sys.exit('error: no luck'); open('b', 'w')"
    keyed = chain(python(code))
    stages.run_stage("one", keyed, {}, root=ROOT, out=tmp_path)
    with pytest.raises(stages.StageFailed, match="two: error: no luck"):
        stages.run_stage("two", keyed, {}, root=ROOT, out=tmp_path)
    assert not keyed["two"].is_done(tmp_path)
    assert stages.run_stage("two", keyed, {}, root=ROOT, out=tmp_path)


def test_a_stage_that_wrote_nothing_is_not_finished(tmp_path: Path) -> None:
    keyed = chain(python("pass"))
    stages.run_stage("one", keyed, {}, root=ROOT, out=tmp_path)
    with pytest.raises(stages.StageFailed, match="two: ended without writing b"):
        stages.run_stage("two", keyed, {}, root=ROOT, out=tmp_path)


def test_a_stage_that_another_process_runs_is_waited_for(tmp_path: Path) -> None:
    keyed = chain(python("pass"))["one"]
    folder = keyed.folder(tmp_path)
    folder.mkdir(parents=True)
    done: list[bool] = []
    with (folder / stages.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(
            target=lambda: done.append(stages.run_stage("one", {"one": keyed}, {}, root=ROOT, out=tmp_path))
        )
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        write_json(folder / stages.DONE, {"seconds": 1.0})
    thread.join()
    assert done == [False]


# renders


def test_a_rendered_corpus_has_the_columns_of_a_drawn_one_and_passes_validation(workspace: Path) -> None:
    params = load_params()
    prompts = draw_prompts(params.prompts)
    write_prompts(prompts, Layout.prompts_table)
    assert renders.draw_corpus(prompts.table, params.synthesize) == len(prompts.table)
    before = pd.read_parquet(Layout.corpus_table)
    assert list(before.columns) == COLUMNS
    found = validate_corpus(Layout.corpus_table, params.validation, params.synthesize)
    assert found.result["success"], found.result
    assert len(found.accepted) == len(prompts.table)
    renders.draw_corpus(prompts.table, params.synthesize)
    assert before.equals(pd.read_parquet(Layout.corpus_table))


def test_the_renderer_refuses_another_size(workspace: Path) -> None:
    settings = load_params().synthesize.model_copy(update={"height_px": 128})
    with pytest.raises(ConfigError, match="64x64 pixels only"):
        renders.draw_corpus(pd.DataFrame({"prompt_id": [], "text": [], "style": []}), settings)


# figures


CARD = {
    "benchmark": "geneval",
    "protocol": "official",
    "prompts_sha256": "0",
    "first_seed": 0,
    "seed_formula": "",
    "images_per_prompt": 1,
    "height_px": 64,
    "width_px": 64,
    "judge": {"name": "shapes", "digest": "0"},
}


def write_project(folder: Path, *, right: int, of: int = 40, seed_of_card: int = 0) -> Path:
    """A finished variant whose first `right` of the prompts of each benchmark are drawn right; the source draws all."""
    for model, correct in (("source", of), ("pixel", right)):
        card = CARD | {"model": {"name": model, "digest": ""}, "first_seed": seed_of_card}
        rows = [{"filename": f"i/{n:05d}/samples/0.png", "tag": "colors", "correct": n < correct} for n in range(of)]
        place = folder / Layout.geneval / model
        write_json(place / geneval.SCORES, {"card": card})
        (place / geneval.RESULTS).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        answers = [{"item_id": f"p{n}", "tile": 0, "score": float(n < correct), "answers": None} for n in range(of)]
        place = folder / Layout.dpg / model
        write_json(place / dpg.SCORES, {"card": card | {"benchmark": "dpg", "protocol": "fixed"}})
        (place / dpg.ANSWERS).write_text("".join(json.dumps(row) + "\n" for row in answers), encoding="utf-8")
    write_json(folder / RESULT, {name: float(right) for name in COSTS})
    return folder


@pytest.fixture
def finished(tmp_path: Path) -> dict[str, dict[int, Path]]:
    return {
        BASELINE: {0: write_project(tmp_path / "b0", right=20), 1: write_project(tmp_path / "b1", right=20)},
        "worse": {0: write_project(tmp_path / "w0", right=4), 1: write_project(tmp_path / "w1", right=8)},
        "same": {0: write_project(tmp_path / "s0", right=20), 1: write_project(tmp_path / "s1", right=20)},
    }


def variants(*names: str, **more: Any) -> list[Variant]:
    return [Variant(group="draw", name=name, **more) for name in names]


def test_a_difference_is_that_of_the_scores_averaged_over_seeds(
    finished: dict[str, dict[int, Path]], tmp_path: Path
) -> None:
    baseline, worse, same = compare_all(variants("worse", "same"), finished, problems={}, out=tmp_path)
    figures = worse.figures["geneval"]
    assert figures.score == pytest.approx(0.15)
    assert figures.seed_range == pytest.approx((0.1, 0.2))
    assert figures.retention.value == pytest.approx(0.15)
    assert figures.difference is not None
    assert figures.difference.difference == pytest.approx(-0.35)
    low, high = figures.difference.difference_interval
    assert low < -0.35 < high < 0
    assert figures.beyond_chance
    assert worse.figures["dpg"].difference is not None
    assert worse.figures["dpg"].difference.difference == pytest.approx(-35)
    assert worse.costs["final_loss"] == 6
    assert baseline.figures["geneval"].difference is None
    assert same.figures["geneval"].difference is not None
    assert same.figures["geneval"].difference.difference_interval == (0, 0)
    assert not same.figures["geneval"].beyond_chance


def test_only_seeds_that_both_have_are_compared(finished: dict[str, dict[int, Path]], tmp_path: Path) -> None:
    del finished["worse"][1]
    _, worse = compare_all(variants("worse"), finished, problems={"worse": "seed 1: killed"}, out=tmp_path)
    assert worse.figures["geneval"].difference is not None
    assert worse.figures["geneval"].difference.difference == pytest.approx(-0.4)
    assert (worse.seeds, worse.problem) == ((0,), "seed 1: killed")


def test_a_variant_without_a_result_has_a_row_that_says_why(
    finished: dict[str, dict[int, Path]], tmp_path: Path
) -> None:
    rows = compare_all(variants("lost", "waiting"), finished, problems={"lost": "train: out of memory"}, out=tmp_path)
    assert [(row.variant, row.problem) for row in rows[1:]] == [
        ("lost", "train: out of memory"),
        ("waiting", "not finished"),
    ]


def test_a_variant_that_was_measured_otherwise_is_not_compared(
    finished: dict[str, dict[int, Path]], tmp_path: Path
) -> None:
    finished["other"] = {0: write_project(tmp_path / "o0", right=20, seed_of_card=5)}
    *_, other = compare_all(variants("other"), finished, problems={}, out=tmp_path)
    assert "differ in `first_seed`" in other.problem
    assert other.figures["geneval"].difference is None


def test_the_table_and_the_figure_are_written(finished: dict[str, dict[int, Path]], tmp_path: Path) -> None:
    chosen = [*variants("worse", "lost"), *variants("same", also_against="worse")]
    rows = compare_all(chosen, finished, problems={}, out=tmp_path)
    groups = {"draw": Group(question="Which levels?", baseline="uniform", note="A note.")}
    tables.write_all(rows, groups, tmp_path, heading="3 steps")
    text = (tmp_path / tables.MARKDOWN).read_text(encoding="utf-8")
    assert "## Which levels?" in text
    assert "| baseline: uniform | 0.500 (" in text
    assert re.search(r"\| worse \|.*\| -0\.350 \(-0\.\d+ to -0\.\d+\) \* \|", text)
    assert "| same against worse |" in text
    assert "| lost | not finished |" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("---", "-").count("|") for line in lines}) == 1
    with (tmp_path / tables.CSV).open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert [(row["variant"], row["against"]) for row in table] == [
        ("baseline", ""),
        ("worse", "baseline"),
        ("lost", "baseline"),
        ("same", "baseline"),
        ("same", "worse"),
    ]
    assert table[1]["geneval_beyond_chance"] == "True"
    assert (tmp_path / tables.FIGURE).read_bytes().startswith(b"\x89PNG")


def test_a_figure_without_a_row_can_be_drawn(tmp_path: Path) -> None:
    tables.write_figure([Row("", BASELINE)], {}, tmp_path / "f.png")
    assert (tmp_path / "f.png").is_file()


# the command


@pytest.mark.parametrize("module", ["ablations", "ablation_renders"])
def test_it_begins_with_the_command_that_runs_it(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{module}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"python -m bench.{module}" in done.stdout


def test_a_list_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablations.main(["--out", str(tmp_path), "--only", "blocks", "--seeds", "0", "1", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [
        f"{name}-seed{seed}" for seed in (0, 1) for name in ("baseline", "blocks-2", "blocks-3")
    ]
    assert not list(tmp_path.iterdir())


def test_a_mistake_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablations.main(["--out", str(tmp_path), "--set", "train.num_steps"]) == ablations.USER_MISTAKE
    assert capsys.readouterr().err == "error: --set train.num_steps: expected KEY=VALUE, such as train.num_steps=100.\n"


# Imports nothing heavy: it is started a dozen times.
FAKE = """import pathlib, shutil, sys
here, params = pathlib.Path(__file__).parent, pathlib.Path('params.yaml').read_text()
if sys.argv[1] == 'train' and 'logit_normal' in params and not (here / 'mended').exists():
    sys.exit('error: not this one')
done = 'trained' if sys.argv[1] == 'train' else 'better' if 'official_1k' in params else 'plain'
shutil.copytree(here / done / 'reports', 'reports', dirs_exist_ok=True)
"""


@pytest.fixture
def fake_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline of two stages that write in a moment what the real ones write."""
    figures = ("seconds", "final_loss", "trainable_parameters", "images_per_s", "peak_memory_mb")
    write_json(tmp_path / "trained" / Layout.training / "result.json", dict.fromkeys(figures, 1.0))
    write_project(tmp_path / "better", right=30)
    write_project(tmp_path / "plain", right=20)
    script = tmp_path / "fake.py"
    script.write_text(FAKE, encoding="utf-8")
    scores = tuple(str(folder / model) for folder in (Layout.geneval, Layout.dpg) for model in ("source", "pixel"))
    fakes = [
        stages.Stage("train", f"python {script} train", ("train",), (), (str(Layout.training / "result.json"),), ()),
        stages.Stage("score", f"python {script} score", (), (), scores, ("train",)),
    ]
    monkeypatch.setattr(ablations, "read_pipeline", lambda root: fakes)


def test_a_failed_variant_is_noted_the_others_go_on_and_the_next_run_does_the_rest(
    fake_pipeline: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    out = tmp_path / "out"
    command = ["--out", str(out), "--matrix", str(tmp_path / "matrix.yaml")]
    assert ablations.main(command) == ablations.SOME_FAILED
    said = capsys.readouterr().out
    assert "| official | 0.750" in said
    assert "| normal | seed 0: train: error: not this one" in said
    results = {path: path.stat().st_mtime_ns for path in out.glob(f"*/{RESULT}")}
    assert {path.parent.name for path in results} == {"baseline-seed0", "official-seed0"}

    (tmp_path / "mended").touch()
    assert ablations.main(command) == 0
    said = capsys.readouterr().out
    assert "normal-seed0: train" in said
    assert "baseline-seed0: train" not in said
    assert all(path.stat().st_mtime_ns == written for path, written in results.items())

    assert ablations.main([*command, "--steps", "5"]) == 0  # other numbers: nothing of the old can be used
    assert "baseline-seed0: train" in capsys.readouterr().out


def test_the_project_of_a_variant_has_its_parameters_and_what_the_stages_wrote(
    fake_pipeline: None, tmp_path: Path
) -> None:
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    out = tmp_path / "out"
    assert ablations.main(["--out", str(out), "--matrix", str(tmp_path / "matrix.yaml"), "--only", "official"]) == 0
    project = out / "official-seed0"
    params = Params.model_validate(matrix.read_yaml(project / "params.yaml"))
    assert params.train.timesteps == "official_1k"
    assert Path(params.source.path).is_dir()
    assert (project / Layout.geneval / "pixel" / geneval.RESULTS).is_file()
    moved = out.rename(tmp_path / "moved")
    assert (moved / "official-seed0" / Layout.geneval / "pixel" / geneval.RESULTS).is_file()
