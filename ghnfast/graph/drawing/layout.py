"""Where nodes stand."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..arch_graph import ArchGraph

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
FRAME, FRAME_GAP = 7.0, 5.0  # from nodes to the frame of a block, beside and above them
TIMES_WIDTH = 46.0  # room for how often it is there

MAX_COLUMNS = 24  # a level of more nodes takes several lines
MAX_NAME = 60  # letters
MAX_FREE_SPAN = 64  # rows that an edge may pass straight


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
