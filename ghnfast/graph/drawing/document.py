"""The drawing as a whole."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ...errors import GraphError
from ..primitives import PRIMITIVES
from .colours import COLOURS, edge_colour, edge_colour_on_dark
from .folding import Folded, find_folds, folded
from .labels import clean, draw_frames, draw_names, draw_nodes, row_names
from .layout import (
    FIRST_LANE,
    FRAME,
    HEADER_LINE,
    LETTER,
    MARGIN,
    MIN_WIDTH,
    NODE_WIDTH,
    ROW_GAP,
    TIMES_WIDTH,
    Layout,
    arrange,
)
from .routes import draw_arrowheads, route

if TYPE_CHECKING:
    from ..arch_graph import ArchGraph

TITLE = "Architecture graph"
# {suffix of a class: colours of lines on white and on nearly black}; without a suffix, of edges to the next rows.
LINES = {"": ("#8a9099", "#7d858f")} | {f"-{op}": (edge_colour(op), edge_colour_on_dark(op)) for op in PRIMITIVES}
# By what they are for, on a light and on a dark ground.
LIGHT = {"ground": "#ffffff", "text": "#30343a", "name": "#6a7078", "frame": "#f3f5f8", "border": "#b9c0c9"}
DARK = {"ground": "#14181d", "text": "#d6dae0", "name": "#98a1ac", "frame": "#1e242b", "border": "#4a535e"}


def rules(colours: dict[str, str], dark: bool) -> str:
    """What differs between the two grounds."""
    lines = "".join(
        f"SVG .e{suffix} path {{ stroke: {pair[dark]}; }} SVG .head{suffix} {{ fill: {pair[dark]}; }}\n"
        for suffix, pair in LINES.items()
    )
    return (
        f"SVG .ground {{ fill: {colours['ground']}; }}\n"
        f"SVG text {{ fill: {colours['text']}; }}\n"
        f"SVG .name {{ fill: {colours['name']}; }}\n"
        f"SVG .frame rect {{ fill: {colours['frame']}; stroke: {colours['border']}; }}\n"
        f"SVG .node rect, SVG .legend rect {{ stroke: {colours['text']}; }}\n"
        f"{lines}"
    )


# The rules are for this drawing alone: in a notebook they stand in the page.
STYLE = f"""
SVG text {{ font-family: Helvetica, Arial, "DejaVu Sans", sans-serif; font-size: 10.5px; }}
SVG .title {{ font-size: 16px; font-weight: bold; }}
SVG .name {{ font-size: 10px; }}
SVG .node text {{ text-anchor: middle; font-size: 10px; }}
SVG .node .op {{ font-weight: bold; }}
SVG .node rect, SVG .legend rect {{ stroke-opacity: 0.45; }}
SVG .frame text {{ font-size: 14px; font-weight: bold; }}
SVG .edges path {{ fill: none; stroke-width: 1.3; }}
SVG .lane:hover path, SVG .edges path:hover {{ stroke-width: 3; }}
{rules(LIGHT, dark=False)}@media (prefers-color-scheme: dark) {{
{rules(DARK, dark=True)}}}
""".replace("SVG", ".ghnfast-graph")


def to_svg(graph: ArchGraph, title: str, fold: bool) -> str:
    """See `ArchGraph.to_svg`."""
    if len(graph) == 0:
        raise GraphError("a graph without nodes was given; one node or more is accepted")
    drawn = folded(graph, find_folds(graph) if fold else [])
    layout = arrange(drawn.graph)
    routes, lanes_end = route(drawn.graph, layout)
    names = row_names(graph, drawn)
    framed = FRAME + TIMES_WIDTH if drawn.frames else 0.0
    left, right = sides(layout, names, framed, lanes_end)
    width = right - left
    header, header_height = draw_header(graph, drawn, title, width)
    height = header_height + float(layout.tops[-1]) - ROW_GAP + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="ghnfast-graph" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" role="img">',
            f"<title>{clean(title)}</title>",
            f"<style>{STYLE}</style>",
            f"<defs>{''.join(draw_arrowheads())}</defs>",
            '<rect class="ground" width="100%" height="100%"/>',
            *header,
            f'<g transform="translate({-left:.1f} {header_height:.1f})">',
            *draw_frames(drawn, layout),
            *draw_names(names, layout, left + MARGIN),
            '<g class="edges e">',
            *routes,
            "</g>",
            *draw_nodes(graph, drawn, layout),
            "</g>",
            "</svg>",
            "",
        ]
    )


def sides(layout: Layout, names: dict[int, str], framed: float, lanes_end: float) -> tuple[float, float]:
    """Where the drawing begins and ends, from the middle of the first node's column."""
    gutter = LETTER * max(map(len, names.values()), default=0)
    left = float(layout.x.min()) - NODE_WIDTH / 2 - framed - (gutter + 2 * FIRST_LANE if gutter else 0.0) - MARGIN
    right = max(float(layout.x.max()) + NODE_WIDTH / 2 + (FRAME if framed else 0.0), lanes_end) + MARGIN
    missing = max(MIN_WIDTH - (right - left), 0.0) / 2  # a narrow drawing stands in the middle
    return left - missing, right + missing


def draw_header(graph: ArchGraph, drawn: Folded, title: str, width: float) -> tuple[list[str], float]:
    """The title and the legend, a line or more, and how high they are."""
    counts = f"{count(len(graph), 'node')}, {count(len(graph.edges), 'edge')}, {count(graph.depth, 'level')}"
    if drawn.frames:
        counts += "; blocks that repeat are drawn once"
    parts = [
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 12}">{clean(title)}</text>',
        f'<text x="{MARGIN}" y="{MARGIN + 32}">{counts}</text>',
    ]
    x, y = MARGIN, MARGIN + 46
    ops = Counter(graph.ops)
    for op in (op for op in PRIMITIVES if op in ops):
        label = f"{op} ({ops[op]:,})"
        needed = 18 + LETTER * len(label) + 14
        if x + needed > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + HEADER_LINE
        parts.append(
            f'<g class="legend"><rect x="{x:.1f}" y="{y:.1f}" width="13" height="13" rx="3" fill="{COLOURS[op]}"/>'
            f'<text x="{x + 18:.1f}" y="{y + 10.5:.1f}">{label}</text></g>'
        )
        x += needed
    return parts, y + HEADER_LINE + MARGIN


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
