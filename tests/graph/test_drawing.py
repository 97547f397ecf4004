"""Drawings of graphs: valid, complete, deterministic, nothing on top of anything, at any size."""

from __future__ import annotations

import dataclasses
import itertools
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
from helpers.models import torchvision_model
from hypothesis import given, settings
from hypothesis import strategies as st

import ghnfast
from ghnfast.graph import PRIMITIVES, ArchGraph
from ghnfast.graph.drawing import colours, labels
from ghnfast.graph.drawing.document import DARK, LIGHT, LINES
from ghnfast.graph.drawing.folding import find_folds, folded, ranged
from ghnfast.graph.drawing.layout import NODE_HEIGHT, NODE_WIDTH, spread

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
    text = graph.to_svg(name, fold=False)
    root = ElementTree.fromstring(text)
    tips = [node.findtext(f"{SVG}title", "").split(" · ") for node in by_class(root, "node")]
    assert [tip[0] for tip in tips] == graph.ops
    assert [tip[-1] for tip in tips] == [f"level {level}" for level in graph.levels]
    for tip, param, shape in zip(tips, graph.params, graph.shapes, strict=True):
        assert param is None or param in tip
        assert shape is None or labels.TIMES.join(map(str, shape)) in tip
    assert len(edge_paths(root)) == len(graph.edges)
    legend = {"".join(item.itertext()) for item in by_class(root, "legend")}
    assert legend == {f"{op} ({number:,})" for op, number in Counter(graph.ops).items()}
    assert root.findtext(f"{SVG}title") == name
    assert traced(name).to_svg(name, fold=False) == text


@pytest.mark.parametrize(
    "make", [lambda: traced("googlenet"), lambda: fan(61), lambda: fan(7)], ids=["googlenet", "several lines", "fan"]
)
def test_nodes_stand_apart_inside_the_drawing_and_below_their_predecessors(make: Callable[[], ArchGraph]) -> None:
    graph = make()
    root = ElementTree.fromstring(graph.to_svg(fold=False))
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
    root = ElementTree.fromstring(graph.to_svg(fold=False))
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
    root = ElementTree.fromstring(graph.to_svg(fold=False))
    assert not by_class(root, "lane")
    assert len(edge_paths(root)) == len(graph.edges)


def test_a_node_that_is_not_the_last_of_its_row_reaches_its_lane_below_the_row() -> None:
    # Node 1 and its lane have node 2 between them, and node 6 has node 7 there.
    edges = [(0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 5), (5, 6), (5, 7), (1, 6), (1, 5), (0, 5)]
    root = ElementTree.fromstring(make_graph([1, 2, 2, 1, 2], edges).to_svg(fold=False))
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
    root = ElementTree.fromstring(graph.to_svg("<&> \x01"))
    assert root.findtext(f"{SVG}title") == "<&> \ufffd"
    tips = [node.findtext(f"{SVG}title", "") for node in by_class(root, "node")]
    assert all("a<b>&\"'\ufffd\ufffd\ufffd." in tip for tip in tips)


def test_names_stand_beside_their_rows() -> None:
    text = make_graph([1, 2], [(0, 1), (0, 2)]).to_svg(fold=False)
    names = [e.text for e in ElementTree.fromstring(text).iter(f"{SVG}text") if e.get("class") == "name"]
    assert names == ["layer.0.weight", "layer.*"]


def test_one_node() -> None:
    root = ElementTree.fromstring(chain(1).to_svg(fold=False))
    assert len(boxes(root)) == 1
    assert not edge_paths(root)
    assert "1 node, 0 edges, 1 level" in "".join(root.itertext())


def test_no_nodes() -> None:
    with pytest.raises(ValueError, match="one node or more is accepted"):
        make_graph([], []).to_svg(fold=False)


def skips_to_the_end(nodes: int) -> ArchGraph:
    return make_graph(
        [1] * nodes,
        [*((node, node + 1) for node in range(nodes - 2)), *((node, nodes - 1) for node in range(nodes - 1))],
    )


@pytest.mark.parametrize("make", [chain, lambda nodes: fan(nodes - 2), skips_to_the_end], ids=["chain", "fan", "skips"])
def test_ten_thousand_nodes(make: Callable[[int], ArchGraph]) -> None:
    graph = make(10_000)
    text = graph.to_svg(fold=False)
    root = ElementTree.fromstring(text)
    assert len(boxes(root)) == len(graph)
    assert len(edge_paths(root)) == len(graph.edges)
    assert float(root.get("width", "nan")) < 6000


def test_colours_are_those_of_the_primitives_and_text_on_them_is_readable() -> None:
    assert set(colours.COLOURS) == set(PRIMITIVES)
    assert len(set(colours.COLOURS.values())) == len(PRIMITIVES)
    for colour in colours.COLOURS.values():
        own, ink = colours.luminance(colour), colours.luminance(colours.text_colour(colour))
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
    assert labels.short_shape(shape) == label.replace("x", labels.TIMES)


def test_spread_keeps_order_and_distance_and_moves_no_more_than_needed() -> None:
    assert spread(np.array([0.0, 0.0])).tolist() == [-0.5, 0.5]
    assert spread(np.array([-3.0, 0.0, 0.0, 0.0, 9.0])).tolist() == [-3, -1, 0, 1, 9]
    wanted = np.sort(np.random.RandomState(0).rand(100) * 50)
    got = spread(wanted)
    assert np.diff(got).min() > 1 - 1e-9
    assert abs(np.mean(got - wanted)) < 1e-9


# Blocks that repeat ---------------------------------------------------------------------------------------------------


def texts(root: ElementTree.Element, name: str) -> list[str]:
    return ["".join(group.itertext()) for group in by_class(root, name)]


def test_a_densenet_fits_on_a_page() -> None:
    root = ElementTree.fromstring(traced("densenet121").to_svg())
    shown = [frame.findtext(f"{SVG}text") for frame in by_class(root, "frame")]
    assert shown == [f"{times} {labels.TIMES}" for times in (6, 12, 24, 16)]
    assert float(root.get("height", "nan")) < 1500
    names = [text.text for text in root.iter(f"{SVG}text") if text.get("class") == "name"]
    assert "features.denseblock3.denselayer1…24.conv1.weight" in names
    (tip,) = (text for text in texts(root, "node") if "denseblock1.denselayer1…6.norm1" in text)
    assert "64…224x1x1x1 · levels 4, 9, … 29".replace("x", labels.TIMES) in tip
    assert tip.endswith("bn …")
    assert "307 nodes, 841 edges, 307 levels; blocks that repeat are drawn once" in "".join(root.itertext())


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "swin_t", "mobilenet_v2", "densenet121", "googlenet"])
def test_folds_are_of_equal_blocks(name: str) -> None:
    """What a fold says is there so often is: the same graph in each, and every node is drawn somewhere."""
    graph = traced(name)
    folds = find_folds(graph)
    assert bool(folds) == (name != "googlenet")
    assert all(a.stop <= b.start for a, b in itertools.pairwise(folds))
    for fold in folds:
        bounds = graph.level_offsets[fold.start : fold.stop + 1 : fold.levels].tolist()
        blocks = set()
        for begin, end in itertools.pairwise(bounds):
            inner = graph.edges[(graph.edges >= begin).all(1) & (graph.edges < end).all(1)] - begin
            kernels = [None if shape is None else shape[2:] for shape in graph.shapes[begin:end]]
            blocks.add(repr((graph.ops[begin:end], kernels, sorted(map(tuple, inner.tolist())))))
        assert len(blocks) == 1
        assert len(bounds) == fold.count + 1 > 2
    drawn = folded(graph, folds)
    assert sorted(node for members in drawn.members for node in members) == list(range(len(graph)))
    for own, members in zip(drawn.graph.ops, drawn.members, strict=True):
        assert {graph.ops[node] for node in members} == {own}
    root = ElementTree.fromstring(graph.to_svg(name))
    assert len(boxes(root)) == len(drawn.graph)
    assert len(edge_paths(root)) == len(drawn.graph.edges)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.integers(0, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_chain_of_blocks_is_folded(levels: int, count: int, before: int, after: int, skips: bool) -> None:
    """Of `count` blocks of so many levels, each with other primitives, the saved levels decide whether it is."""
    depth = before + levels * count + after
    edges = {(node, node + 1) for node in range(depth - 1)}
    if skips:
        ends = range(before + levels - 1, before + levels * count - 1, levels)
        edges |= {(end, end + levels) for end in ends if levels > 1}
    graph = make_graph([1] * depth, edges)
    inside = [index % levels for index in range(levels * count)]
    ops = [*range(4, 4 + before), *inside, *range(7, 7 + after)]
    graph = dataclasses.replace(graph, primitives=np.array(ops, dtype=np.int8))
    folds = find_folds(graph)
    if (count - 1) * levels < 4 + (skips and levels > 1) * levels:
        assert sum(fold.levels * (fold.count - 1) for fold in folds) <= (count - 1) * levels
        return
    (fold,) = folds
    saved = fold.levels * (fold.count - 1)
    # With skips, the first end has no other one before it, and is another block.
    assert (count - 1 - (skips and levels > 1)) * levels <= saved <= (count - 1) * levels
    root = ElementTree.fromstring(graph.to_svg())
    assert len(boxes(root)) == depth - saved


def test_what_differs_is_not_folded() -> None:
    graph = chain(91)  # the primitives come six times after the first node
    assert [(fold.levels, fold.count) for fold in find_folds(graph)] == [(15, 6)]

    def with_shapes(shape_of: Callable[[int, int], tuple[int, ...]]) -> ArchGraph:
        """Shapes by the block and the node in it."""
        shapes: list[tuple[int, ...] | None] = [shape_of((node - 1) // 15, (node - 1) % 15) for node in range(91)]
        return dataclasses.replace(graph, shapes=shapes)

    growing = find_folds(with_shapes(lambda block, node: (64 + block * (node == 3), 32, 3, 3)))
    assert [fold.count for fold in growing] == [6]
    assert not find_folds(with_shapes(lambda block, node: (64 << block * (node == 3), 32, 3, 3)))
    kernels = find_folds(with_shapes(lambda block, node: (64, 32, 5 if (block, node) == (2, 3) else 3, 3)))
    assert sum(fold.count for fold in kernels) == 5
    # A skip in one of them, and one into one of them.
    for skip in ((33, 36), (2, 50)):
        other = make_graph([1] * 91, [*((node, node + 1) for node in range(90)), skip])
        assert all(fold.count < 6 for fold in find_folds(other))


@pytest.mark.parametrize(
    ("given_texts", "wanted"),
    [
        (["a.1.weight", "a.2.weight", "a.3.weight"], "a.1…3.weight"),
        (["a.1.b.2", "a.2.b.2"], "a.1…2.b.2"),
        (["same", "same"], "same"),
        (["first", "other"], "first … other"),
    ],
)
def test_ranged(given_texts: list[str], wanted: str) -> None:
    assert ranged(given_texts) == wanted


def test_notebooks_show_the_drawing_of_what_is_not_too_large() -> None:
    graph = traced("resnet18")
    assert graph._repr_svg_() == graph.to_svg()
    assert chain(1001)._repr_svg_() is None
    assert make_graph([], [])._repr_svg_() is None


def test_lines_and_text_are_seen_on_both_grounds() -> None:
    for dark, ground in enumerate((LIGHT, DARK)):
        own = colours.luminance(ground["ground"])
        seen = {**{op: pair[dark] for op, pair in LINES.items()}, "text": ground["text"], "name": ground["name"]}
        for name, colour in seen.items():
            other = colours.luminance(colour)
            contrast = (max(own, other) + 0.05) / (min(own, other) + 0.05)
            assert contrast >= (4.5 if name in ("text", "name") else 2.9), (name, dark)  # WCAG 2.1: text, and graphics


def test_the_rules_are_for_the_drawing_alone() -> None:
    """In a notebook they stand in the page."""
    style = ElementTree.fromstring(chain(1).to_svg()).findtext(f"{SVG}style", "")
    selectors = [one for part in re.findall(r"([^{}]+)\{", style) for one in part.split(",") if "@media" not in part]
    assert selectors
    assert all(selector.strip().startswith(".ghnfast-graph ") for selector in selectors)
