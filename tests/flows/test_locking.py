from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from flows.locking import project_lock
from tests.conftest import ROOT
from tests.flows.test_process import wait_for

HOLDER = """
import sys, time
from pathlib import Path
from flows.locking import project_lock
with project_lock(Path(sys.argv[1]), "conversion", holder="flow run first", say=print):
    print("held", flush=True)
    time.sleep(300)
"""


def start_holder(root: Path) -> subprocess.Popen[str]:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(root)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_second_flow_waits_says_for_whom_and_goes_on_when_the_first_was_killed(tmp_path: Path) -> None:
    said: list[str] = []
    got = threading.Event()

    def second() -> None:
        with project_lock(tmp_path, "conversion", holder="flow run second", say=said.append):
            got.set()

    with start_holder(tmp_path) as holder:
        thread = threading.Thread(target=second)
        thread.start()
        wait_for(lambda: bool(said))
        assert not got.is_set()
        holder.kill()
        holder.wait()
        assert got.wait(30)
        thread.join()
    (line,) = said
    assert line.startswith(f"waiting: this project has a conversion already, flow run first (process {holder.pid} on ")


def test_a_process_that_was_handed_the_lock_holds_it_on(tmp_path: Path) -> None:
    said: list[str] = []
    with project_lock(tmp_path, "conversion", holder="first", say=said.append) as lock:
        stage = subprocess.Popen(["sleep", "300"], pass_fds=(lock,))
    try:
        waiting = threading.Thread(target=_take, args=(tmp_path, said))
        waiting.start()
        wait_for(lambda: bool(said))
        assert waiting.is_alive()
    finally:
        stage.kill()
        stage.wait()
    waiting.join(30)
    assert not waiting.is_alive()


def _take(root: Path, said: list[str]) -> None:
    with project_lock(root, "conversion", holder="second", say=said.append):
        pass


def test_projects_and_kinds_of_flows_do_not_wait_for_each_other(tmp_path: Path) -> None:
    said: list[str] = []
    with (
        project_lock(tmp_path / "one", "conversion", holder="a", say=said.append),
        project_lock(tmp_path / "two", "conversion", holder="b", say=said.append),
        project_lock(tmp_path / "one", "evaluation", holder="c", say=said.append),
    ):
        pass
    assert said == []
