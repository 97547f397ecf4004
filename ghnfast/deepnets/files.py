"""The files of the published data set: deepnets1m_{train,eval,search}.hdf5, and a _meta.json beside each.

The HDF5 file has, for each network of a split, SPLIT/INDEX/adj, the uint8 matrix of shortest-path distances (from, to),
and SPLIT/INDEX/nodes, uint16 rows (primitive, cell, name) that index two tables of the JSON file, which also has the
settings of each network.
"""

from __future__ import annotations

import io
import json
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _C
from ..errors import DatasetError
from ..graph import PRIMITIVES, ArchGraph
from ..optional import import_optional
from ..refusals import verdict
from .genotype import Genotype
from .operations import is_norm
from .space import FIELDS, PUBLISHED_NORM, settings_of

EVALUATION = ("val", "test", "wide", "deep", "dense", "bnfree")
NODE_FIELDS = 3  # of a row of `nodes`
MOST_NODES = 10_000  # of a network; published ones have up to 1,017
# What damaged and foreign files make of reading: h5py and JSON raise nearly anything.
DAMAGE = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError, OSError,
    RuntimeError,
)  # fmt: skip
DECODER = json.JSONDecoder()
DRAWN = {"C": 32, "fc_dim": 256}  # what files may leave open for the splits train and search, with stand-ins
IMAGE_SIZES = ("cifar10", "imagenet")  # the names of the numbers of parameters


def open_hdf5(path: Path | io.FileIO, mode: str = "r") -> Any:
    """An HDF5 file, from its path or what is open already.

    Raises:
        MissingPackageError: h5py is not installed.
        DatasetError: the file is not there, or is no HDF5 file.
    """
    h5py = import_optional("h5py", "files of DeepNets-1M need")
    try:
        return h5py.File(path, mode)
    except DAMAGE as error:
        name = path.name if isinstance(path, io.FileIO) else path
        raise DatasetError(f"{name} {verdict(error, 'cannot be opened as an HDF5 file')}: {error}") from error


def hdf5_path(root: str | os.PathLike[str], split: str) -> Path:
    return Path(root) / f"deepnets1m_{'eval' if split in EVALUATION else split}.hdf5"


def meta_path(file: Path) -> Path:
    return file.with_name(f"{file.stem}_meta.json")


class PublishedFile:
    """The networks of a split in published files.

    The settings of a million networks are half a gigabyte of JSON: they are looked through once, and each is read when
    it is asked for. Every process opens the HDF5 file for itself.

    Raises:
        DatasetError: a file is not there, truncated, or not of the data set.
    """

    def __init__(self, root: str | os.PathLike[str], split: str) -> None:
        self.split, self.path = split, hdf5_path(root, split)
        meta = meta_path(self.path)
        for path in (self.path, meta):
            if not os.path.isfile(path):
                raise DatasetError(f"{path} is not there; the split {split} is read from it")
        self.meta = meta
        try:
            # Latin-1 keeps positions: one character a byte. JSON's own strings are ASCII here.
            text = meta.read_bytes().decode("latin-1")
            self.offsets, self.nodes, tables = index_networks(text, split)
            self.primitives = table_of(tables["primitives_ext"])
            self.names = table_of(tables["unique_op_names"])
        except DAMAGE as error:
            what = verdict(error, f"does not describe the split {split} of DeepNets-1M")
            raise DatasetError(f"{meta} {what}: {error!r:.200}") from error
        self.opened: tuple[int, Any] | None = None
        try:
            count = len(self.group())
        except RuntimeError as error:  # what h5py raises where the index of a group is damaged
            raise DatasetError(f"the split {split} in {self.path} is broken: {error}") from error
        if count < len(self):
            raise DatasetError(f"{self.path} has {count} networks of the split {split}, {meta} {len(self)}")

    def __len__(self) -> int:
        return len(self.nodes)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "opened": None}  # a file that is open stays with its process

    def num_nodes(self, index: int) -> int:
        return int(self.nodes[index])

    def group(self) -> Any:
        """The HDF5 group of the split, opened by this process."""
        if self.opened is None or self.opened[0] != os.getpid():
            self.opened = os.getpid(), open_hdf5(self.path)
        file = self.opened[1]
        try:
            found = file.get(self.split)
            if hasattr(found, "keys"):  # else it is an array
                return found
            others = ", ".join(file) or "none"
        except DAMAGE as error:
            raise DatasetError(f"{self.path} {verdict(error, 'is damaged')}: {error!r:.200}") from error
        raise DatasetError(f"{self.path} has no split {self.split}; it has {others}")

    def network(self, index: int) -> tuple[Genotype, dict[str, Any], dict[str, int]]:
        """The genotype, the other settings, and the numbers of parameters of a network.

        Raises:
            DatasetError: they are damaged, or settings that no network can have.
        """
        try:
            with open(self.meta, "rb") as file:
                file.seek(self.offsets[index])
                content = file.read(self.offsets[index + 1] - self.offsets[index])
            found, _ = DECODER.raw_decode(content.decode("latin-1"))
            drawn = DRAWN if self.split in ("train", "search") else {}
            args = {field: found[field] for field in FIELDS if field in found or field not in drawn}
            args["norm"] = PUBLISHED_NORM if is_norm(args["norm"]) else None
            genotype = Genotype.of(found["genotype"])
            settings_of(genotype=genotype, num_classes=1, **{**drawn, **args})
            return genotype, args, {size: count_of(found["num_params"][size]) for size in IMAGE_SIZES}
        except DAMAGE as error:
            raise DatasetError(
                f"network {index} of the split {self.split} in {self.meta} {verdict(error, 'is broken')}: "
                f"{error!r:.300}"
            ) from error

    def graph(self, index: int, settings: _C.NetworkSettings) -> ArchGraph:
        """The graph that the HDF5 file has of a network; the shapes are those of its settings."""
        try:
            distances, rows = read_arrays(self.group()[str(index)])
            return make_graph(distances == 1, rows, self.primitives, self.names, dict(settings.parameters()))
        except DAMAGE as error:
            raise DatasetError(
                f"the graph of network {index} of the split {self.split} in {self.path} {verdict(error, 'is broken')}: "
                f"{error}"
            ) from error


def table_of(entries: dict[str, str]) -> list[str]:
    """{"0": name, ...} as a list."""
    names = [entries[str(number)] for number in range(len(entries))]
    if not all(isinstance(name, str) for name in names):
        raise DatasetError("a table has something else than names")
    return names


def count_of(value: object, most: int = 1 << 62) -> int:
    if not isinstance(value, int) or not 1 <= value <= most:
        raise DatasetError(f"a number is {value!r:.40}; 1 to {most} are accepted")
    return value


def read_arrays(group: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """`adj` and `nodes` of a network. Their sizes come first: HDF5 has huge arrays of nothing in a few bytes."""
    adj, nodes = group["adj"], group["nodes"]
    count = nodes.shape[0]
    if nodes.shape != (count, NODE_FIELDS) or adj.shape != (count, count) or not 1 <= count <= MOST_NODES:
        raise DatasetError(
            f"adj is {adj.shape}, nodes {nodes.shape}; (n, n) and (n, {NODE_FIELDS}), n up to {MOST_NODES}, are taken"
        )
    if adj.dtype.kind not in "iu" or nodes.dtype.kind not in "iu":
        raise DatasetError(f"adj is {adj.dtype}, nodes {nodes.dtype}; whole numbers are accepted")
    return np.asarray(adj), np.asarray(nodes).astype(np.int64)


def index_networks(text: str, split: str) -> tuple[array[int], array[int], dict[str, Any]]:
    """Where the settings of each network stand in a JSON file, how many nodes each has, and the split's tables.

    Raises:
        DatasetError, or another of DAMAGE: the file has another layout.
    """
    offsets, nodes = array("q"), array("q")
    tables: dict[str, Any] = {}

    def read_network(at: int) -> int:
        found, end = DECODER.raw_decode(text, at)
        offsets.append(at)
        nodes.append(count_of(found["num_nodes"], MOST_NODES))
        return end

    def read_split(key: str, at: int) -> int:
        if key == "nets":
            end = walk_list(text, at, read_network)
            offsets.append(end)
            return end
        tables[key], end = DECODER.raw_decode(text, at)
        return end

    def read_file(key: str, at: int) -> int:
        if key == split:
            return walk_dict(text, at, read_split)
        return DECODER.raw_decode(text, at)[1]

    walk_dict(text, skip_space(text, 0), read_file)
    if not offsets:
        raise DatasetError(f"it has no networks of the split {split}")
    return offsets, nodes, tables["meta"]


def skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def expect(text: str, at: int, character: str) -> int:
    at = skip_space(text, at)
    if text[at : at + 1] != character:
        raise DatasetError(f"{character!r} was expected at byte {at}")
    return skip_space(text, at + 1)


def walk_items(text: str, at: int, brackets: str, read: Callable[[int], int]) -> int:
    """Call `read(start)`, which returns the end, for each of the items between brackets; the end of the whole."""
    at = expect(text, at, brackets[0])
    if text[at : at + 1] == brackets[1]:
        return at + 1
    while True:
        at = skip_space(text, read(at))
        if text[at : at + 1] == brackets[1]:
            return at + 1
        at = expect(text, at, ",")


def walk_list(text: str, at: int, read: Callable[[int], int]) -> int:
    return walk_items(text, at, "[]", read)


def walk_dict(text: str, at: int, read: Callable[[str, int], int]) -> int:
    def read_pair(start: int) -> int:
        key, end = DECODER.raw_decode(text, start)
        return read(str(key), expect(text, end, ":"))

    return walk_items(text, at, "{}", read_pair)


ROOTS = {PRIMITIVES.index(name) for name in ("input", "pos_enc")}

# Graphs ---------------------------------------------------------------------------------------------------------------


def primitive_of(name: str) -> int:
    """The primitive that a file's name of one means: some have the size of their kernel, some an older name."""
    name = "bias" if name == "fc-b" else name
    for primitive in PRIMITIVES:
        if name == primitive or name.startswith(f"{primitive}_"):
            return PRIMITIVES.index(primitive)
    raise DatasetError(f"there is no primitive {name!r}")


def parameter_name(name: str, cell: int) -> str:
    """The name of a parameter in the network, from that within its cell. Files of different age differ."""
    if name.startswith(("classifier", "stem", "pos_enc")):
        return name
    name = f"{name}weight" if name.endswith("to_out.0.") else name
    parts = name.split(".")
    if parts[0] == "_ops" and len(parts) > 2 and parts[2].isdigit():
        parts.insert(2, "op")
    return f"cells.{cell}.{'.'.join(parts)}"


def make_graph(
    adjacent: NDArray[np.bool_],
    rows: NDArray[Any],
    primitives: list[str],
    names: list[str],
    shapes: dict[str, tuple[int, ...]],
) -> ArchGraph:
    """A graph from a file's matrix and rows of nodes, and the shapes of the network's parameters.

    Raises:
        DatasetError: a row has no entry in a table, or nodes are not connected or not in topological order.
    """
    for what, numbers, table in (("primitive", rows[:, 0], primitives), ("name", rows[:, 2], names)):
        if numbers.min() < 0 or numbers.max() >= len(table):
            raise DatasetError(
                f"a node has a {what} from {numbers.min()} to {numbers.max()}; the table has {len(table)}"
            )
    edges = np.argwhere(adjacent)
    order, levels = sort_by_level(len(rows), edges)
    position = np.argsort(order)
    placed_edges: NDArray[np.int32] = position[edges].astype(np.int32)
    placed_edges = placed_edges[np.lexsort((placed_edges[:, 0], placed_edges[:, 1]))]
    kinds = np.array([primitive_of(primitives[kind]) for kind in rows[order, 0].tolist()], dtype=np.int8)
    roots = np.setdiff1d(np.arange(len(rows)), placed_edges[:, 1])
    if not set(kinds[roots].tolist()) <= ROOTS:
        raise DatasetError("a node has no edge that leads to it, and is neither an input nor a position encoding")
    weights, norm_biases, node_shapes = label_nodes(kinds.tolist(), rows[order].tolist(), names, shapes)
    placed = {name: shapes[name] for name in (*weights, *norm_biases) if name is not None}
    last = [node for node, name in enumerate(weights) if name is not None and name.startswith("classifier.")]
    if len(last) < 2:
        raise DatasetError("it has no classification layer")
    return ArchGraph(
        primitives=kinds,
        edges=placed_edges,
        level_offsets=np.flatnonzero(np.diff(levels, prepend=-1, append=levels[-1] + 1)).astype(np.int32),
        shapes=node_shapes,
        weights=weights,
        norm_biases=norm_biases,
        classifier_weight=last[-2],
        classifier_bias=last[-1],
        parameter_shapes=placed,
        skipped={name: "the file's graph does not have it" for name in shapes if name not in placed},
    )


def label_nodes(
    kinds: list[int], rows: list[list[int]], names: list[str], shapes: dict[str, tuple[int, ...]]
) -> tuple[list[str | None], list[str | None], list[tuple[int, ...] | None]]:
    """Of nodes of these primitives: the weight, the bias of a normalization, and the shape."""
    weights: list[str | None] = []
    norm_biases: list[str | None] = []
    node_shapes: list[tuple[int, ...] | None] = []
    for kind, (_, cell, name) in zip(kinds, rows, strict=True):
        full = parameter_name(names[name], cell)
        found = shapes.get(full)
        weights.append(full if found is not None else None)
        bias = f"{full.removesuffix('weight')}bias"
        norm_biases.append(bias if PRIMITIVES[kind] in ("bn", "ln") and bias in shapes else None)
        pool = (1, 1, 3, 3) if PRIMITIVES[kind] in ("max_pool", "avg_pool") else None
        node_shapes.append((*found, 1, 1, 1)[:4] if found is not None else pool)
    return weights, norm_biases, node_shapes


def sort_by_level(nodes: int, edges: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The nodes in order of the longest path to them, and how long that is.

    Raises:
        DatasetError: an edge does not lead to a later node.
    """
    if (edges[:, 0] >= edges[:, 1]).any():
        raise DatasetError("its nodes are not in topological order")
    level = [0] * nodes
    for source, target in edges[np.argsort(edges[:, 1], kind="stable")].tolist():
        level[target] = max(level[target], level[source] + 1)
    order = np.argsort(level, kind="stable")
    return order, np.array(level, dtype=np.int64)[order]
