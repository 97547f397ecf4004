"""Writing splits of DeepNets-1M in the published format, and the published table of statistics.

HDF5 files do not survive a process that is killed while it writes. So networks are written in parts, each of which is
renamed when it is complete; the parts are put together at the end, and the two results are moved to their places. What
is there is not generated again.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _C
from ..errors import DatasetError
from ..files import in_words, replacing
from ..graph import PRIMITIVES
from ..locks import alone, lock_beside
from ..progress import Progress
from .dataset import SIZES, SPLITS, DeepNet, DeepNets1M
from .files import EVALUATION, hdf5_path, meta_path, open_hdf5

CUTOFF = 250  # hops, up to which the published files have distances
PART = 2000  # networks of a part
STATISTICS_STEP = 2000  # networks between two reports of progress

# The tables that rows of nodes index. Every name that a network can have is in them, so that parts agree.
PRIMITIVE_NAMES = (*PRIMITIVES, "conv_1x1")
MOST_EDGES = 20
OPERATION_SUFFIXES = (
    *(f"op.{layer}.weight" for layer in (1, 2, 3, 5, 6, 7)),
    "conv_1.weight", "conv_2.weight", "bn.weight", "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias",
    "to_qkv.weight", "to_out.0.weight", "to_out.0.bias", "ln1.weight", "ln2.weight",
    "ff.net.0.weight", "ff.net.0.bias", "ff.net.3.weight", "ff.net.3.bias",
)  # fmt: skip
NAMES = (
    *PRIMITIVES, "stem0.weight", "pos_enc.weight", "stem.0.weight", "stem.1.weight",
    *(f"stem0.{layer}.weight" for layer in (0, 1, 3, 4)), "stem1.1.weight", "stem1.2.weight",
    *(f"preprocess{side}.{name}" for side in (0, 1) for name in ("op.1.weight", "op.2.weight")),
    *(f"preprocess0.{name}" for name in ("conv_1.weight", "conv_2.weight", "bn.weight")),
    *(f"classifier.{layer}.{name}" for layer in (0, 3) for name in ("weight", "bias")),
    *(f"_ops.{edge}.{suffix}" for edge in range(MOST_EDGES) for suffix in OPERATION_SUFFIXES),
)  # fmt: skip
NUMBER_OF_NAME = {name: number for number, name in enumerate(NAMES)}


def write_splits(
    root: str | os.PathLike[str], counts: dict[str, int], seed: int, progress: Progress = lambda count: None
) -> tuple[Path, Path]:
    """Write the first networks of splits that share a file; the paths of the HDF5 file and of the JSON file.

    Args:
        counts: how many networks of each split.
        progress: is told of each number of networks that were written, or found.

    Raises:
        DatasetError: the files are there already, or cannot be written.
    """
    path = hdf5_path(root, next(iter(counts)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(lock_beside(path), str(path), "written", "another folder", DatasetError):
            write_missing(path, counts, seed, progress)
    except OSError as error:
        raise DatasetError(f"{path} cannot be written: {in_words(error)}") from error
    return path, meta_path(path)


def write_missing(path: Path, counts: dict[str, int], seed: int, progress: Progress) -> None:
    parts, finished = parts_of(path, counts, seed)
    graphs, settings = whole_paths(parts, counts)
    parts.mkdir(exist_ok=True)
    for split, count in counts.items():
        for begin in range(0, count, PART):
            end = min(begin + PART, count)
            if not finished:
                write_part(parts, DeepNets1M(split, seed=seed, size=count), begin, end)
            progress(end - begin)
    if not finished:
        put_together(parts, counts)
    for piece in parts.iterdir():
        if piece not in (graphs, settings):
            piece.unlink()
    if os.path.exists(settings):
        os.replace(settings, meta_path(path))
    os.replace(graphs, path)
    parts.rmdir()


class Disk(io.FileIO):
    """A file that keeps what the disk refuses, for `check` to raise, and takes the rest for written.

    HDF5 does not survive a write that fails: what it has open then ends the process as it is closed.
    """

    refusal: OSError | None = None

    def write(self, data: Any, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left and self.refusal is None:  # a disk that is nearly full takes a part
            with self.keeping():
                left = left[super().write(left) :]
        return size

    def truncate(self, size: int | None = None, /) -> int:
        with self.keeping():
            super().truncate(size)
        return self.tell() if size is None else size

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.refusal = error

    def check(self) -> None:
        """Raise what the disk has refused, if anything."""
        if self.refusal is not None:
            raise self.refusal


@contextlib.contextmanager
def written_hdf5(path: Path) -> Iterator[tuple[Any, Disk]]:
    """A new HDF5 file, and what it is written to; after the block it is on the disk. What fails leaves none."""
    try:
        with Disk(path, "w+") as disk:
            with open_hdf5(disk, "w") as file:
                yield file, disk
            disk.check()
            os.fsync(disk.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def part_paths(parts: Path, split: str, begin: int, end: int) -> tuple[Path, Path]:
    stem = f"{split}-{begin:07d}-{end:07d}"
    return parts / f"{stem}.hdf5", parts / f"{stem}.json"


def parts_of(path: Path, counts: dict[str, int], seed: int) -> tuple[Path, bool]:
    """The folder of the parts of a file; whether a call that was killed has put them together, and no more than that.

    Raises:
        DatasetError: the file, or the one beside it, is there already, and is not that call's.
    """
    # The name says what the parts are of, so that those of another call are not taken for it.
    parts = path.parent / f".{path.stem}-seed{seed}"
    graphs, settings = whole_paths(parts, counts)
    finished = os.path.exists(graphs)
    for existing, own in ((path, graphs), (meta_path(path), settings)):
        if os.path.exists(existing) and (not finished or os.path.exists(own)):
            with contextlib.suppress(OSError):
                parts.rmdir()  # an empty folder is all that a killed call may have left
            raise DatasetError(f"{existing} is there already; another folder, or one without it, is accepted")
    return parts, finished


def whole_paths(parts: Path, counts: dict[str, int]) -> tuple[Path, Path]:
    """The two files that parts are put together to. Where the first is there, the second was there before it."""
    stem = "-".join(["whole", *(f"{split}{count}" for split, count in counts.items())])
    return parts / f"{stem}.hdf5", parts / f"{stem}.json"


def write_part(parts: Path, dataset: DeepNets1M, begin: int, end: int) -> None:
    graphs, settings = part_paths(parts, dataset.split, begin, end)
    if os.path.exists(graphs) and os.path.exists(settings):
        return
    temporary = graphs.with_suffix(".tmp")
    networks = []
    with written_hdf5(temporary) as (file, disk):
        for index in range(begin, end):
            disk.check()
            item = dataset[index]
            distances, rows = file_rows(item)
            file.create_dataset(f"{index}/adj", data=distances)
            file.create_dataset(f"{index}/nodes", data=rows)
            networks.append(file_settings(item, len(rows)))
    with replacing(settings) as output:
        output.write("".join(f"{json.dumps(network)}\n" for network in networks).encode())
    os.replace(temporary, graphs)


def file_rows(item: DeepNet) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """The matrix of distances and the rows of nodes, cell by cell."""
    graph, cells = item.graph, item.settings.node_cells()
    order = np.argsort(cells, kind="stable")  # no edge leads to an earlier cell, so this is a topological order
    rows = np.empty((len(graph), 3), dtype=np.uint16)
    for row, node in zip(rows, order.tolist(), strict=True):
        primitive, shape = PRIMITIVES[graph.primitives[node]], graph.shapes[node]
        name = graph.weights[node] or primitive
        if name.startswith("cells."):
            name = name.split(".", 2)[2]
        pointwise = primitive == "conv" and shape is not None and shape[2:] == (1, 1)
        row[:] = PRIMITIVE_NAMES.index("conv_1x1" if pointwise else primitive), cells[node], NUMBER_OF_NAME[name]
    return graph.distances(CUTOFF)[np.ix_(order, order)], rows


def file_settings(item: DeepNet, nodes: int) -> dict[str, Any]:
    """The settings of a network as the JSON file has them."""
    assert item.genotype is not None
    args = {key: value for key, value in item.args.items() if key != "C"}
    if item.split == "train":
        args["fc_dim"] = 256  # channels and widths of training networks are drawn when they are read
    else:
        args["C"] = item.args["C"] // (4 if item.split == "wide" else 1)
    return {**args, "genotype": item.genotype.as_dict(), "num_nodes": nodes, "num_params": item.num_params}


def put_together(parts: Path, counts: dict[str, int]) -> None:
    target, settings = whole_paths(parts, counts)
    temporary = target.with_suffix(".tmp")
    with written_hdf5(temporary) as (whole, disk):
        whole.attrs["title"] = "DeepNets-1M"
        for split, count in counts.items():
            group = whole.create_group(split)
            for begin in range(0, count, PART):
                graphs, _ = part_paths(parts, split, begin, min(begin + PART, count))
                with open_hdf5(graphs) as part:
                    for index in part:
                        disk.check()
                        part.copy(index, group)
    with replacing(settings) as output:
        for text in settings_text(parts, counts):
            output.write(text.encode())
    os.replace(temporary, target)


def settings_text(parts: Path, counts: dict[str, int]) -> Iterator[str]:
    """The JSON file, piece by piece."""
    tables = {
        "primitives_ext": {str(number): name for number, name in enumerate(PRIMITIVE_NAMES)},
        "unique_op_names": {str(number): name for number, name in enumerate(NAMES)},
    }
    opening = "{"
    for split, count in counts.items():
        yield f'{opening}"{split}": {{"nets": ['
        for begin in range(0, count, PART):
            _, settings = part_paths(parts, split, begin, min(begin + PART, count))
            yield ("" if begin == 0 else ", ") + ", ".join(settings.read_text().splitlines())
        yield f'], "meta": {json.dumps(tables)}}}'
        opening = ", "
    yield "}"


# Statistics -----------------------------------------------------------------------------------------------------------


def gather_statistics(
    split: str, count: int, seed: int, threads: int, progress: Progress = lambda count: None
) -> dict[str, Any]:
    """The published statistics (appendix A of the paper) of the first networks of a split.

    Returns:
        graphs; (least, most) of cells, channels, nodes and params_millions; percent_without_bn; (mean, standard
        deviation) of avg_degree and avg_path, the mean distance of two nodes where edges have no direction; and
        primitive_percent, of all nodes.
    """
    ranges = DeepNets1M(split, seed=seed, size=count).ranges
    total: dict[str, Any] = {}
    for begin in range(0, count, STATISTICS_STEP):
        end = min(begin + STATISTICS_STEP, count)
        found = _C.statistics(SPLITS.index(split), seed, begin, end, ranges, threads)
        total = merged(total, found) if total else found
        progress(end - begin)
    graphs, primitives = total["graphs"], total["primitives"]
    return {
        "graphs": graphs,
        "cells": total["cells"],
        "channels": total["channels"],
        "nodes": total["nodes"],
        "percent_without_bn": 100 * total["without_norm"] / graphs,
        "params_millions": tuple(elements / 1e6 for elements in total["parameters"]),
        "avg_degree": mean_and_deviation(total["degree"], graphs),
        "avg_path": mean_and_deviation(total["path"], graphs),
        "primitive_percent": {
            name: 100 * number / sum(primitives) for name, number in zip(PRIMITIVES, primitives, strict=True)
        },
    }


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """The statistics of the networks of both."""
    least_and_most = {
        key: (min(a[key][0], b[key][0]), max(a[key][1], b[key][1]))
        for key in ("nodes", "cells", "channels", "parameters")
    }
    sums = {key: tuple(x + y for x, y in zip(a[key], b[key], strict=True)) for key in ("primitives", "degree", "path")}
    return {**least_and_most, **sums, **{key: a[key] + b[key] for key in ("graphs", "without_norm")}}


def mean_and_deviation(sums: Sequence[float], count: int) -> tuple[float, float]:
    mean = sums[0] / count
    return mean, math.sqrt(max(0.0, sums[1] / count - mean * mean))


def splits_to_write(name: str, count: int | None) -> dict[str, int]:
    """How many networks of which splits a name stands for: a split, or `eval` for all that share that file."""
    splits = EVALUATION if name == "eval" else (name,)
    return {split: SIZES[split] if count is None else count for split in splits}


# The rows of the paper's table: title, what it is of, how it is written.
ROWS = (
    ("graphs", "graphs", "{:,}"),
    ("cells", "cells", "{}-{}"),
    ("channels", "channels", "{}-{}"),
    ("nodes", "nodes", "{}-{}"),
    ("% without batch norm", "percent_without_bn", "{:.1f}"),
    ("parameters, millions", "params_millions", "{:.2f}-{:.1f}"),
    ("average degree", "avg_degree", "{:.1f} +- {:.1f}"),
    ("average path", "avg_path", "{:.1f} +- {:.1f}"),
)


def as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (list, tuple)) else (value,)


def format_statistics(columns: dict[str, dict[str, Any]]) -> str:
    """The table of the paper, a column for each split."""
    by_share = sorted(PRIMITIVES, key=lambda name: -next(iter(columns.values()))["primitive_percent"][name])
    rows = [["", *columns]]
    for title, key, text in ROWS:
        rows.append([title, *(text.format(*as_tuple(found[key])) for found in columns.values())])
    for name in by_share:
        rows.append([f"% {name}", *(f"{found['primitive_percent'][name]:.1f}" for found in columns.values())])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)
