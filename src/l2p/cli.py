"""Owns the command line: `l2p COMMAND`, its environment, and how a user's mistake is told (one line, exit code 2).

Nothing heavy is imported here: each command imports what it runs.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from l2p import __version__
from l2p.commands import doctor, explain, generate, models, stages, summary
from l2p.config import PARAMS_FILE
from l2p.errors import L2PError

USER_MISTAKE = 2
INTERRUPTED = 130

# What third parties report home, and settings that only differ from their defaults in being quiet.
ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "TOKENIZERS_PARALLELISM": "false",
}
# Loggers whose INFO lines a user of l2p cannot act on; their warnings that mean something still come through.
QUIET_LOGGERS = ("alembic", "great_expectations", "matplotlib", "mlflow", "torch.distributed", "DeepSpeed", "deepspeed")
# (category, module): warnings about a library's own future, seen by its users only because Python shows them.
QUIET_WARNINGS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)

# OSErrors that are the machine's state and not our fault: what to say of each.
_OS_PROBLEMS = {
    errno.ENOSPC: "the disk is full; free some space (`l2p doctor` shows how much there is) and run the command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    errno.EACCES: "no permission; check the owner and mode of the file",
    errno.EPERM: "no permission; check the owner and mode of the file",
    errno.EROFS: "the file system is read-only; run in a writable folder",
    errno.EMFILE: "too many open files; raise the limit with `ulimit -n 4096`",
}

app = typer.Typer(
    name="l2p",
    help="Turn a latent diffusion transformer into a pixel model without a VAE, as a reproducible pipeline.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    params: Annotated[Path, typer.Option(help="File with every number of the pipeline.")] = PARAMS_FILE,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    context.obj = params
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


stages.add_to(app)
for module in (generate, models, summary, explain, doctor):
    module.add_to(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 for a user's mistake, 130 when interrupted."""
    _set_environment()
    try:
        sys.exit(app(arguments, prog_name="l2p", standalone_mode=False) or 0)
    except L2PError as error:
        _fail(str(error))
    except typer.TyperException as error:
        _fail(f"{error.format_message().rstrip('.')}. See `l2p --help`.")
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except OSError as error:
        if error.errno not in _OS_PROBLEMS:
            raise
        _fail(f"{error.filename or 'writing'}: {_OS_PROBLEMS[error.errno]}.")


def _fail(message: str) -> None:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(USER_MISTAKE)


def _set_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for logger in QUIET_LOGGERS:
        logging.getLogger(logger).setLevel(logging.WARNING)
    if not sys.warnoptions:
        for category in QUIET_WARNINGS:
            warnings.simplefilter("ignore", category)


if __name__ == "__main__":
    main()
