"""Owns how long a device was busy with a model: each run of a stage adds a line to reports/usage.jsonl.

A line counts for a model while the inputs of its stage are those of the model's (`key`), so that an interrupted
synthesis and its resumption count together and an earlier model's does not. Training is not taken from there: it keeps
its own time over interruptions (reports/training/result.json). A stage that is killed outright leaves no line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from l2p.config import Layout, Params
from l2p.files import read_json, sha256_json

TRAINING = "train"

# Stages whose time is counted -> the sections of params.yaml that decide what they make.
_SECTIONS = {
    "synthesize": ("source", "prompts", "synthesize"),
    "geneval": ("source", "geneval", "sampling"),
    "dpg": ("source", "dpg", "sampling"),
}
_SECONDS_PER_HOUR = 3600


@contextmanager
def record_use(stage: str, params: Params, **options: Any) -> Iterator[None]:
    """Add a line on the block when it ends, also when it fails; nothing for a stage that is not counted."""
    if stage not in _SECTIONS:
        yield
        return
    began, key = time.monotonic(), _key(stage, params, options)
    try:
        yield
    finally:
        line = {
            "stage": _name(stage, options),
            "key": key,
            "seconds": round(time.monotonic() - began, 1),
            "device": _device(),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        Layout.usage.parent.mkdir(parents=True, exist_ok=True)
        with Layout.usage.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def device_hours(params: Params) -> dict[str, float]:
    """{stage: hours} of a device for `models/pixel` as far as recorded, with their `total`."""
    hours: dict[str, float] = {}
    result = Layout.training / "result.json"
    if result.is_file():
        found = read_json(result, written_by="l2p train")
        hours[TRAINING] = found["seconds"] * found.get("num_processes", 1) / _SECONDS_PER_HOUR
    keys = {_key("synthesize", params, {})}
    keys |= {_key(stage, params, {"model": model}) for stage in ("geneval", "dpg") for model in ("source", "pixel")}
    for line in _lines():
        if line["key"] in keys:
            hours[line["stage"]] = hours.get(line["stage"], 0.0) + line["seconds"] / _SECONDS_PER_HOUR
    return {name: round(value, 6) for name, value in hours.items()} | {"total": round(sum(hours.values()), 6)}


def _key(stage: str, params: Params, options: dict[str, Any]) -> str:
    values = params.model_dump(mode="json", by_alias=True, include=set(_SECTIONS[stage]))
    model = options.get("model")
    weights = Layout.pixel / "delta.json"
    if model == "pixel" and weights.is_file():
        values["weights"] = read_json(weights, written_by="l2p train")["weights_sha256"]
    return sha256_json([stage, model, values])


def _name(stage: str, options: dict[str, Any]) -> str:
    return f"{stage}-{options['model']}" if "model" in options else stage


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(0))
    return "cpu"


def _lines() -> Iterator[dict[str, Any]]:
    """Readable lines; one torn by a full disk is left out."""
    for line in Layout.usage.read_text(encoding="utf-8").splitlines() if Layout.usage.is_file() else ():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict) and {"stage", "key", "seconds"} <= found.keys():
            yield found
