"""Owns what third parties may say: no telemetry, no warnings about their own future, no bars in a log file.

Only what a user of l2p cannot act on is silenced; our own warnings always come through. Entry points call it; nothing
happens at import.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

_ENVIRONMENT = {
    # telemetry off
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # a warning about forks each time otherwise
    "TOKENIZERS_PARALLELISM": "false",
    # they warn about their own classes; errors still show
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
_QUIET_LOGGERS = ("alembic", "great_expectations", "matplotlib", "mlflow")
_QUIET_WARNINGS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
# Said at every start on a machine without GPU, by a logger that sets its own level.
_NO_NEWS = {"DeepSpeed": "Setting accelerator to CPU"}


class _Without(logging.Filter):
    """Drops records below WARNING, and those that contain a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to keep the record."""
        return record.levelno >= logging.WARNING and self._text not in record.getMessage()


def quiet_third_parties() -> None:
    """Set environment, log levels and warning filters of this process and, by its environment, of its children."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read by tqdm where the caller does not say `disable` himself
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)  # at the handler: some libraries set the levels of their loggers themselves
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name, text in _NO_NEWS.items():
        logging.getLogger(name).addFilter(_Without(text))
    if not sys.warnoptions:
        for category in _QUIET_WARNINGS:
            warnings.simplefilter("ignore", category)
