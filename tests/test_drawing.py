"""Drawings of graphs: valid, complete, deterministic, nothing on top of anything, at any size."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from helpers.models import torchvision_model

import ghnfast
from ghnfast import drawing
from ghnfast.drawing import NODE_HEIGHT, NODE_WIDTH, to_svg
from ghnfast.graph import PRIMITIVES, ArchGraph

SVG = "{http://www.w3.org/2000/svg}"


def make_graph(levels: Iterable[int], edges: Iterable[tuple[int, int]], prefix: str = "layer.") -> ArchGraph:
    """A graph with the given nodes a level and edges. The primitives take turns."""
    widths = list(levels)
    nodes = sum(widths)
    pairs = sorted(edges, key=lambda edge: (edge[1], edge[0]))
    return ArchGraph(
        primitives=(np.arange(nodes) % len(PRIMITIVES)).astype(np.int8),
        edges=np.array(pairs, dtype=np.int32).reshape(-1, 2),
        level_offsets=np.cumsum([0, *widths]).astype(np.int32),
        shapes=[(64, 32, 3, 3)] * nodes,
        weights=[f"{prefix}{node}.weight" for node in range(nodes)],
        norm_biases=[None] * nodes,
    )


def chain(nodes: int) -> ArchGraph:
    return make_graph([1] * nodes, [(node, node + 1) for node in range(nodes - 1)])


def fan(width: int) -> ArchGraph:
    """One node, many, one."""
    edges = [(0, node) for node in range(1, width + 1)] + [(node, width + 1) for node in range(1, width + 1)]
    return make_graph([1, width, 1], edges)


def traced(name: str) -> ArchGraph:
    with torch.device("meta"):
        return ghnfast.trace(torchvision_model(name))


def by_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter(f"{SVG}g") if name in element.get("class", "").split()]


def boxes(root: ElementTree.Element) -> list[tuple[float, float]]:
    """The upper left corners of the nodes."""
    rects = [node.find(f"{SVG}rect") for node in by_class(root, "node")]
    return [(float(rect.get("x", "nan")), float(rect.get("y", "nan"))) for rect in rects if rect is not None]


def edge_paths(root: ElementTree.Element) -> list[ElementTree.Element]:
    (edges,) = by_class(root, "edges")
    return list(edges.iter(f"{SVG}path"))


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "googlenet", "densenet121"])
def test_draws_every_node_and_edge_of_a_network(name: str) -> None:
    graph = traced(name)
    text = to_svg(graph, name)
    root = ElementTree.fromstring(text)
    tips = [node.findtext(f"{SVG}title", "").split(" · ") for node in by_class(root, "node")]
    assert [tip[0] for tip in tips] == graph.ops
    assert [tip[-1] for tip in tips] == [f"level {level}" for level in graph.levels]
    for tip, param, shape in zip(tips, graph.params, graph.shapes, strict=True):
        assert param is None or param in tip
        assert shape is None or drawing.TIMES.join(map(str, shape)) in tip
    assert len(edge_paths(root)) == len(graph.edges)
    legend = {"".join(item.itertext()) for item in by_class(root, "legend")}
    assert legend == {f"{op} ({number:,})" for op, number in Counter(graph.ops).items()}
    assert root.findtext(f"{SVG}title") == name
    assert to_svg(traced(name), name) == text


@pytest.mark.parametrize(
    "make", [lambda: traced("googlenet"), lambda: fan(61), lambda: fan(7)], ids=["googlenet", "several lines", "fan"]
)
def test_nodes_stand_apart_inside_the_drawing_and_below_their_predecessors(make: Callable[[], ArchGraph]) -> None:
    graph = make()
    root = ElementTree.fromstring(to_svg(graph))
    corners = boxes(root)
    in_line: dict[float, list[float]] = {}
    for x, y in corners:
        in_line.setdefault(y, []).append(x)
    for line in in_line.values():
        assert np.all(np.diff(sorted(line)) > NODE_WIDTH)
    assert np.all(np.diff(sorted(in_line)) > NODE_HEIGHT)
    for source, target in graph.edges.tolist():
        assert corners[target][1] >= corners[source][1] + NODE_HEIGHT
    shift = next(group.get("transform", "") for group in root.iter(f"{SVG}g") if group.get("transform"))
    left, top = map(float, re.findall(r"-?[\d.]+", shift))
    width, height = float(root.get("width", "nan")), float(root.get("height", "nan"))
    assert all(x + left >= 0 and x + left + NODE_WIDTH <= width for x, _ in corners)
    assert all(y + top >= 0 and y + top + NODE_HEIGHT <= height for _, y in corners)


def test_a_chain_is_straight_and_its_skips_run_beside_it() -> None:
    skips = [(2, 6), (6, 9), (1, 9)]
    graph = make_graph([1] * 11, [*((node, node + 1) for node in range(10)), *skips])
    root = ElementTree.fromstring(to_svg(graph))
    assert {x for x, _ in boxes(root)} == {-NODE_WIDTH / 2}
    lanes = by_class(root, "lane")
    assert len(lanes) == len(skips)
    # A lane begins after the horizontal line that leads to it.
    ends = [float(re.findall(r"H(-?[\d.]+)", path.get("d", ""))[0]) for lane in lanes for path in lane]
    inner, outer = min(ends), max(ends)
    assert inner > NODE_WIDTH / 2
    # Drawn in the order of their edges' targets: the two that follow each other share a lane, the long one goes around.
    assert sorted(ends) == [inner, inner, outer]
    assert outer > inner


def test_an_edge_over_a_free_column_is_straight() -> None:
    # Node 2 has nothing below it until node 5 joins both branches.
    graph = make_graph([1, 2, 1, 1, 1], [(0, 1), (0, 2), (1, 3), (3, 4), (4, 5), (2, 5)])
    root = ElementTree.fromstring(to_svg(graph))
    assert not by_class(root, "lane")
    assert len(edge_paths(root)) == len(graph.edges)


def test_a_node_that_is_not_the_last_of_its_row_reaches_its_lane_below_the_row() -> None:
    # Node 1 and its lane have node 2 between them, and node 6 has node 7 there.
    edges = [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5), (5, 6), (5, 7), (1, 6), (1, 5), (0, 5)]
    root = ElementTree.fromstring(to_svg(make_graph([1, 2, 2, 1, 2], edges)))
    assert len(edge_paths(root)) == len(edges)
    corners = boxes(root)
    (lane,) = [lane for lane in by_class(root, "lane") if "e-avg_pool" in lane.get("class", "")]
    # The path to its last target holds the whole lane, and begins on the lower edge of node 1.
    start = re.match(r"M(-?[\d.]+) (-?[\d.]+)q", lane[-1].get("d", ""))
    assert start is not None
    assert corners[1][0] < float(start[1]) < corners[1][0] + NODE_WIDTH
    assert float(start[2]) == corners[1][1] + NODE_HEIGHT


def test_text_is_escaped() -> None:
    graph = make_graph([1, 2], [(0, 1), (0, 2)], prefix="a<b>&\"'\x00\x1b\ud800.")
    root = ElementTree.fromstring(to_svg(graph, "<&> \x01"))
    assert root.findtext(f"{SVG}title") == "<&> \ufffd"
    tips = [node.findtext(f"{SVG}title", "") for node in by_class(root, "node")]
    assert all("a<b>&\"'\ufffd\ufffd\ufffd." in tip for tip in tips)


def test_names_stand_beside_their_rows() -> None:
    text = to_svg(make_graph([1, 2], [(0, 1), (0, 2)]))
    names = [e.text for e in ElementTree.fromstring(text).iter(f"{SVG}text") if e.get("class") == "name"]
    assert names == ["layer.0.weight", "layer.*"]


def test_one_node() -> None:
    root = ElementTree.fromstring(to_svg(chain(1)))
    assert len(boxes(root)) == 1
    assert not edge_paths(root)
    assert "1 node, 0 edges, 1 level" in "".join(root.itertext())


def test_no_nodes() -> None:
    with pytest.raises(ValueError, match="one node or more is accepted"):
        to_svg(make_graph([], []))


def skips_to_the_end(nodes: int) -> ArchGraph:
    return make_graph(
        [1] * nodes,
        [*((node, node + 1) for node in range(nodes - 2)), *((node, nodes - 1) for node in range(nodes - 1))],
    )


@pytest.mark.parametrize("make", [chain, lambda nodes: fan(nodes - 2), skips_to_the_end], ids=["chain", "fan", "skips"])
def test_ten_thousand_nodes(make: Callable[[int], ArchGraph]) -> None:
    graph = make(10_000)
    text = to_svg(graph)
    root = ElementTree.fromstring(text)
    assert len(boxes(root)) == len(graph)
    assert len(edge_paths(root)) == len(graph.edges)
    assert float(root.get("width", "nan")) < 6000


def test_colours_are_those_of_the_primitives_and_text_on_them_is_readable() -> None:
    assert set(drawing.COLOURS) == set(PRIMITIVES)
    assert len(set(drawing.COLOURS.values())) == len(PRIMITIVES)
    for colour in drawing.COLOURS.values():
        own, ink = drawing.luminance(colour), drawing.luminance(drawing.text_colour(colour))
        assert (max(own, ink) + 0.05) / (min(own, ink) + 0.05) >= 4.5  # WCAG 2.1, level AA


@pytest.mark.parametrize(
    ("shape", "label"),
    [
        ((64, 32, 3, 3), "64x32x3x3"),
        ((64, 32, 1, 1), "64x32"),
        ((64, 1, 1, 1), "64"),
        ((1, 1, 3, 3), "3x3"),
        ((1, 1, 1, 1), "1"),
        ((1, 64, 7, 7), "1x64x7x7"),
    ],
)
def test_short_shape(shape: tuple[int, ...], label: str) -> None:
    assert drawing.short_shape(shape) == label.replace("x", drawing.TIMES)


def test_spread_keeps_order_and_distance_and_moves_no_more_than_needed() -> None:
    assert drawing.spread(np.array([0.0, 0.0])).tolist() == [-0.5, 0.5]
    assert drawing.spread(np.array([-3.0, 0.0, 0.0, 0.0, 9.0])).tolist() == [-3, -1, 0, 1, 9]
    wanted = np.sort(np.random.RandomState(0).rand(100) * 50)
    got = drawing.spread(wanted)
    assert np.diff(got).min() > 1 - 1e-9
    assert abs(np.mean(got - wanted)) < 1e-9
