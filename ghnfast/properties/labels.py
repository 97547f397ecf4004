"""Files of labels: networks and what is known of them, as CSV."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..deepnets import DeepNets1M, Genotype
from ..deepnets.dataset import SIZES
from ..errors import ConfigError, GhnfastError, PropertyError
from ..files import in_words
from ..spaces import check_name
from .embedding import Architecture

NETWORKS = "a column 'architecture', or the columns 'split' and 'index',"
MOST_ROWS = 1_000_000
Row: TypeAlias = tuple[int, dict[str, str]]  # the number of its line, and its fields by column


class Labels(NamedTuple):
    """Networks and a label of each, from the column of this name."""

    networks: list[Architecture]
    labels: NDArray[np.float64]
    column: str


def read_labels(path: str | os.PathLike[str], column: str | None = None) -> Labels:
    """Networks and their labels from a CSV file, which may be compressed by gzip.

    Args:
        path: a file whose first line names its columns. Networks are named by `architecture`: a text that names a
            network of `ghnfast.spaces`, or a genotype (`DARTS`, or as its `repr` is); or by `split` and `index`, of
            `ghnfast.deepnets.DeepNets1M`.
        column: the one of the labels; by default `accuracy`, or the only one.

    Raises:
        PropertyError: the file cannot be read, names no networks, or has something else than finite numbers; the
            message says in which line.
    """
    columns, rows = read_rows(Path(path))
    if not rows:
        raise PropertyError(
            f"{path} has no line of labels; a line that names columns, and one for each network, is accepted"
        )
    names = [name for name in columns if name not in ("architecture", "split", "index")]
    chosen = column or ("accuracy" if "accuracy" in names or len(names) != 1 else names[0])
    if chosen not in names:
        raise PropertyError(f"{path} has no column {chosen!r}; it has {', '.join(names) or 'none of labels'}")
    network = reader_of(columns, path)
    networks, labels = [], []
    for line, row in rows:
        try:
            networks.append(network(row))
            labels.append(number(row[chosen], chosen))
        except GhnfastError as error:
            raise PropertyError(f"line {line} of {path}: {error}") from error
    return Labels(networks, np.array(labels), chosen)


def read_rows(path: Path) -> tuple[list[str], list[Row]]:
    """The columns of a file, and its rows."""
    with as_csv(path):
        with open(path, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else open(path, "rb") as file:
            return rows_in(file, path)


def rows_in(file: gzip.GzipFile | io.BufferedReader | io.BytesIO, path: Path) -> tuple[list[str], list[Row]]:
    """What `read_rows` returns, of an open file of this name.

    Spreadsheets write a mark before UTF-8, and people a blank after a comma.
    """
    with as_csv(path):
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        reader = csv.DictReader(text, strict=True, skipinitialspace=True)
        columns = [name.strip() for name in reader.fieldnames or ()]
        repeated = [name for at, name in enumerate(columns) if name in columns[:at]]
        if repeated:
            raise PropertyError(f"{path} has the column {repeated[0]!r:.40} more than once; once is accepted")
        reader.fieldnames = columns
        rows: list[Row] = []
        for row in reader:
            if None in row or None in row.values():
                raise PropertyError(f"line {reader.line_num} of {path} has another number of fields than the first")
            if len(rows) == MOST_ROWS:
                raise PropertyError(f"{path} has more than {MOST_ROWS:,} networks; as many are accepted")
            rows.append((reader.line_num, {name: value.strip() for name, value in row.items()}))
        return columns, rows


@contextlib.contextmanager
def as_csv(path: Path) -> Iterator[None]:
    """Whatever reading raises, as one error that names the file."""
    try:
        yield
    except PropertyError:
        raise
    except (OSError, EOFError, zlib.error, UnicodeError, ValueError, csv.Error) as error:
        raise PropertyError(f"{path} cannot be read as CSV: {in_words(error)}") from error


def reader_of(columns: Sequence[str], path: str | os.PathLike[str]) -> Callable[[dict[str, str]], Architecture]:
    """What makes a network of a row."""
    if "architecture" in columns:
        return lambda row: named(row["architecture"])
    if "split" not in columns or "index" not in columns:
        raise PropertyError(f"{path} names no networks; {NETWORKS} is accepted")
    data_sets: dict[str, DeepNets1M] = {}

    def sampled(row: dict[str, str]) -> Architecture:
        split, index = row["split"], row["index"]
        if split not in SIZES or not index.isdecimal() or len(index) > 18:
            raise ConfigError(f"network {index!r:.40} of the split {split!r:.40}; {', '.join(SIZES)} are accepted")
        if split not in data_sets:
            data_sets[split] = DeepNets1M(split)
        return data_sets[split][int(index)]

    return sampled


def named(text: str) -> Architecture:
    """The network that a text names; those of spaces stay texts, of which modules are made one at a time."""
    if text.startswith("Genotype") or text.isalpha():
        return Genotype.of(text)
    return check_name(text)


def number(text: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PropertyError(f"{column} is {text!r:.40}; finite numbers are accepted")
    return value
