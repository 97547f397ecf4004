"""The tables that Python and C++ share, as numpy sees them; tests/csrc/test_tables.py compares the extension's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from helpers.arrays import Array


def of_numbers(names: str) -> list[tuple[str, Any]]:
    return [(name, np.int64) for name in names.split()]


SLOT = np.dtype([*of_numbers("node decoder height width columns rows cells out in kind kept"), ("scale", np.float64)])
TARGET = np.dtype([*of_numbers("first rows columns cells out in kind"), ("scale", np.float64)])
MEMORY = np.dtype([*of_numbers("address element"), ("strides", np.int64, (3,))])
DEVICE = np.dtype([("target", TARGET), ("memory", MEMORY), ("product", np.int64)])
TENSOR = np.dtype(of_numbers("address element bytes device"))


def table(dtype: np.dtype[Any], rows: Iterable[Sequence[Any]]) -> Array:
    return np.array([tuple(row) for row in rows], dtype)


def targets_of(rows: Iterable[Sequence[int]], scales: Iterable[float] | float = 1.0) -> Array:
    """Of first, rows, columns, cells, out, in, kind, and a scale each."""
    found = table(TARGET, [(*row, 1.0) for row in rows])
    found["scale"] = scales
    return found
