"""What is written: nodes with their labels, names beside rows, frames with how often."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from .colours import COLOURS, text_colour
from .folding import Folded, ranged, shared_path
from .layout import (
    FRAME,
    FRAME_GAP,
    LABEL_LETTER,
    MAX_NAME,
    NODE_HEIGHT,
    NODE_WIDTH,
    PORT,
    ROW_GAP,
    TIMES_WIDTH,
    Layout,
)

if TYPE_CHECKING:
    from ..arch_graph import ArchGraph

TIMES = "\N{MULTIPLICATION SIGN}"
ANY = "\N{HORIZONTAL ELLIPSIS}"  # a size that is another one each time


def draw_nodes(graph: ArchGraph, drawn: Folded, layout: Layout) -> Iterator[str]:
    """The nodes of what is drawn of a graph; pointing at one shows all that it stands for."""
    ink = {op: text_colour(colour) for op, colour in COLOURS.items()}
    params, levels = graph.params, graph.levels.tolist()
    rows = zip(drawn.graph.ops, drawn.members, layout.x.tolist(), layout.y.tolist(), strict=True)
    for op, members, x, y in rows:
        shapes = [graph.shapes[node] for node in members]
        full = ranged_sizes([TIMES.join(map(str, shape)) for shape in shapes if shape is not None])
        names = [name for node in members if (name := params[node]) is not None]
        level = f"level {levels[members[0]]}" if len(members) == 1 else f"levels {numbers(levels, members)}"
        tip = " · ".join(part for part in (op, ranged(names) if names else "", full, level) if part)
        size = "" if shapes[0] is None else f" {short_shape(common_shape([s for s in shapes if s is not None]))}"
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


def numbers(levels: Sequence[int], members: Sequence[int]) -> str:
    return f"{levels[members[0]]}, {levels[members[1]]}, {ANY} {levels[members[-1]]}"


def ranged_sizes(texts: Sequence[str]) -> str:
    return ranged(texts) if texts else ""


def common_shape(shapes: Sequence[Sequence[int]]) -> list[int | str]:
    """A shape for all of several: `ANY` where they differ."""
    return [sizes[0] if len(set(sizes)) == 1 else ANY for sizes in zip(*shapes, strict=True)]


def short_shape(shape: Sequence[int | str]) -> str:
    """A shape for a narrow label: (64, 1, 1, 1) is 64, and a pool's (1, 1, 3, 3) is 3×3."""
    sizes = list(shape)
    if len(sizes) == 4 and sizes[:2] == [1, 1] and sizes[2:] != [1, 1]:
        sizes = sizes[2:]
    while len(sizes) > 1 and sizes[-1] == 1:
        sizes.pop()
    return TIMES.join(map(str, sizes))


def row_names(graph: ArchGraph, drawn: Folded) -> dict[int, str]:
    """What stands to the left of each row: the name of its parameter, or what the names of several begin with."""
    names = {}
    params = graph.params
    for level, (start, stop) in enumerate(pairwise(drawn.graph.level_offsets.tolist())):
        # Each time that a row stands for has as many nodes.
        rows = zip(*drawn.members[start:stop], strict=True)
        found = [name for row in rows if (name := row_name([params[node] for node in row]))]
        if found:
            names[level] = ranged(found)
    return {level: name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}" for level, name in names.items()}


def row_name(params: Sequence[str | None]) -> str:
    found = [param for param in params if param is not None]
    if len(found) == 1:
        return found[0]
    shared = shared_path(found)
    return f"{shared}.*" if shared else ""


def draw_names(names: dict[int, str], layout: Layout, left: float) -> Iterator[str]:
    for level, name in names.items():
        y = layout.tops[level] + NODE_HEIGHT / 2 + 3.5
        yield f'<text class="name" x="{left:.1f}" y="{y:.1f}">{clean(name)}</text>'


def draw_frames(drawn: Folded, layout: Layout) -> Iterator[str]:
    """A frame around each block that is there several times, with the number to the left of its nodes."""
    offsets = drawn.graph.level_offsets
    for frame in drawn.frames:
        columns = layout.x[offsets[frame.start] : offsets[frame.stop]]
        left = float(columns.min()) - NODE_WIDTH / 2 - FRAME - TIMES_WIDTH
        right = float(columns.max()) + NODE_WIDTH / 2 + FRAME
        top = float(layout.tops[frame.start]) - FRAME_GAP
        bottom = float(layout.tops[frame.stop]) - ROW_GAP + FRAME_GAP
        yield (
            f'<g class="frame"><title>{frame.count} times, one after the other</title><rect x="{left:.1f}" '
            f'y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" rx="8"/>'
            f'<text x="{left + FRAME:.1f}" y="{(top + bottom) / 2 + 5:.1f}">{frame.count} {TIMES}</text></g>'
        )


# What XML 1.0 cannot hold, not even escaped.
INVALID = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def clean(text: str) -> str:
    """Any text as the content of an XML element."""
    return escape(INVALID.sub("\ufffd", text))
