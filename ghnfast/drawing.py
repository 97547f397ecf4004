"""Drawings of architecture graphs: `to_svg`.

Networks are long and thin: hundreds of levels of one or two nodes, with skip connections beside them. So every level is
a row, nodes stand below their predecessors, and an edge that would run through other nodes goes around them in a lane
to the right of its rows, one lane for all such edges of a node. Names of parameters stand to the left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from .errors import GraphError
from .graph import PRIMITIVES, ArchGraph

# Paul Tol's "muted" scheme, which stays distinguishable with every kind of colour vision, and five more. Fifteen
# colours are too many to tell all pairs apart, so colour is never the only sign: every node names its primitive.
COLOURS = {
    "max_pool": "#117733",
    "avg_pool": "#44aa99",
    "sep_conv": "#88ccee",
    "dil_conv": "#332288",
    "conv": "#4477aa",
    "msa": "#ee7733",
    "cse": "#ffaabb",
    "sum": "#cc6677",
    "concat": "#882255",
    "input": "#222222",
    "bias": "#dddddd",
    "bn": "#ddcc77",
    "ln": "#999933",
    "pos_enc": "#aa4499",
    "glob_avg": "#b5e3b5",
}
TIMES = "\N{MULTIPLICATION SIGN}"
GREY = "#8a9099"  # edges to the next rows
TEXT = "#30343a"

# All lengths are pixels.
NODE_WIDTH, NODE_HEIGHT = 132.0, 20.0
COLUMN_WIDTH = 146.0  # from one node's centre to the next one's
ROW_GAP = 16.0
LINE_GAP = 6.0  # between the lines of a level that has several
MARGIN = 24.0
FIRST_LANE, LANE = 16.0, 7.0  # from a node to its nearest lane, and from lane to lane
LANES_WIDTH = 1500.0  # lanes stand closer where they would take more than about this
CORNER = 4.0
PORT = 4.5  # lanes enter a node above its middle and leave it below
HEADER_LINE = 22.0
LETTER = 5.8  # the width of a letter of a name, about
LABEL_LETTER = 6.2  # of a node's label
MIN_WIDTH = 640.0

MAX_COLUMNS = 24  # a level of more nodes takes several lines
MAX_NAME = 60  # letters
MAX_FREE_SPAN = 64  # rows that an edge may pass straight

STYLE = f"""
text {{ font-family: Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 10.5px; fill: {TEXT}; }}
.title {{ font-size: 16px; font-weight: bold; }}
.name {{ font-size: 10px; fill: #6a7078; }}
.node text {{ text-anchor: middle; font-size: 10px; }}
.node .op {{ font-weight: bold; }}
.node rect {{ stroke: #30343a; stroke-opacity: 0.45; }}
.edges path {{ fill: none; stroke: {GREY}; stroke-width: 1.3; }}
.lane:hover path, .edges path:hover {{ stroke-width: 3; }}
"""


@dataclass(frozen=True)
class Layout:
    """Where everything stands, in pixels from the middle of the first node's column and the top of the first row.

    x, y: (nodes,), the centres of the nodes.
    rightmost: (nodes,) bool, whether nothing stands to the right of a node in its row.
    tops: (levels + 1,), the upper edge of each row, and of the row that would follow.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    rightmost: NDArray[np.bool_]
    tops: NDArray[np.float64]


def to_svg(graph: ArchGraph, title: str = "Architecture graph") -> str:
    """A drawing of a graph as a self-contained SVG document; the same text every time.

    One row per level, from top to bottom; levels of more than 24 nodes take several lines. Pointing at a node shows its
    primitive, parameter, shape and level, pointing at an edge makes it bold.

    Args:
        graph: of any size; 10,000 nodes take a few seconds.
        title: stands above the drawing.

    Raises:
        GraphError: the graph has no nodes.
    """
    if len(graph) == 0:
        raise GraphError("a graph without nodes was given; one node or more is accepted")
    layout = arrange(graph)
    routes, lanes_end = route(graph, layout)
    names = row_names(graph)
    gutter = LETTER * max(map(len, names.values()), default=0)
    left = float(layout.x.min()) - NODE_WIDTH / 2 - (gutter + 2 * FIRST_LANE if gutter else 0.0) - MARGIN
    right = max(float(layout.x.max()) + NODE_WIDTH / 2, lanes_end) + MARGIN
    width = max(right - left, MIN_WIDTH)
    left = min(left, (left + right - width) / 2)  # a narrow drawing stands in the middle
    header, header_height = draw_header(graph, title, width)
    height = header_height + float(layout.tops[-1]) - ROW_GAP + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f"<title>{clean(title)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{''.join(draw_arrowheads())}</defs>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *header,
            f'<g transform="translate({-left:.1f} {header_height:.1f})">',
            *draw_names(names, layout, left + MARGIN),
            '<g class="edges">',
            *routes,
            "</g>",
            *draw_nodes(graph, layout),
            "</g>",
            "</svg>",
            "",
        ]
    )


# Layout -------------------------------------------------------------------------------------------------------------


def arrange(graph: ArchGraph) -> Layout:
    """Place each level's nodes below the barycentre of their predecessors, from top to bottom."""
    columns = np.zeros(len(graph))
    lines = np.zeros(len(graph), dtype=np.int64)
    rightmost = np.zeros(len(graph), dtype=np.bool_)
    bounds = np.searchsorted(graph.edges[:, 1], graph.level_offsets)
    heights = []
    for (start, stop), (first, last) in zip(
        pairwise(graph.level_offsets.tolist()), pairwise(bounds.tolist()), strict=True
    ):
        sources, targets = graph.edges[first:last].T
        sums = np.bincount(targets - start, weights=columns[sources], minlength=stop - start)
        counts = np.bincount(targets - start, minlength=stop - start)
        # Rounded, for sums that differ in their last bit must not decide the order.
        wanted = np.round(sums / np.maximum(counts, 1), 6)
        columns[start:stop], lines[start:stop] = place_row(wanted)
        height = int(lines[start:stop].max()) + 1
        rightmost[start + int(np.argmax(columns[start:stop]))] = height == 1
        heights.append(height * (NODE_HEIGHT + LINE_GAP) - LINE_GAP + ROW_GAP)
    tops = np.concatenate([[0.0], np.cumsum(heights)])
    y = tops[graph.levels] + lines * (NODE_HEIGHT + LINE_GAP) + NODE_HEIGHT / 2
    return Layout(columns * COLUMN_WIDTH, y, rightmost, tops)


def place_row(wanted: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The columns, 1 or more apart and as near as possible to those wanted, and the lines of the nodes of a level."""
    lines = -(-len(wanted) // MAX_COLUMNS)
    order = np.argsort(wanted, kind="stable")
    # Neighbours share a column, one below the other, so that a level of many lines is not much wider than it wants.
    starts = np.arange(0, len(wanted), lines)
    shared = np.add.reduceat(wanted[order], starts) / np.diff([*starts, len(wanted)])
    rank = np.empty(len(wanted), dtype=np.int64)
    rank[order] = np.arange(len(wanted))
    return spread(shared)[rank // lines], rank % lines


def spread(wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rising positions, 1 or more apart, with the least squared distance to those wanted, which rise too.

    With i subtracted from position i this is isotonic regression, and pooling adjacent violators solves it.
    """
    pools: list[tuple[float, int]] = []
    for index, position in enumerate(wanted.tolist()):
        mean, size = position - index, 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    return np.repeat([mean for mean, _ in pools], [size for _, size in pools]) + np.arange(len(wanted))


# Edges --------------------------------------------------------------------------------------------------------------


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
        return f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" marker-end="url(#arrow)"/>'
    bend = max(float(layout.tops[target_level]) - ROW_GAP, top)
    middle = (bend + bottom) / 2
    return (
        f'<path d="M{x:.1f} {top:.1f}V{bend:.1f}C{x:.1f} {middle:.1f} {to_x:.1f} {middle - 3:.1f} '
        f'{to_x:.1f} {bottom:.1f}" marker-end="url(#arrow)"/>'
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
            yield f'<path d="{start}{entry}" marker-end="url(#arrow-{op})"/>'
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
    for suffix, colour in [("", GREY), *((f"-{op}", edge_colour(op)) for op in PRIMITIVES)]:
        yield (
            f'<marker id="arrow{suffix}" viewBox="0 0 6 6" refX="5.5" refY="3" markerWidth="6" markerHeight="6" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L6 3L0 6z" fill="{colour}"/></marker>'
        )
    rules = "".join(f".e-{op} path {{ stroke: {edge_colour(op)}; }}" for op in PRIMITIVES)
    yield f"<style>{rules}</style>"


# Text and nodes -----------------------------------------------------------------------------------------------------


def draw_header(graph: ArchGraph, title: str, width: float) -> tuple[list[str], float]:
    """The title and the legend, a line or more, and how high they are."""
    parts = [
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 12}">{clean(title)}</text>',
        f'<text x="{MARGIN}" y="{MARGIN + 32}">{count(len(graph), "node")}, {count(len(graph.edges), "edge")}, '
        f"{count(graph.depth, 'level')}</text>",
    ]
    x, y = MARGIN, MARGIN + 46
    counts = Counter(graph.ops)
    for op in (op for op in PRIMITIVES if op in counts):
        label = f"{op} ({counts[op]:,})"
        needed = 18 + LETTER * len(label) + 14
        if x + needed > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + HEADER_LINE
        parts.append(
            f'<g class="legend"><rect x="{x:.1f}" y="{y:.1f}" width="13" height="13" rx="3" fill="{COLOURS[op]}" '
            f'stroke="{TEXT}" stroke-opacity="0.45"/><text x="{x + 18:.1f}" y="{y + 10.5:.1f}">{label}</text></g>'
        )
        x += needed
    return parts, y + HEADER_LINE + MARGIN


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def draw_nodes(graph: ArchGraph, layout: Layout) -> Iterator[str]:
    ink = {op: text_colour(colour) for op, colour in COLOURS.items()}
    rows = zip(
        graph.ops,
        graph.params,
        graph.shapes,
        graph.levels.tolist(),
        layout.x.tolist(),
        layout.y.tolist(),
        strict=True,
    )
    for op, param, shape, level, x, y in rows:
        full = None if shape is None else TIMES.join(map(str, shape))
        tip = " · ".join(part for part in (op, param, full, f"level {level}") if part)
        size = "" if shape is None else f" {short_shape(shape)}"
        # A label that is too long for its node is squeezed into it.
        room = NODE_WIDTH - 2 * PORT
        squeeze = (
            f' textLength="{room:.0f}" lengthAdjust="spacingAndGlyphs"'
            if (len(op) + len(size)) * LABEL_LETTER > room
            else ""
        )
        yield (
            f'<g class="node"><title>{clean(tip)}</title>'
            f'<rect x="{x - NODE_WIDTH / 2:.1f}" y="{y - NODE_HEIGHT / 2:.1f}" width="{NODE_WIDTH:.0f}" '
            f'height="{NODE_HEIGHT:.0f}" rx="5" fill="{COLOURS[op]}"/>'
            f'<text x="{x:.1f}" y="{y + 3.7:.1f}" style="fill:{ink[op]}"{squeeze}>'
            f'<tspan class="op">{op}</tspan>{size}</text></g>'
        )


def short_shape(shape: Sequence[int]) -> str:
    """A shape for a narrow label: (64, 1, 1, 1) is 64, and a pool's (1, 1, 3, 3) is 3×3."""
    sizes = list(shape)
    if len(sizes) == 4 and sizes[:2] == [1, 1] and sizes[2:] != [1, 1]:
        sizes = sizes[2:]
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return TIMES.join(map(str, sizes))


def row_names(graph: ArchGraph) -> dict[int, str]:
    """What stands to the left of each row: the name of its parameter, or what the names of several begin with."""
    names = {}
    params = graph.params
    for level, (start, stop) in enumerate(pairwise(graph.level_offsets.tolist())):
        found = [param for param in params[start:stop] if param is not None]
        if len(found) == 1:
            names[level] = found[0]
        elif found and (shared := shared_path(found)):
            names[level] = f"{shared}.*"
    return {level: name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}" for level, name in names.items()}


def shared_path(names: Sequence[str]) -> str:
    """The modules that all names are in."""
    shared = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def draw_names(names: dict[int, str], layout: Layout, left: float) -> Iterator[str]:
    for level, name in names.items():
        y = layout.tops[level] + NODE_HEIGHT / 2 + 3.5
        yield f'<text class="name" x="{left:.1f}" y="{y:.1f}">{clean(name)}</text>'


# Colours and characters ---------------------------------------------------------------------------------------------


def channels(colour: str) -> list[int]:
    return [int(colour[index : index + 2], 16) for index in (1, 3, 5)]


def luminance(colour: str) -> float:
    """Relative luminance, 0 to 1 (WCAG 2.1)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in channels(colour))]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_colour(background: str) -> str:
    """White or nearly black, whichever has more contrast."""
    light, dark = (luminance(colour) for colour in ("#ffffff", "#111111"))
    own = luminance(background)
    return "#ffffff" if (light + 0.05) / (own + 0.05) >= (own + 0.05) / (dark + 0.05) else "#111111"


def edge_colour(op: str) -> str:
    """The colour of a primitive, darkened where a thin line of it would be too pale on white."""
    colour = channels(COLOURS[op])
    while luminance("#{:02x}{:02x}{:02x}".format(*colour)) > 0.3:
        colour = [value * 9 // 10 for value in colour]
    return "#{:02x}{:02x}{:02x}".format(*colour)


# What XML 1.0 cannot hold, not even escaped.
INVALID = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Any text as the content of an XML element."""
    return escape(INVALID.sub("\ufffd", text))
