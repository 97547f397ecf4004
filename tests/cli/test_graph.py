"""`ghnfast graph`: descriptions and drawings."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from helpers.commands import fail, names_in, run, run_json
from helpers.models import torchvision_model

import ghnfast


def test_output_folder_without_permission(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    message = fail(capsys, "graph", "resnet18", "--svg", tmp_path / "graph.svg")
    assert f"no permission to write into the folder {tmp_path}" in message


def test_graph_text(capsys: pytest.CaptureFixture[str]) -> None:
    text, notice = run(capsys, "graph", "resnet18")
    graph = ghnfast.trace(torchvision_model("resnet18"))
    distances = graph.distances()
    reached = distances[distances > 0]
    assert notice == ""
    assert re.search(rf"^graph +{len(graph)} nodes, {len(graph.edges)} edges, {graph.depth} levels$", text, re.M)
    assert re.search(r"^conv +21 +39\.6 %$", text, re.M)
    assert re.search(r"^parameter tensors +62 with a node, 0 without$", text, re.M)
    virtual = f"{len(reached):,} pairs within 50 hops, mean distance {reached.mean():.2f}, longest {reached.max()}"
    assert re.search(rf"^virtual edges +{re.escape(virtual)}$", text, re.M)


def test_graph_json(capsys: pytest.CaptureFixture[str]) -> None:
    description = run_json(capsys, "graph", "squeezenet1_1", "--num-classes", 10)
    graph = ghnfast.trace(torchvision_model("squeezenet1_1", num_classes=10))
    assert description["counts"] == {"nodes": len(graph), "edges": len(graph.edges), "levels": graph.depth}
    assert [node["op"] for node in description["nodes"]] == graph.ops
    assert [node["param"] for node in description["nodes"]] == graph.params
    assert [node["level"] for node in description["nodes"]] == graph.levels.tolist()
    assert description["edges"] == graph.edges.tolist()
    assert sum(description["primitives"].values()) == len(graph)
    assert description["virtual_edges"]["pairs"] == int((graph.distances() > 0).sum())


def test_graph_of_parameters_without_a_node(capsys: pytest.CaptureFixture[str], factories: str) -> None:
    text, notice = run(capsys, "graph", f"{factories}:make")
    assert "8 with a node, 2 without" in text
    assert "the forward does not use it:\n    2 tensors, 30 parameters: unused.weight, unused.bias" in text
    assert "building" in notice  # what models print is not part of the result


@pytest.mark.parametrize("name", ["needs_memory", "make"])
def test_graph_of_models_with_and_without_memory(capsys: pytest.CaptureFixture[str], factories: str, name: str) -> None:
    assert run_json(capsys, "graph", f"{factories}:{name}")["counts"]["nodes"] == 9


def test_graph_of_a_regnet(capsys: pytest.CaptureFixture[str]) -> None:
    """It computes with its weights while it is built."""
    assert run_json(capsys, "graph", "regnet_y_400mf")["parameter_tensors"]["without_node"] == 0


def test_graph_small_images(capsys: pytest.CaptureFixture[str]) -> None:
    usual = run_json(capsys, "graph", "resnet18")
    small = run_json(capsys, "graph", "resnet18", "--small-images", "--input-shape", "3,32,32")
    assert usual["primitives"]["max_pool"] == 1
    assert "max_pool" not in small["primitives"]


def test_graph_svg(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "graph.svg"
    text, _ = run(capsys, "graph", "resnet18", "--svg", out)
    assert re.search(rf"^drawn to +{re.escape(str(out))}$", text, re.M)
    drawn = out.read_bytes()
    nodes = [e for e in ElementTree.fromstring(drawn).iter() if e.get("class") == "node"]
    assert len(nodes) == 48  # of 53: two blocks are drawn once
    run(capsys, "graph", "resnet18", "--svg", tmp_path / "whole.svg", "--whole")
    assert (tmp_path / "whole.svg").read_text().count('class="node"') == 53
    (tmp_path / "whole.svg").unlink()
    assert run_json(capsys, "graph", "resnet18", "--svg", out)["svg"] == str(out)
    assert out.read_bytes() == drawn
    assert names_in(tmp_path) == [out.name]
    assert "its suffix is '.png'; accepted: .svg" in fail(capsys, "graph", "resnet18", "--svg", tmp_path / "graph.png")


def test_a_failed_drawing_leaves_the_old_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "graph.svg"
    out.write_text("old")

    def fail_to_sync(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail_to_sync)
    assert "could not be written: Input/output error" in fail(capsys, "graph", "squeezenet1_1", "--svg", out)
    assert out.read_text() == "old"
    assert names_in(tmp_path) == [out.name]


def test_wrong_input_for_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    message = fail(capsys, "graph", "resnet18", "--input-shape", "4,32,32")
    assert "the forward of ResNet failed on an input of shape (2, 4, 32, 32)" in message


def test_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    import networkx

    graph = ghnfast.trace(torchvision_model("googlenet"))
    found = run_json(capsys, "graph", "googlenet", "--stats")["stats"]
    both_ways = graph.to_networkx().to_undirected()
    assert found["average_degree"] == pytest.approx(sum(dict(both_ways.degree).values()) / len(graph))
    assert found["average_path"] == pytest.approx(networkx.average_shortest_path_length(both_ways))
    assert found["largest_in_degree"] == max(dict(graph.to_networkx().in_degree).values())
    assert found["largest_out_degree"] == max(dict(graph.to_networkx().out_degree).values())
    assert (found["depth"], found["width"]) == (graph.depth, max(graph.level_offsets[1:] - graph.level_offsets[:-1]))
    text, _ = run(capsys, "graph", "googlenet", "--stats")
    assert f"average path       {found['average_path']:.2f} hops" in text
    assert "stats" not in run_json(capsys, "graph", "googlenet")
