"""Owns the exception tree. Messages name the file or field, what was found, what was expected and the next step."""

from __future__ import annotations


class L2PError(Exception):
    """Base of all errors of this package. The command line prints its message on one line and exits with code 2."""


class ConfigError(L2PError):
    """params.yaml holds an unknown key or an impossible value."""


class MissingFileError(L2PError):
    """A file or folder that a stage reads is not there; the message names the stage that writes it."""


class DataError(L2PError):
    """Prompts, images or tables are damaged or contradict each other."""


class SourceError(L2PError):
    """The source model is not what was pinned, not supported, or not loadable."""


class ModelError(L2PError):
    """Weights and configuration of a pixel model do not fit together."""


class TrainingError(L2PError):
    """Training cannot go on: contradictory settings, a damaged checkpoint, a loss that is not finite."""


class EvaluationError(L2PError):
    """A benchmark file, a judge or too many failed images make a score impossible."""


class LineageError(L2PError):
    """Lineage cannot be computed, or does not match what is registered."""


class RegistryError(L2PError):
    """The model registry refuses or cannot be reached."""
