"""Owns the Prefect flows: order, retries and schedule of what dvc.yaml defines, and nothing else.

Prefect reports usage from the moment it is imported, and its workers import flows without asking us first, so this
package is the one place where an import sets the environment: telemetry of every tool off, unless the user has said
otherwise.
"""

from __future__ import annotations

import os

# A flow run shows as Crashed when it was not heard of for three heartbeats; thirty is the shortest that Prefect takes.
HEARTBEAT_S = 30
HEARTBEATS_MISSED = 3

ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
    # Without a server, Prefect starts one for the flow; a busy small machine needs longer than the default 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}

for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)
