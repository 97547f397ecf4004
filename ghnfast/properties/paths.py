"""What a graph's paths are made of, as numbers: `path_sums`."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _C
from ..graph import PRIMITIVES, GraphBatch

PATHS = 64  # directions
# What is counted along a path, by the primitives that count; convolutions by whether their kernels are 1 x 1.
SPATIAL, POINTWISE = range(2)
COUNTED: tuple[tuple[str, ...], ...] = (
    (), (), ("sep_conv", "dil_conv"), ("max_pool", "avg_pool"), ("bn", "ln"), ("msa", "cse"),
)  # fmt: skip
KERNEL = len(COUNTED)  # the last count: logarithms of kernels' areas, 1 of 3 x 3
LARGEST_AREA = 2**16  # larger ones count as this


def path_sums(batch: GraphBatch) -> NDArray[np.float64]:
    """Of each graph 64 logarithms of sums over all its paths, from input to output.

    A path adds exp(sum of theta_k c_k), where c_k is how many spatial convolutions, pointwise ones, depthwise ones,
    pools, norms and attentions are on it, and how large their kernels are; each of the numbers has its own theta. They
    are drawn from a normal distribution, once for all networks: as a moment-generating function does of a distribution,
    they tell sets of paths apart. Those of two blocks in a row are the sums of each block's. Sums over paths take one
    pass over the edges, however many paths there are.

    Returns:
        (graphs, 64).
    """
    kinds, rows = kinds_of(batch)
    topology = batch.topology(min(batch.topologies, default=1))  # edges alone are read, which all have
    return _C.path_sums(topology.native, kinds, counts_of_kinds(rows) @ directions().T, torch.get_num_threads())


def directions() -> NDArray[np.float64]:
    """(64, 7): the thetas. RandomState: its numbers stay the same in all versions of numpy."""
    return np.random.RandomState(0).standard_normal((PATHS, KERNEL + 1))


def kinds_of(batch: GraphBatch) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(nodes,): the kind of each node, and (kinds, 2): the primitive and the kernel's area of each kind."""
    sides = np.clip(batch.shape_table[:, 2:], 1, LARGEST_AREA)
    areas = np.minimum(sides.prod(axis=1), LARGEST_AREA)
    keys, kinds = np.unique(batch.primitives * np.int64(LARGEST_AREA + 1) + areas, return_inverse=True)
    return kinds.astype(np.int32), np.stack(np.divmod(keys, LARGEST_AREA + 1), axis=1)


def counts_of_kinds(rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(kinds, 7): what a node of each kind adds to a path's counts."""
    counted = {name: at for at, names in enumerate(COUNTED) for name in names}
    counts = np.zeros((len(rows), KERNEL + 1))
    for row, (primitive, area) in zip(counts, rows.tolist(), strict=True):
        name = PRIMITIVES[primitive]
        column = (SPATIAL if area > 1 else POINTWISE) if name == "conv" else counted.get(name)
        if column is not None:
            row[column] = 1
        row[KERNEL] = np.log(area) / np.log(9)
    return counts
