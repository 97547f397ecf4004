"""The ways of edges: straight down, or around nodes in lanes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..primitives import PRIMITIVES
from .layout import CORNER, FIRST_LANE, LANE, LANES_WIDTH, MAX_FREE_SPAN, NODE_HEIGHT, NODE_WIDTH, PORT, ROW_GAP, Layout

if TYPE_CHECKING:
    from ..arch_graph import ArchGraph


def route(graph: ArchGraph, layout: Layout) -> tuple[list[str], float]:
    """The paths of all edges, and where the lanes end."""
    level = graph.levels.tolist()
    row_columns = [np.sort(layout.x[start:stop]) for start, stop in pairwise(graph.level_offsets.tolist())]
    direct: list[str] = []
    around: dict[int, list[int]] = {}
    for source, target in graph.edges.tolist():
        between = row_columns[level[source] + 1 : level[target]]
        if len(between) <= MAX_FREE_SPAN and all(is_free(columns, layout.x[source]) for columns in between):
            direct.append(direct_path(layout, source, target, level[target]))
        else:
            around.setdefault(source, []).append(target)
    lanes, end = assign_lanes(around, level, row_columns)
    return [*direct, *draw_lanes(graph, layout, around, lanes)], end


def is_free(columns: NDArray[np.float64], x: float) -> bool:
    """Whether a vertical line passes between the nodes at these columns, in rising order."""
    index = int(np.searchsorted(columns, x))
    return all(abs(column - x) > NODE_WIDTH / 2 + CORNER for column in columns[max(index - 1, 0) : index + 1].tolist())


def direct_path(layout: Layout, source: int, target: int, target_level: int) -> str:
    """Straight down to the row above the target, and with a bend into it."""
    x, top = layout.x[source], layout.y[source] + NODE_HEIGHT / 2
    to_x, bottom = layout.x[target], layout.y[target] - NODE_HEIGHT / 2
    if abs(to_x - x) < 0.5:
        return f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" marker-end="url(#ghnfast-arrow)"/>'
    bend = max(float(layout.tops[target_level]) - ROW_GAP, top)
    middle = (bend + bottom) / 2
    return (
        f'<path d="M{x:.1f} {top:.1f}V{bend:.1f}C{x:.1f} {middle:.1f} {to_x:.1f} {middle - 3:.1f} '
        f'{to_x:.1f} {bottom:.1f}" marker-end="url(#ghnfast-arrow)"/>'
    )


def assign_lanes(
    around: dict[int, list[int]], level: Sequence[int], row_columns: Sequence[NDArray[np.float64]]
) -> tuple[dict[int, float], float]:
    """The x of each source's lane, and of the last lane: right of all nodes of its rows and of shorter lanes."""
    nodes_end = np.array([columns[-1] for columns in row_columns]) + NODE_WIDTH / 2
    # By length, so that long lanes go around short ones. Two halves a row: one lane may end where the next one begins.
    spans = sorted(
        (level[max(targets)] - level[source], 2 * level[source] + 1, 2 * level[max(targets)], source)
        for source, targets in around.items()
    )
    distance = LANE
    while True:
        end = np.repeat(nodes_end, 2)
        lanes: dict[int, float] = {}
        taken = np.zeros(len(end), dtype=np.bool_)
        for _, start, stop, source in spans:
            rows = slice(start, stop + 1)
            # The first lane keeps clear of the nodes, the others of the lanes they go around.
            x = max(float(np.where(taken[rows], end[rows] + distance, end[rows] + FIRST_LANE).max()), 0.0)
            lanes[source] = x
            end[rows] = x
            taken[rows] = True
        last = max(lanes.values(), default=float("-inf"))
        excess = (last - float(nodes_end.max())) / LANES_WIDTH
        if excess <= 1 or distance < LANE:
            return lanes, last
        distance = LANE / excess


def draw_lanes(
    graph: ArchGraph, layout: Layout, around: dict[int, list[int]], lanes: dict[int, float]
) -> Iterator[str]:
    level = graph.levels.tolist()
    ops = graph.ops
    for source, targets in around.items():
        lane, op, last = lanes[source], ops[source], max(targets)
        yield f'<g class="lane e-{op}">'
        for target in targets:
            # The whole lane is part of the path to the last target only, the others branch off from it.
            start = lane_exit(layout, source, lane) if target == last else ""
            turn, entry = lane_entry(layout, target, lane, float(layout.tops[level[target]]))
            start = f"{start}V{turn:.1f}" if start else f"M{lane:.1f} {turn:.1f}"
            yield f'<path d="{start}{entry}" marker-end="url(#ghnfast-arrow-{op})"/>'
        yield "</g>"


def lane_exit(layout: Layout, node: int, lane: float) -> str:
    """From a node to the top of its lane: from its right side, or below the nodes to the right of it."""
    x, y = layout.x[node], layout.y[node]
    if layout.rightmost[node]:
        start = f"M{x + NODE_WIDTH / 2:.1f} {y + PORT:.1f}"
    else:
        start = f"M{x + 8:.1f} {y + NODE_HEIGHT / 2:.1f}q0 {CORNER} {CORNER} {CORNER}"
    return f"{start}H{lane - CORNER:.1f}q{CORNER} 0 {CORNER} {CORNER}"


def lane_entry(layout: Layout, node: int, lane: float, row_top: float) -> tuple[float, str]:
    """From a lane to a node: into its right side, or above the nodes to the right of it and into its top.

    Returns:
        The y at which it leaves the lane, and the path from there.
    """
    x, y = layout.x[node], layout.y[node]
    turn = f"q0 {CORNER} -{CORNER} {CORNER}"
    if layout.rightmost[node]:
        return y - PORT - CORNER, f"{turn}H{x + NODE_WIDTH / 2:.1f}"
    height = row_top - ROW_GAP / 2
    return height - CORNER, f"{turn}H{x + 8 + CORNER:.1f}{turn}V{y - NODE_HEIGHT / 2:.1f}"


def draw_arrowheads() -> Iterator[str]:
    """One for each primitive, for a marker does not take the colour of its line."""
    for suffix in ("", *(f"-{op}" for op in PRIMITIVES)):
        yield (
            f'<marker id="ghnfast-arrow{suffix}" viewBox="0 0 6 6" refX="5.5" refY="3" markerWidth="6" '
            f'markerHeight="6" markerUnits="userSpaceOnUse" orient="auto"><path class="head{suffix}" '
            'd="M0 0L6 3L0 6z"/></marker>'
        )
