"""Rows of CSV files, as programs, spreadsheets and people write them."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from ..errors import PropertyError
from ..files import in_words
from ..training.config import MOST_SEED

MOST_ROWS = 1_000_000
ACCEPTED = "lines of text in UTF-8, with commas between columns, are accepted"
MOST_NUMBER = 10**18 - 1  # of whole numbers but seeds: it fits into 64 bits
MOST_LINE = 1 << 24  # letters: longer ones are of files of something else, or of a device that has no end
Row: TypeAlias = tuple[int, dict[str, str]]  # the number of its line, and its fields by column


def read_rows(path: str | os.PathLike[str]) -> tuple[list[str], list[Row]]:
    """The columns of a file, and its rows. It is opened once: it may be a pipe, which is read once."""
    if not isinstance(path, (str, os.PathLike)):
        raise PropertyError(f"the file is {path!r:.80}; the path of a CSV file is accepted")
    with as_csv(Path(path)), open(path, "rb") as raw:
        compressed = raw.peek(2)[:2] == b"\x1f\x8b"
        with gzip.open(raw) if compressed else contextlib.nullcontext(raw) as file:
            return rows_in(file, Path(path))


def rows_in(file: gzip.GzipFile | io.BufferedReader | io.BytesIO, path: Path) -> tuple[list[str], list[Row]]:
    """What `read_rows` returns, of an open file of this name.

    Spreadsheets write a mark before UTF-8, and people a blank after a comma.
    """
    with as_csv(path):
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            return rows_of(text, path)
        finally:
            text.detach()  # whoever opened the file closes it


def rows_of(text: io.TextIOWrapper, path: Path) -> tuple[list[str], list[Row]]:
    reader = csv.DictReader(lines_of(text, path), strict=True, skipinitialspace=True)
    while reader.fieldnames == []:  # a blank line, as others are between rows
        reader.fieldnames = None
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


def lines_of(text: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """Lines of some length without NUL, which power losses leave, and which is half of the letters of UTF-16."""
    while line := text.readline(MOST_LINE):
        if "\0" in line:  # some versions of Python's reader take it
            raise PropertyError(f"{path} cannot be read as CSV: it has bytes that are 0; {ACCEPTED}")
        if len(line) == MOST_LINE:
            raise PropertyError(f"{path} cannot be read as CSV: it has a line of {MOST_LINE:,} letters; {ACCEPTED}")
        yield line


@contextlib.contextmanager
def as_csv(path: Path) -> Iterator[None]:
    """Whatever reading raises, as one error that names the file."""
    try:
        yield
    except PropertyError:
        raise
    except (OSError, EOFError, zlib.error, UnicodeError, ValueError, csv.Error) as error:
        if isinstance(error, OSError) and error.strerror is not None:
            raise PropertyError(f"{path} cannot be read as CSV: {in_words(error)}") from error
        raise PropertyError(f"{path} cannot be read as CSV: {in_words(error)}; {ACCEPTED}") from error


def number(text: str, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise PropertyError(f"{column} is {text!r:.40}; finite numbers are accepted")
    return value


def whole_number(text: str, column: str) -> int:
    most = MOST_SEED if column == "seed" else MOST_NUMBER
    if not text.isdecimal() or len(text) > len(str(most)) or int(text) > most:
        raise PropertyError(f"{column} is {text!r:.40}; whole numbers up to {most} are accepted")
    return int(text)
