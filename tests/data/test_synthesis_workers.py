"""Several workers draw what one would; the death of any of them, or of their parent, leaves neither hole nor double."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from l2p.data.journal import read_journal
from l2p.data.synthesis.painter import SourceSettings
from l2p.data.synthesis.planning import form_batches, plan_images
from l2p.data.synthesis.processes import ProcessCrew
from l2p.data.synthesis.worker import Job
from l2p.errors import ConfigError, DataError
from l2p.models.source import SourcePin, pin_source
from tests.conftest import ROOT
from tests.data.synthesis_project import Project, settings

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray.*")


@pytest.fixture(scope="module")
def pin(tiny_source: Path) -> SourcePin:
    return pin_source(str(tiny_source))


@pytest.fixture(scope="module")
def finished(pin: SourcePin, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Drawn by one worker, in batches of one; do not write into it."""
    project = Project(tmp_path_factory.mktemp("finished"), pin).embed()
    project.draw(batch_size=1)
    return project


@pytest.fixture
def empty(finished: Project, tmp_path: Path) -> Project:
    return finished.without_corpus(tmp_path)


def job(project: Project) -> Job:
    source = SourceSettings(project.pin, "float32", None, False)
    return Job(source, project.corpus, project.places.embeddings, threads=1)


def batches(project: Project, size: int = 1) -> list:
    return form_batches(plan_images(project.prompts, settings(), project.pin.digest), size)


def test_two_processes_draw_the_corpus_of_one(finished: Project, empty: Project):
    assert empty.draw(batch_size=1, num_workers=2).drawn == 8
    assert empty.contents() == finished.contents()


def test_a_process_that_is_killed_is_told_of_and_the_other_draws_its_batches(
    finished: Project, empty: Project, capsys: pytest.CaptureFixture[str]
):
    empty.corpus.mkdir()
    with ProcessCrew(job(empty), 2) as crew:
        drawing = crew.draw(batches(empty))
        drawn = [next(drawing)]
        os.kill(crew.pids()[1], signal.SIGKILL)
        drawn.extend(drawing)
    names = [name for each in drawn for name in each.sha256]
    assert sorted(names) == sorted(finished.table()["file_name"])
    told = capsys.readouterr().err
    assert "worker 1 (killed by SIGKILL) died" in told
    empty.draw(batch_size=1)
    assert empty.contents() == finished.contents()


@pytest.mark.slow
def test_when_no_process_is_left_the_end_of_the_log_is_told_and_what_was_drawn_is_kept(empty: Project):
    empty.corpus.mkdir()
    with ProcessCrew(job(empty), 2) as crew:
        drawing = crew.draw(batches(empty))
        next(drawing)
        for pid in crew.pids():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"(no worker is left|two workers died of the batch).*SIGKILL.*is kept"):
            list(drawing)
    assert read_journal(empty.corpus)


@pytest.mark.slow
def test_a_killed_parent_takes_its_workers_along_and_the_next_run_goes_on(finished: Project, empty: Project):
    empty.pin.save(empty.folder / "source.json")
    code = (
        "import sys; sys.path[:0] = sys.argv[2:4]\n"
        "from pathlib import Path\n"
        "from l2p.models.source import SourcePin\n"
        "from tests.data.synthesis_project import Project\n"
        "folder = Path(sys.argv[1])\n"
        "Project(folder, SourcePin.load(folder / 'source.json')).draw(batch_size=1, num_workers=2)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(empty.folder), str(ROOT / "src"), str(ROOT)])
    while not list(empty.corpus.glob("journal.*.jsonl")):
        assert parent.poll() is None
        time.sleep(0.01)
    children = _children(parent.pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert len(children) >= 2
    until = time.monotonic() + 20
    while any(_alive(pid) for pid in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [pid for pid in children if _alive(pid)]
    done = empty.draw(batch_size=1)
    assert done.kept >= 1
    assert empty.contents() == finished.contents()


@pytest.mark.slow
def test_a_worker_that_cannot_load_its_source_says_so(empty: Project):
    empty.pin = SourcePin(**{**vars(empty.pin), "files": {**empty.pin.files, "vae/config.json": "0" * 64}})
    with pytest.raises(Exception, match=r"vae/config\.json: differs from the pin"):
        empty.draw(batch_size=1, num_workers=2)


@pytest.fixture(scope="module")
def ray_of_two():
    """A local Ray of two CPUs; the package is importable there."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'l2p[ray]'")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else a busy machine lets them starve
    environment = {"env_vars": {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}}
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, runtime_env=environment)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_two_workers_of_ray_of_which_one_is_killed_draw_the_corpus_of_one(
    ray_of_two, finished: Project, empty: Project, capsys: pytest.CaptureFixture[str]
):
    from l2p.data.synthesis.ray_workers import RayCrew

    empty.corpus.mkdir()
    with RayCrew(job(empty), 2) as crew:
        drawing = crew.draw(batches(empty))
        drawn = [next(drawing)]
        os.kill(crew.pids()[0], signal.SIGKILL)
        drawn.extend(drawing)
    assert sorted(name for each in drawn for name in each.sha256) == sorted(finished.table()["file_name"])
    assert "Ray worker 0 died" in capsys.readouterr().err
    empty.draw(batch_size=1)
    assert empty.contents() == finished.contents()


@pytest.mark.slow
def test_the_engine_ray_draws_the_corpus_of_one_process(ray_of_two, finished: Project, empty: Project):
    empty.draw(batch_size=1, engine="ray", num_workers=2)
    assert empty.contents() == finished.contents()


@pytest.mark.slow
def test_more_workers_than_the_cluster_can_hold_are_refused(ray_of_two, empty: Project):
    with pytest.raises(ConfigError, match=r"synthesize\.num_workers = 9: the Ray cluster has 2 CPUs.*at most 4"):
        empty.draw(engine="ray", num_workers=9)


def test_without_ray_the_extra_is_named(empty: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"engine = 'ray': Ray is not installed\. Run `pip install 'l2p\[ray\]'`"):
        empty.draw(engine="ray")


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
