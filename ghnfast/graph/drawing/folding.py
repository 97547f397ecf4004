"""Blocks that repeat: what a drawing shows once, with how often it is there.

A fold is a run of levels that comes several times, one after the other: the same primitives, kernels of the same sizes,
the same edges within it, and edges from elsewhere into the same of its nodes. Channels are equal too, or grow by the
same number from one time to the next, as in a DenseNet.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..arch_graph import ArchGraph

MOST_LEVELS = 100  # of a block
LEAST_SAVED = 4  # levels; a frame for fewer is no gain
LEAST_GROWING = 3  # times: two of different sizes could be anything


@dataclass(frozen=True)
class Fold:
    """`count` times `levels` levels, from the level `start` on."""

    start: int
    levels: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.levels * self.count


@dataclass(frozen=True)
class Frame:
    """A block of a folded graph: its first level and the one after its last, and how often it is there."""

    start: int
    stop: int
    count: int


@dataclass(frozen=True)
class Folded:
    """What is drawn of a graph.

    graph: a node for all that are drawn as one. Edges from one time of a block to another are left out.
    members: of each of its nodes, those that it stands for.
    frames: its blocks.
    """

    graph: ArchGraph
    members: list[list[int]]
    frames: list[Frame]


def folded(graph: ArchGraph, folds: Sequence[Fold]) -> Folded:
    """A graph with each of the folds once."""
    first, time = representatives(graph, folds)
    kept = np.flatnonzero(first == np.arange(len(graph)))
    place = np.zeros(len(graph), dtype=np.int64)
    place[kept] = np.arange(len(kept))
    members: list[list[int]] = [[] for _ in kept]
    for node, own in enumerate(place[first].tolist()):
        members[own].append(node)
    return Folded(
        dataclasses.replace(
            graph,
            primitives=graph.primitives[kept],
            edges=folded_edges(graph, folds, place[first], time),
            level_offsets=np.searchsorted(kept, graph.level_offsets[kept_levels(graph.depth, folds)]).astype(np.int32),
            shapes=[graph.shapes[node] for node in kept],
            weights=[graph.weights[node] for node in kept],
            norm_biases=[graph.norm_biases[node] for node in kept],
            classifier_weight=None,
            classifier_bias=None,
            check=False,
        ),
        members,
        list(frames_of(folds)),
    )


def representatives(graph: ArchGraph, folds: Sequence[Fold]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each node the one that is drawn for it, and which time of its fold it is in, from 0."""
    first, time = np.arange(len(graph)), np.zeros(len(graph), dtype=np.int64)
    for fold in folds:
        bounds = graph.level_offsets[fold.start : fold.stop + 1 : fold.levels]
        nodes = bounds[1] - bounds[0]
        inside = np.arange(bounds[0], bounds[-1])
        first[inside] = bounds[0] + (inside - bounds[0]) % nodes
        time[inside] = (inside - bounds[0]) // nodes
    return first, time


def folded_edges(
    graph: ArchGraph, folds: Sequence[Fold], place: NDArray[np.int64], time: NDArray[np.int64]
) -> NDArray[np.int32]:
    block = np.full(len(graph), -1)
    for number, fold in enumerate(folds):
        block[graph.level_offsets[fold.start] : graph.level_offsets[fold.stop]] = number
    sources, targets = graph.edges.T
    between = (block[sources] == block[targets]) & (block[sources] >= 0) & (time[sources] != time[targets])
    pairs = np.unique(np.stack([place[targets], place[sources]], 1)[~between], axis=0)
    return pairs[:, ::-1].astype(np.int32)


def kept_levels(depth: int, folds: Sequence[Fold]) -> list[int]:
    """The levels that are drawn, and the end."""
    gone = {level for fold in folds for level in range(fold.start + fold.levels, fold.stop)}
    return [level for level in range(depth + 1) if level not in gone]


def frames_of(folds: Sequence[Fold]) -> Iterator[Frame]:
    gone = 0
    for fold in folds:
        yield Frame(fold.start - gone, fold.start - gone + fold.levels, fold.count)
        gone += fold.levels * (fold.count - 1)


# Finding them --------------------------------------------------------------------------------------------------------


def find_folds(graph: ArchGraph) -> list[Fold]:
    """The folds of a graph from top to bottom, each with as many levels saved as there can be where it begins."""
    runs = run_lengths(signatures(graph))
    periods = np.arange(1, runs.shape[1] + 1)
    saved = runs // periods * periods
    folds: list[Fold] = []
    end = 0
    for level in np.flatnonzero(saved.max(axis=1, initial=0) >= LEAST_SAVED).tolist():
        if level < end:
            continue
        for period in np.argsort(-saved[level], kind="stable").tolist():
            if saved[level, period] < LEAST_SAVED:
                break
            fold = best_fold(graph, runs[:, period], level, period + 1)
            if fold is not None:
                folds.append(fold)
                end = fold.stop
                break
    return folds


def signatures(graph: ArchGraph) -> NDArray[np.int64]:
    """(levels,): equal numbers where levels have the same primitives, kernels of the same sizes, and order."""
    nodes = np.column_stack([graph.primitives.astype(np.int64), graph.shape_table[:, 2:]])
    known: dict[bytes, int] = {}
    offsets = graph.level_offsets.tolist()
    keys = (nodes[start:stop].tobytes() for start, stop in itertools.pairwise(offsets))
    return np.array([known.setdefault(key, len(known)) for key in keys], dtype=np.int64)


def run_lengths(signature: NDArray[np.int64]) -> NDArray[np.int64]:
    """(levels, periods): from each level on, how many levels in a row are like those one period (1, 2, ...) later."""
    depth = len(signature)
    most = min(MOST_LEVELS, depth // 2)
    runs = np.zeros((depth, most), dtype=np.int64)
    for period in range(1, most + 1):
        alike = signature[:-period] == signature[period:]
        ends = np.flatnonzero(~np.append(alike, False))
        runs[: len(alike), period - 1] = ends[np.searchsorted(ends, np.arange(len(alike)))] - np.arange(len(alike))
    return runs


def best_fold(graph: ArchGraph, runs: NDArray[np.int64], level: int, period: int) -> Fold | None:
    """The fold of this period that begins at a level or within a period after it: where modules begin, if one does."""
    least = runs[level] // period  # one time less than from the first level on
    starts = [
        (-depth_of_modules(graph, start, period), -int(runs[start]) // period, start)
        for start in range(level, min(level + period, len(runs)))
        if runs[start] // period + 1 >= max(least, 2)
    ]
    for _, _, start in sorted(starts):
        count = times(graph, start, period, int(runs[start]) // period + 1)
        if (count - 1) * period >= LEAST_SAVED:
            return Fold(start, period, count)
    return None


def depth_of_modules(graph: ArchGraph, start: int, period: int) -> int:
    """How many modules deep the parameters of a block, and of the next one, are together."""
    depth = 0
    for begin in (start, start + period):
        nodes = slice(graph.level_offsets[begin], graph.level_offsets[begin + period])
        pairs = zip(graph.weights[nodes], graph.norm_biases[nodes], strict=True)
        depth += len(shared_path([name for pair in pairs if (name := pair[0] or pair[1])]).split("."))
    return depth


def times(graph: ArchGraph, start: int, period: int, most: int) -> int:
    """How often a block is there from a level on, at most `most` times; 1 where nothing repeats."""
    bounds = graph.level_offsets[start : start + most * period + 1 : period].tolist()
    first = Block(graph, bounds[0], bounds[1])
    growth = None
    for count in range(1, most):
        block = Block(graph, bounds[count], bounds[count + 1])
        change = block.sizes - graph.shape_table[bounds[count - 1] : bounds[count]]
        growth = change if growth is None else growth
        alike = np.array_equal(block.inner, first.inner) and np.array_equal(block.entries, first.entries)
        if not alike or not np.array_equal(change, growth):
            break
    else:
        count = most
    return 1 if growth is not None and growth.any() and count < LEAST_GROWING else count


class Block:
    """The nodes from `begin` to `end`: their shapes, the edges among them, and which have edges from outside."""

    def __init__(self, graph: ArchGraph, begin: int, end: int) -> None:
        low, high = np.searchsorted(graph.edges[:, 1], [begin, end])
        edges = graph.edges[low:high] - begin
        inside = edges[:, 0] >= 0
        self.sizes = graph.shape_table[begin:end]
        self.inner = np.unique(edges[inside], axis=0)
        self.entries = np.unique(edges[~inside, 1])


# Names ---------------------------------------------------------------------------------------------------------------


def shared_path(names: Sequence[str]) -> str:
    """The modules that all names are in."""
    shared = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def ranged(texts: Sequence[str]) -> str:
    """One text for several that differ in their numbers: layer.1.weight to layer.5.weight are layer.1…5.weight."""
    first, last = texts[0], texts[-1]
    parts = [re.split(r"(\d+)", text) for text in texts]
    if len({tuple(part[::2]) for part in parts}) > 1:
        return first if len(set(texts)) == 1 else f"{first} … {last}"
    return "".join(a if a == b else f"{a}…{b}" for a, b in zip(parts[0], parts[-1], strict=True))
