from __future__ import annotations

import os
import subprocess
import sys

from flows.leftovers import running_ids
from tests.flows.test_process import wait_for


def test_a_run_lives_as_long_as_its_process_does() -> None:
    # stands for `python -m prefect.engine`, which would ask a server for its run
    command = [sys.executable, "-c", "import time; time.sleep(300)", "prefect.engine"]
    process = subprocess.Popen(command, env=os.environ | {"PREFECT__FLOW_RUN_ID": "a-run"})
    try:
        wait_for(lambda: "a-run" in running_ids())
    finally:
        process.kill()
        process.wait()
    assert "a-run" not in running_ids()


def test_the_stages_of_a_run_inherit_its_id_and_do_not_keep_it_alive() -> None:
    process = subprocess.Popen(["sleep", "300"], env=os.environ | {"PREFECT__FLOW_RUN_ID": "another-run"})
    try:
        assert "another-run" not in running_ids()
    finally:
        process.kill()
        process.wait()
