"""Owns that no training process outlives the one that started it."""

from __future__ import annotations

import os
import threading
import time

_LOOK_EVERY_S = 0.5


def die_with_parent() -> None:
    """End this process soon after its parent ends: a launcher that is killed outright cannot stop what it started."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="lifeline").start()
