"""The tables of networks that others have trained, in bench/tables (where they come from: the README there)."""

from __future__ import annotations

import csv
import functools
import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parent / "tables"
NAMES = ("nas-bench-201", "nas-bench-macro")
PROXIES = ("epe_nas", "fisher", "flops", "grad_norm", "grasp", "jacov", "l2_norm", "nwot", "params", "plain", "snip",
           "synflow", "zen")  # fmt: skip


@functools.cache
def rows_of(name: str) -> list[dict[str, str]]:
    """The rows of a table, as they are written."""
    with gzip.open(FOLDER / f"{name}.csv.gz", "rt", newline="") as file:
        return list(csv.DictReader(file))


def architectures(name: str) -> list[str]:
    return [row["architecture"] for row in rows_of(name)]


def column(name: str, key: str) -> NDArray[np.float64]:
    """(rows,): a column of numbers."""
    return np.array([float(row[key]) for row in rows_of(name)])
