"""What third parties may say, and that our own warnings always come through."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import logging, os, warnings
before = dict(os.environ)
import l2p.cli, l2p.quiet
assert dict(os.environ) == before, "importing changes the environment"
l2p.quiet.quiet_third_parties()
logging.getLogger("l2p.registry.tracking").warning("ours")
library = logging.getLogger("great_expectations.data_context")
library.setLevel(logging.INFO)
library.info("noise of a library")
logging.getLogger("DeepSpeed").warning("Setting accelerator to CPU. If you have GPU ...")
logging.getLogger("DeepSpeed").warning("something that matters")
warnings.warn("will be removed", FutureWarning)
print(os.environ["MLFLOW_DISABLE_TELEMETRY"], os.environ["DO_NOT_TRACK"])
"""


def test_only_what_a_user_can_act_on_is_said() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DO_NOT_TRACK": "0"}
    environment.pop("MLFLOW_DISABLE_TELEMETRY", None)
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["ours", "something that matters"]
    assert done.stdout.split() == ["true", "0"], "a user's own setting was overwritten"
