"""Owns the pipeline as DVC sees it: its stages, in an order in which each comes after those that it needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from l2p.errors import ConfigError

_ROOT_FILE = "dvc.yaml"


@dataclass(frozen=True)
class StageNode:
    """One stage of dvc.yaml; of a matrix or foreach, one of its instances.

    `name` is what `dvc repro` takes ("train", "geneval@source"), `upstream` names the stages that it needs directly,
    `outputs` are its files and folders, relative to the project.
    """

    name: str
    upstream: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def group(self) -> str:
        """Name in dvc.yaml: "geneval" of "geneval@source"."""
        return self.name.partition("@")[0]


def read_graph(root: Path) -> list[StageNode]:
    """All stages with a command, in an order in which they can run; what may run at the same time is in file order.

    Raises:
        ConfigError: no DVC project, or a dvc.yaml that DVC does not take.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            graph, stages = repo.index.graph, [stage for stage in repo.index.stages if stage.cmd]
            names = {stage: _name(stage) for stage in stages}
            nodes = [
                StageNode(
                    name=names[stage],
                    upstream=tuple(sorted(names[needed] for needed in graph.successors(stage) if needed in names)),
                    outputs=tuple(Path(out.fs_path).relative_to(repo.root_dir).as_posix() for out in stage.outs),
                )
                for stage in stages
            ]
    except NotDvcRepoError as error:
        raise ConfigError(
            f"{root.resolve()}: no DVC project. Run in the root of one, or `git init && dvc init`."
        ) from error
    except DvcException as error:
        raise ConfigError(f"{root / 'dvc.yaml'}: {' '.join(str(error).split())}") from error
    return in_order(nodes)


def in_order(nodes: Iterable[StageNode]) -> list[StageNode]:
    """Sort stages so that each comes after its upstream; stages of the same depth keep their order."""
    by_name = {node.name: node for node in nodes}
    sorter = TopologicalSorter({name: node.upstream for name, node in by_name.items()})
    sorter.prepare()
    ordered: list[StageNode] = []
    while sorter.is_active():
        ready = set(sorter.get_ready())
        ordered += [node for name, node in by_name.items() if name in ready]
        sorter.done(*ready)
    return ordered


def select(nodes: list[StageNode], target: str | None) -> list[StageNode]:
    """The stages that `target` needs, itself included; all stages without a target.

    Args:
        nodes: from `read_graph`.
        target: a stage ("geneval@source"), or a group ("geneval"), which means all its stages.

    Raises:
        ConfigError: no such stage.
    """
    if target is None:
        return nodes
    wanted = {node.name for node in nodes if target in (node.name, node.group)}
    if not wanted:
        raise ConfigError(f"target {target!r}: no such stage; dvc.yaml has {', '.join(node.name for node in nodes)}.")
    for node in reversed(nodes):
        if node.name in wanted:
            wanted.update(node.upstream)
    return [node for node in nodes if node.name in wanted]


def _name(stage: Any) -> str:
    """What `dvc repro` takes in the root of the project: name, FILE:NAME elsewhere, or a .dvc file."""
    if stage.name is None:
        return str(stage.path_in_repo)
    return stage.name if stage.path_in_repo == _ROOT_FILE else f"{stage.path_in_repo}:{stage.name}"
