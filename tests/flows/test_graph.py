from collections.abc import Callable
from pathlib import Path

import pytest

from flows.graph import StageNode, in_order, read_graph, select
from l2p.errors import ConfigError
from tests.conftest import ROOT

NODES = [
    StageNode("prompts", upstream=(), outputs=("prompts.txt",)),
    StageNode("geneval@source", upstream=("prompts",), outputs=("source.txt",)),
    StageNode("geneval@pixel", upstream=("prompts",), outputs=("pixel.txt",)),
    StageNode("report", upstream=("geneval@pixel", "geneval@source"), outputs=("report.txt",)),
]


def names(nodes: list[StageNode]) -> list[str]:
    return [node.name for node in nodes]


def test_stages_come_after_those_they_need_and_a_matrix_is_one_stage_per_item(project: Path) -> None:
    assert read_graph(project) == NODES
    assert NODES[1].group == "geneval"


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("prompts", ["prompts"]),
        ("geneval@pixel", ["prompts", "geneval@pixel"]),
        ("geneval", ["prompts", "geneval@source", "geneval@pixel"]),
        ("report", ["prompts", "geneval@source", "geneval@pixel", "report"]),
        (None, ["prompts", "geneval@source", "geneval@pixel", "report"]),
    ],
)
def test_a_target_brings_what_it_needs(target: str | None, expected: list[str]) -> None:
    assert names(select(NODES, target)) == expected


def test_an_unknown_target_names_the_stages_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'nope': no such stage; dvc\.yaml has prompts, geneval@source"):
        select(NODES, "nope")


def test_a_folder_without_dvc_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no DVC project"):
        read_graph(tmp_path)


@pytest.mark.parametrize(
    "pipeline",
    [
        "stages: {a: {cmd: echo, deps: [b.txt], outs: [a.txt]}, b: {cmd: echo, deps: [a.txt], outs: [b.txt]}}",
        "stages: {a: {command: echo}}",
        "stages: [",
    ],
)
def test_a_pipeline_that_dvc_refuses_is_one_clear_line(make_project: Callable[[str], Path], pipeline: str) -> None:
    with pytest.raises(ConfigError, match=r"dvc\.yaml: .") as caught:
        read_graph(make_project(pipeline))
    assert "\n" not in str(caught.value)


def test_a_pipeline_in_a_subfolder_is_named_as_dvc_takes_it(project: Path) -> None:
    (project / "more").mkdir()
    (project / "more/dvc.yaml").write_text("stages: {extra: {cmd: echo, deps: [../report.txt], outs: [x]}}")
    (extra,) = [node for node in read_graph(project) if node.group == "more/dvc.yaml:extra"]
    assert extra.upstream == ("report",)
    assert extra.outputs == ("more/x",)


def test_order_does_not_depend_on_the_order_of_the_file() -> None:
    nodes = [StageNode("c", ("a", "b"), ()), StageNode("b", ("a",), ()), StageNode("a", (), ())]
    assert names(in_order(nodes)) == ["a", "b", "c"]


def test_the_pipeline_of_this_repository_has_every_stage() -> None:
    nodes = read_graph(ROOT)
    order = names(nodes)
    assert {node.group for node in nodes} == {
        "source",
        "prompts",
        "synthesize",
        "validate",
        "embed",
        "convert",
        "train",
        "geneval",
        "dpg",
        "fidelity",
        "efficiency",
        "report",
        "register",
    }
    assert order.index("train") < order.index("geneval@pixel") < order.index("report") < order.index("register")
    assert names(select(nodes, "embed")) == [name for name in order if name in ("source", "prompts", "embed")]
