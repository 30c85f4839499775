"""Owns that a stage does not outlive the DVC that runs it: one killed outright leaves its stage behind, still writing.

DVC would start the stage a second time beside it, as its own lock dies with it.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress

import psutil

from l2p.errors import L2PError

STAGE_OF_DVC = "DVC_STAGE"  # a variable that DVC sets for the command of a stage

_LOOK_EVERY_S = 0.5
_RUNS_DVC = ("python", "dvc")


def die_with_dvc() -> None:
    """If DVC runs this process, end it soon after DVC ends, however that ends.

    Raises:
        L2PError: DVC has ended already.
    """
    if STAGE_OF_DVC not in os.environ:
        return
    dvc = _above()
    if dvc is None:
        raise L2PError("the DVC that started this stage has ended, so the stage does not start. Run `dvc repro` again.")

    def watch() -> None:
        while _runs(dvc):
            time.sleep(_LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()


def _above() -> psutil.Process | None:
    """The process above this one that DVC's variable does not reach, which is DVC; None when that has ended."""
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            if STAGE_OF_DVC not in process.environ():
                return process if any(name in process.name() for name in _RUNS_DVC) else None
    return None


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
