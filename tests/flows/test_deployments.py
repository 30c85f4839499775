from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.events.schemas.automations import EventTrigger
from prefect.flows import Flow
from prefect.utilities.callables import parameter_schema

from flows import ENVIRONMENT, HEARTBEAT_S
from flows.deploying import heartbeat_automation
from flows.forms import NO_PRESET, preset_choices, target_choices
from flows.services import POOL
from l2p.presets import list_presets
from tests.conftest import ROOT

PREFECT_FILE = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS: dict[str, Any] = {each["name"]: each for each in PREFECT_FILE["deployments"]}


def load_flow(name: str) -> Flow[..., Any]:
    path, _, function = DEPLOYMENTS[name]["entrypoint"].partition(":")
    found = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), function)
    assert isinstance(found, Flow)
    return found


@pytest.mark.parametrize("name", ["conversion", "evaluation", "promotion"])
def test_each_flow_is_deployed_under_its_own_name_one_at_a_time(name: str) -> None:
    assert load_flow(name).name == name
    assert DEPLOYMENTS[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
    assert DEPLOYMENTS[name]["work_pool"]["name"] == POOL


def test_the_nightly_conversion_waits_to_be_switched_on_and_the_weekly_evaluation_does_not() -> None:
    (nightly,), (weekly,) = DEPLOYMENTS["conversion"]["schedules"], DEPLOYMENTS["evaluation"]["schedules"]
    assert (nightly["cron"], nightly["active"]) == ("0 2 * * *", False)
    assert (weekly["cron"], weekly["active"]) == ("0 4 * * 1", True)
    assert DEPLOYMENTS["promotion"]["schedules"] == []


def test_the_form_of_the_conversion_offers_presets_and_stages_of_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    fields = parameter_schema(load_flow("conversion")).properties
    assert list(fields) == ["preset", "overrides", "target", "force", "root"]
    assert fields["preset"]["enum"] == [NO_PRESET, *list_presets(ROOT / "presets")]
    assert {"all", "train", "geneval", "geneval@pixel"} <= set(fields["target"]["enum"])
    assert [fields[name]["type"] for name in fields] == ["string", "array", "string", "boolean", "string"]
    assert all(fields[name]["description"] for name in fields)


def test_outside_of_a_project_a_form_offers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert preset_choices() == [NO_PRESET]
    assert target_choices() == []


def test_a_run_that_is_silent_for_three_heartbeats_is_marked_crashed() -> None:
    automation = heartbeat_automation()
    assert isinstance(automation.trigger, EventTrigger)
    assert automation.trigger.within.total_seconds() == 3 * HEARTBEAT_S == 90
    assert setting("flows.heartbeat_frequency") == str(HEARTBEAT_S)


def test_telemetry_of_every_tool_is_off() -> None:
    switched_off = {name: value for name, value in ENVIRONMENT.items() if value in ("0", "1", "false", "true")}
    assert switched_off == {
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    assert setting("server.analytics_enabled") == "False"


def setting(name: str) -> str:
    """What Prefect makes of our environment, in a process that a user starts."""
    code = f"import flows, prefect.settings; print(prefect.settings.get_current_settings().{name})"
    own = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    return subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=own, text=True).strip()
