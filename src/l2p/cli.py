"""Owns the command line: `l2p COMMAND`, its environment, and how a user's mistake is told (one line, exit code 2).

Nothing heavy is imported here: each command imports what it runs.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated

import typer

from l2p import __version__
from l2p.commands import (
    benchmarks,
    compare,
    corpus,
    distance,
    doctor,
    evaluate,
    explain,
    formats,
    generate,
    models,
    preset,
    reproduce,
    serve,
    sources,
    stages,
    summary,
)
from l2p.config import PARAMS_FILE
from l2p.errors import L2PError
from l2p.quiet import quiet_third_parties
from l2p.redact import redact

USER_MISTAKE = 2
INTERRUPTED = 130

# OSErrors that are the machine's state and not our fault: what to say of each.
_OS_PROBLEMS = {
    errno.ENOSPC: "the disk is full; free some space (`l2p doctor` shows how much there is) and run the command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    errno.EACCES: "no permission; check the owner and mode of the file",
    errno.EPERM: "no permission; check the owner and mode of the file",
    errno.EROFS: "the file system is read-only; run in a writable folder",
    errno.EEXIST: "a file is where a folder should be; move it away",
    errno.ENOTDIR: "a file is where a folder should be; move it away",
    errno.EISDIR: "a folder is where a file should be; move it away",
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
for module in (
    generate,
    evaluate,
    compare,
    distance,
    benchmarks,
    corpus,
    formats,
    models,
    serve,
    reproduce,
    summary,
    explain,
    sources,
    preset,
    doctor,
):
    module.add_to(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 for a user's mistake, 130 when interrupted."""
    quiet_third_parties()
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
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{_OS_PROBLEMS[error.errno]}.")


def _fail(message: str) -> None:
    typer.echo(f"error: {redact(' '.join(message.split()))}", err=True)
    sys.exit(USER_MISTAKE)


if __name__ == "__main__":
    main()
