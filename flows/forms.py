"""Owns what the UI's form of a flow offers: the project's presets and stages, as they are when it is deployed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

from flows.graph import read_graph
from l2p.presets import FOLDER, list_presets

NO_PRESET = "none"
ALL_STAGES = "all"


class OneOf:
    """Annotates a text that is one of several in a form; the flow itself says what it does not know.

    Asked when the schema is made (a deployment is created in the folder of its project), not on import.
    """

    def __init__(self, names: Callable[[], Sequence[str]]) -> None:
        """`names` lists what there is."""
        self._names = names

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The text's schema with its choices, if there are any."""
        names = list(self._names())
        return handler(core) | ({"enum": names} if names else {})


def preset_choices() -> list[str]:
    """Presets of the project in the working directory, and none."""
    return [NO_PRESET, *(list_presets(FOLDER) if any(FOLDER.glob("*.yaml")) else ())]


def target_choices() -> list[str]:
    """Stages of the project in the working directory, groups such as `geneval` too, and all; nothing outside one."""
    if not Path("dvc.yaml").is_file():
        return []
    names = dict.fromkeys(name for node in read_graph(Path()) for name in (node.group, node.name))
    return [ALL_STAGES, *names]


PresetName = Annotated[str, OneOf(preset_choices)]
TargetName = Annotated[str, OneOf(target_choices)]
