"""Files of labels: networks and what is known of them, as CSV."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..deepnets import DeepNets1M
from ..errors import GhnfastError, PropertyError
from .embedding import Architecture, named
from .rows import number, read_rows, whole_number
from .table import HOW, MeasuredNetworks, check_columns, network_of_row

NETWORKS = "a column 'architecture', or the columns 'split' and 'index', with commas between columns,"


class Labels(NamedTuple):
    """Networks and a label of each, from the column of this name; of a table of measured networks, also how."""

    networks: list[Architecture]
    labels: NDArray[np.float64]
    column: str
    measured: MeasuredNetworks | None = None


def read_labels(path: str | os.PathLike[str], column: str | None = None) -> Labels:
    """Networks and their labels from a CSV file, which may be compressed by gzip.

    Args:
        path: a file whose first line names its columns. Networks are named by `architecture`: a text that names a
            network of `ghnfast.spaces`, or a genotype (`DARTS`, or as its `repr` is); or by `split` and `index`, of
            `ghnfast.deepnets.DeepNets1M`, and by its `seed`, where there is such a column. Those of a table that
            `ghnfast properties --measure` wrote are as they were measured: with its channels and classes.
        column: the one of the labels; by default `accuracy`, or the only one.

    Raises:
        PropertyError: the file cannot be read, names no networks, or has something else than finite numbers; the
            message says in which line.
    """
    columns, rows = read_rows(path)
    check_columns(columns, path)
    if not rows:
        raise PropertyError(
            f"{path} has no line of labels; a line that names columns, and one for each network, is accepted"
        )
    if "architecture" not in columns and not {"split", "index"} <= {*columns}:
        there = ", ".join(repr(name)[:80] for name in columns)
        raise PropertyError(f"{path} names no networks: it has the columns {there}; {NETWORKS} is accepted")
    # One without a name is the numbers of rows, as data frames are written.
    names = [name for name in columns if name not in ("architecture", "split", "index", "seed", "")]
    chosen = column or ("accuracy" if "accuracy" in names or len(names) != 1 else names[0])
    if chosen not in names:
        raise PropertyError(f"{path} has no column {chosen!r}; it has {', '.join(names) or 'none of labels'}")
    networks, labels = [], []
    measured: MeasuredNetworks | None = None
    network: Callable[[dict[str, str]], Architecture] | None = None
    for line, row in rows:
        try:
            if network is None:
                measured = MeasuredNetworks(row) if set(HOW) <= {*columns} else None
                network = reader_of(columns) if measured is None else measured.network
            networks.append(network(row))
            labels.append(number(row[chosen], chosen))
        except GhnfastError as error:
            raise PropertyError(f"line {line} of {path}: {error}") from error
    return Labels(networks, np.array(labels), chosen, measured)


def reader_of(columns: Sequence[str]) -> Callable[[dict[str, str]], Architecture]:
    """What makes a network of a row."""
    if "architecture" in columns:
        return lambda row: named(row["architecture"])
    data_sets: dict[tuple[str, int], DeepNets1M] = {}

    def sampled(row: dict[str, str]) -> Architecture:
        split, index = network_of_row(row)
        known = split, whole_number(row.get("seed", "0"), "seed")
        if known not in data_sets:
            data_sets[known] = DeepNets1M(split, seed=known[1])
        return data_sets[known][index]

    return sampled
