"""Owns keeping secrets out of what is written and told: credentials in addresses, and secrets of the environment.

A secret of the environment is the value of a variable whose name says so (`..._API_KEY`, `MLFLOW_TRACKING_PASSWORD`),
or that `also` names, such as `prompts.llm.api_key_env`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "***"

_MIN_SECRET_CHARS = 6  # a shorter value is in too many words to be taken out of a text
_SECRET_NAME = re.compile(
    r"(?i)(?:^|_)(password|passwd|secret|token|credentials?|api_?key|access_?key)(?:_|$)|PGPASSWORD"
)
_USERINFO = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@?#'\"]+@")
_QUERY = re.compile(
    r"(?i)(?P<name>[?&;](?:[\w-]*(?:token|password|secret|signature|credential|api_?key|access_?key)|sig)=)[^&\s;'\"]+"
)


def redact(text: str, *, also: Iterable[str] = ()) -> str:
    """`text` with `***` for user and password in addresses, secret query fields, and secrets of the environment.

    Args:
        text: any.
        also: names of environment variables that hold secrets whatever they are called.
    """
    text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _QUERY.sub(rf"\g<name>{HIDDEN}", text)
    for secret in _secrets(also):
        text = text.replace(secret, HIDDEN)
    return text


def redact_values(value: Any, *, also: Iterable[str] = ()) -> Any:
    """The same of every text in nested mappings and lists."""
    if isinstance(value, str):
        return redact(value, also=also)
    if isinstance(value, Mapping):
        return {name: redact_values(inner, also=also) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(inner, also=also) for inner in value]
    return value


def _secrets(also: Iterable[str]) -> list[str]:
    """Longest first, so that a secret that contains another one goes whole."""
    names = {name for name in os.environ if _SECRET_NAME.search(name)} | set(also)
    values = {os.environ.get(name, "") for name in names}
    return sorted((value for value in values if len(value) >= _MIN_SECRET_CHARS), key=len, reverse=True)
