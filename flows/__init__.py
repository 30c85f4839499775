"""Owns the Prefect flows: order, retries and schedule of what dvc.yaml defines, and nothing else.

Prefect reports usage from the moment it is imported, and its workers import flows without asking us first, so this
package is the one place where an import sets the environment: telemetry off, unless the user has said otherwise.
"""

from __future__ import annotations

import os

_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Without a server, Prefect starts one for the flow; a busy small machine needs longer than the default 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}

for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
