"""Owns how a flow ends as a command: one line for a user's mistake, exit codes, and no server left behind."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from flows.process import StageFailedError
from l2p.errors import L2PError

FAILED, USER_MISTAKE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


@contextmanager
def run_as_command() -> Iterator[None]:
    """Turn what ends the block into a line and an exit code: 1 a failed stage, 2 a mistake, 130 and 143 a signal."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except StageFailedError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(FAILED)
    except L2PError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(USER_MISTAKE)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """End as Python ends, so that the temporary server is stopped too; a bare SIGTERM would leave it behind."""
    sys.exit(TERMINATED)
