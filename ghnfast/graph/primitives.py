"""What a node of an architecture graph is, and the shape that its embedding gets."""

from __future__ import annotations

from collections.abc import Sequence

PRIMITIVES = ("max_pool", "avg_pool", "sep_conv", "dil_conv", "conv", "msa", "cse", "sum", "concat", "input", "bias",
              "bn", "ln", "pos_enc", "glob_avg")  # fmt: skip


def embedding_shape(shape: Sequence[int], position: bool = False) -> tuple[int, ...]:
    """A parameter's shape as the shape embedding sees it: always 4-D.

    A vector (n) is (n, 1, 1, 1), a matrix (o, i) is (o, i, 1, 1); a position encoding (1, n, d) or (n, d) is
    (1, d, s, s) with s = floor(sqrt(n)).
    """
    if position and len(shape) in (2, 3):
        count, width = shape[-2:]
        side = int(count**0.5)
        return (1, width, side, side)
    return (*shape, 1, 1, 1)[:4]
