"""Files of labels: what is read, and where what is wrong is said to be."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ghnfast import PropertyError
from ghnfast.deepnets import GENOTYPES, DeepNet
from ghnfast.properties import read_labels
from ghnfast.spaces.nas_bench_201 import EXAMPLE


def write(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_architectures(tmp_path: Path) -> None:
    genotype = repr(GENOTYPES["PDARTS"])
    text = f'architecture,accuracy,ms\n01220211,90.5,3\nDARTS,91,2\n{EXAMPLE},92,1\n"{genotype}",1e1,0\n'
    for column, wanted in ((None, [90.5, 91, 92, 10]), ("ms", [3, 2, 1, 0])):
        read = read_labels(write(tmp_path, text), column)
        assert read.networks == ["01220211", GENOTYPES["DARTS"], EXAMPLE, GENOTYPES["PDARTS"]]
        np.testing.assert_array_equal(read.labels, wanted)
        assert read.column == (column or "accuracy")


def test_networks_of_splits_compressed(tmp_path: Path) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(b"split,index,seconds\nval,3,0.5\ntest,499,1.5\n"))
    read = read_labels(path)
    assert [(item.split, item.index) for item in read.networks if isinstance(item, DeepNet)] == [
        ("val", 3),
        ("test", 499),
    ]
    assert read.column == "seconds"


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["no mark", "mark"])
@pytest.mark.parametrize("comma", [",", ", ", " ,", " , "])
@pytest.mark.parametrize("blank", [0, 2], ids=["no blank lines", "blank lines"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_as_spreadsheets_and_people_write(
    mark: str, comma: str, blank: int, end: str, compress: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path, genotype = tmp_path / "labels.csv", f'"{GENOTYPES["PDARTS"]!r}"' if comma[0] == "," else "PDARTS"
    for names, rows in (
        (["split", "index", "genauigkeit in %"], [["val", "3", "0.5"], ["test", "499", "1.5"]]),
        (["accuracy", "architecture", "größe"], [["0.5", genotype, "1"], ["1.5", "DARTS", "2"]]),
        (["", "architecture", "loss"], [["0", genotype, "0.5"], ["1", "DARTS", "1.5"]]),  # as data frames are
    ):
        path.write_bytes(
            compress((mark + end * blank + "".join(comma.join(line) + end for line in (names, *rows))).encode())
        )
        read = read_labels(path)
        assert read.column in names
        np.testing.assert_array_equal(read.labels, [0.5, 1.5])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_pipe_is_read_once(compress: Callable[[bytes], bytes]) -> None:
    """As shells give the output of a command."""
    reading, writing = os.pipe()
    try:
        with open(writing, "wb") as pipe:
            pipe.write(compress(b"architecture,accuracy\n01220211,1\n"))
        assert read_labels(f"/dev/fd/{reading}").labels.tolist() == [1]
    finally:
        os.close(reading)


WRONG = {
    "": "no line",
    "architecture,accuracy\n": "no line",
    "network,accuracy\n01220211,3\n": "architecture",
    "split,accuracy\nval,3\n": "names no networks: it has the columns 'split', 'accuracy'; a column 'architecture'",
    "split;index;accuracy\nval;1;3\n": "it has the columns 'split;index;accuracy'; .*commas between columns",
    "split\tindex\taccuracy\nval\t1\t3\n": "names no networks: it has the columns .*commas between columns",
    "architecture\n01220211\n": "no column",
    "architecture,a,b\n01220211,1,2\n": "no column 'accuracy'; it has a, b",
    "architecture,accuracy\n01220211,nan\n": "line 2",
    "architecture,accuracy\n01220211,1\n01220212,inf\n": "line 3",
    "architecture,accuracy\n01220211,good\n": "'good'",
    "architecture,accuracy\n0122021,1\n": "line 2.*NAS-Bench",
    "architecture,accuracy\nresnet,1\n": "line 2.*genotype",
    "architecture,accuracy\nGenotype(1),1\n": "line 2",
    "architecture,accuracy\n01220211\n": "line 2.*fields",
    "architecture,accuracy\n01220211,1,2\n": "line 2.*fields",
    "split,index,accuracy\nval,500,1\n": "line 2.*500",
    "split,index,accuracy\nval,-1,1\n": "line 2.*-1",
    "split,index,accuracy\nvalidation,1,1\n": "line 2.*validation",
    'architecture,accuracy\n"01220211,1\n': "CSV",
    "architecture,accuracy, accuracy\n01220211,1,2\n": "'accuracy' more than once",
    "split,index,channels,accuracy\nval,0,8,90\n": "measured networks, and no column 'data' and .*without 'channels'",
    ",architecture,a,b\n0,01220211,1,2\n": "no column 'accuracy'; it has a, b",
}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings_are_named(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("architecture,genauigkeit_ä\n01220211,1\n", encoding=encoding)
    what = r"(it is no text in UTF-8 \(it has the byte 0x\w\w\)|it has bytes that are 0)"
    with pytest.raises(PropertyError, match=rf"labels.csv cannot be read as CSV: {what}; lines of text in UTF-8, with"):
        read_labels(path)


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong(text: str, tmp_path: Path) -> None:
    with pytest.raises(PropertyError, match=WRONG[text]):
        read_labels(write(tmp_path, text))


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PropertyError, match="'ms'; it has accuracy"):
        read_labels(write(tmp_path, "architecture,accuracy\n01220211,1\n"), "ms")


def test_files_that_are_none(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.csv"
    for content in (b"\xff\xfe\x00binary", gzip.compress(b"architecture,accuracy\n" * 50)[:-9], b"\x1f\x8bno gzip"):
        damaged.write_bytes(content)
        with pytest.raises(PropertyError, match=r"cannot be read|names no|no line"):
            read_labels(damaged)
    for path in (tmp_path, tmp_path / "missing.csv", Path("/dev/zero")):
        with pytest.raises(PropertyError, match="cannot be read"):
            read_labels(path)
    for wrong in (None, 3, b"labels.csv"):
        with pytest.raises(PropertyError, match=r"the file is .*; the path of a CSV file is accepted"):
            read_labels(wrong)  # type: ignore[arg-type]
