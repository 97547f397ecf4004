"""Architecture graphs: `ArchGraph`, and batches of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, InitVar, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from . import _C
from .errors import GraphError
from .optional import import_optional

if TYPE_CHECKING:
    import networkx

PRIMITIVES = ("max_pool", "avg_pool", "sep_conv", "dil_conv", "conv", "msa", "cse", "sum", "concat", "input", "bias",
              "bn", "ln", "pos_enc", "glob_avg")  # fmt: skip
MAX_DISTANCE = 50
# Parameters of other types are kept as they are.
PREDICTED_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
# Of one parameter: the elements of all parameters of a graph are counted in 64 bits.
MOST_ELEMENTS = 1 << 40


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


class ParameterSlice(NamedTuple):
    """A part of a parameter that is predicted as a parameter of its own.

    parameter, parameter_shape: the name and shape of the whole.
    bounds: start, stop and step along each of its dimensions.
    shape: that of the part.
    dimensions: which dimension of the whole each dimension of the part is; -1 for one of size 1 that is none.
    """

    parameter: str
    parameter_shape: tuple[int, ...]
    bounds: tuple[tuple[int, int, int], ...]
    shape: tuple[int, ...]
    dimensions: tuple[int, ...]

    @property
    def label(self) -> str:
        """The part in Python's notation: "0:8, 0:16"; transposed parts end in their order of dimensions."""
        labels = [f"{start}:{stop}" + (f":{step}" if step > 1 else "") for start, stop, step in self.bounds]
        moved = [at for at in self.dimensions if at >= 0]
        return ", ".join(labels) + (f" as {moved}" if moved != sorted(moved) else "")

    def is_within(self) -> bool:
        """Whether the part is one: its bounds are in the whole, and give its shape."""
        if len(self.bounds) != len(self.parameter_shape) or len(self.dimensions) != len(self.shape):
            return False
        counts = [len(range(*bounds)) for bounds in self.bounds]
        inside = all(
            0 <= start < stop <= size and step > 0
            for (start, stop, step), size in zip(self.bounds, self.parameter_shape, strict=True)
        )
        sizes = [1 if at == -1 else counts[at] if 0 <= at < len(counts) else 0 for at in self.dimensions]
        return inside and tuple(sizes) == tuple(self.shape) and math.prod(counts) == math.prod(sizes)

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """The part of a parameter of this shape, in its memory."""
        part = whole.detach()[tuple(slice(*bounds) for bounds in self.bounds)]
        strides = [1 if at < 0 else part.stride(at) for at in self.dimensions]
        return part.as_strided(self.shape, strides, part.storage_offset())

    def overlaps(self, other: ParameterSlice) -> bool:
        """Whether two parts of one parameter have an element in common."""
        pairs = zip(self.bounds, other.bounds, strict=True)
        return all(not set(range(*one)).isdisjoint(range(*two)) for one, two in pairs)


class Reparametrization(NamedTuple):
    """A weight that a model computes from parameters, which can be computed from it: by its right inverse.

    module, tensor: the path of the module, and the name of its weight.
    originals: the names of the parameters.
    """

    module: str
    tensor: str
    originals: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ArchGraph:
    """The architecture graph of a network: a directed acyclic graph of primitives.

    Nodes are in topological order and sorted by level, so that a level is a run of nodes; the classification layer's
    weight and bias come last. It holds plain numpy arrays and names, no tensors and no modules: it pickles, and can be
    used again for every model with the same parameter names and shapes.

    Attributes:
        primitives: (nodes,) int8, index into `PRIMITIVES`.
        edges: (edges, 2) int32, one-hop edges (from, to), sorted by target.
        level_offsets: (levels + 1,) int32; level l holds the nodes level_offsets[l] up to level_offsets[l + 1].
        shapes: per node the 4-D shape that its embedding gets, or None.
        weights: per node the name of the parameter that is predicted from it, or None. A name on several nodes is a
            parameter that is used several times; it is predicted from the first.
        norm_biases: per node the name of a normalization layer's bias, predicted from the same node, or None.
        classifier_weight, classifier_bias: the nodes of the classification layer, or None.
        parameter_shapes: {name: shape} of the parameters that have a node; empty where shapes are not known, and
            nothing can be predicted.
        skipped: {name: reason} of the parameters that have no node.
        slices: {name: part} of the parts of parameters that have a node of their own; `weights` has these names.
        reparametrized: {name: weight} of the weights that are computed from parameters; `weights` has them under the
            name of one of these.
        input_shape: the shape (channels, height, width) of one input, or None where it is not known, or not one image.
        ran_on_numbers: why the forward had to be run on random numbers, or None where shapes were enough.

    Args:
        check: whether to check all of this, as is done with what is unpickled, too. Graphs of our own C++ are not
            checked: it would take a tenth of a small model's trace.

    Raises:
        GraphError: something of this does not hold.
    """

    primitives: NDArray[np.int8]
    edges: NDArray[np.int32]
    level_offsets: NDArray[np.int32]
    shapes: list[tuple[int, ...] | None]
    weights: list[str | None]
    norm_biases: list[str | None]
    classifier_weight: int | None = None
    classifier_bias: int | None = None
    parameter_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    input_shape: tuple[int, ...] | None = None
    ran_on_numbers: str | None = None
    slices: dict[str, ParameterSlice] = field(default_factory=dict)
    reparametrized: dict[str, Reparametrization] = field(default_factory=dict)
    check: InitVar[bool] = True

    def __post_init__(self, check: bool) -> None:
        if check:
            self.__dict__.update(checked_fields(self.__dict__))

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise GraphError(f"the state of a graph is a {type(state).__name__}; a dict of its attributes is accepted")
        self.__dict__.update(checked_fields(state))

    def __len__(self) -> int:
        return len(self.primitives)

    def __repr__(self) -> str:
        return f"ArchGraph({len(self)} nodes, {len(self.edges)} edges, {self.depth} levels)"

    @property
    def num_classes(self) -> int | None:
        """How many outputs the classification layer has, or None where there is none."""
        name = None if self.classifier_weight is None else self.weights[self.classifier_weight]
        return self.parameter_shapes[name][0] if name in self.parameter_shapes else None

    @property
    def ops(self) -> list[str]:
        """The primitive of each node, by name."""
        return [PRIMITIVES[index] for index in self.primitives.tolist()]

    @property
    def params(self) -> list[str | None]:
        """The parameter of each node, by name; a normalization layer's bias only where it has no weight."""
        return [weight or bias for weight, bias in zip(self.weights, self.norm_biases, strict=True)]

    @property
    def depth(self) -> int:
        """The number of levels: of nodes on the longest path."""
        return len(self.level_offsets) - 1

    @property
    def levels(self) -> NDArray[np.signedinteger]:
        """(nodes,) int32: the level of each node, never decreasing. No edge stays within a level."""
        return np.repeat(np.arange(self.depth, dtype=np.int32), np.diff(self.level_offsets))

    def distances(self, cutoff: int = MAX_DISTANCE) -> NDArray[np.uint8]:
        """Shortest-path distances in hops: (nodes, nodes) uint8, [from, to], 0 where there is no path within `cutoff`.

        These pairs are the virtual edges, weighted by one over the distance (Parameter Prediction for Unseen Deep
        Architectures, equation 4); those at distance 1 are edges as well.

        Raises:
            GraphError: `cutoff` is not within 1 to 255.
        """
        sources, targets, hops = GraphBatch([self]).topology(cutoff).pairs()
        matrix = np.zeros((len(self), len(self)), dtype=np.uint8)
        matrix[sources, targets] = hops
        return matrix

    @cached_property
    def shape_table(self) -> NDArray[np.int64]:
        """(nodes, 4): `shapes`, and -1 where there is none."""
        rows = [(-1, -1, -1, -1) if shape is None else shape for shape in self.shapes]
        return np.array(rows, dtype=np.int64).reshape(len(self), 4)

    @cached_property
    def derived(self) -> dict[Any, Any]:
        """What other parts of ghnfast compute of this graph and keep with it, each under a key of its own.

        It goes with the graph: no copy of it, nor what it is pickled as, has any of this. Threads may compute the same
        at the same time, so any of equal values has to do; one that refers to the graph keeps it in a circle.
        """
        return {}

    def to_networkx(self) -> networkx.DiGraph:
        """A networkx graph with the attributes `op`, `param` and `level` on its nodes.

        Raises:
            MissingPackageError: networkx is not installed.
        """
        graph: networkx.DiGraph = import_optional("networkx", "ArchGraph.to_networkx needs").DiGraph()
        labels = zip(self.ops, self.params, self.levels.tolist(), strict=True)
        graph.add_nodes_from(
            (node, {"op": op, "param": p, "level": level}) for node, (op, p, level) in enumerate(labels)
        )
        graph.add_edges_from(self.edges.tolist())
        return graph


# Checks ---------------------------------------------------------------------------------------------------------------


def checked_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a graph, arrays in their own types and sequences as lists and tuples.

    Raises:
        GraphError: see `ArchGraph`.
    """
    missing = [each.name for each in fields(ArchGraph) if each.name not in given and not has_default(each)]
    if missing:
        raise GraphError(f"a graph without {', '.join(missing)} was given; all attributes of ArchGraph are accepted")
    primitives = whole_numbers("primitives", given["primitives"], 1, 0, len(PRIMITIVES) - 1).astype(np.int8)
    nodes = len(primitives)
    edges = whole_numbers("edges", given["edges"], 2, 0, nodes - 1).astype(np.int32)
    offsets = whole_numbers("level_offsets", given["level_offsets"], 1, 0, nodes).astype(np.int32)
    check_order(nodes, edges, offsets)
    shapes = {
        require_name("parameter_shapes", name): sizes_of(f"the shape of {name}", shape)
        for name, shape in items_of("parameter_shapes", given.get("parameter_shapes", {}))
    }
    names = {}
    for what in ("weights", "norm_biases"):
        names[what] = per_node(what, given[what], nodes)
        unknown = next((name for name in names[what] if name is not None and name not in shapes), None)
        if shapes and unknown is not None:
            raise GraphError(f"{what} has {unknown!r}; None and the names in parameter_shapes are accepted")
    embedded = [
        None if shape is None else sizes_of(f"the shape of node {node}", shape, dimensions=4)
        for node, shape in enumerate(per_node("shapes", given["shapes"], nodes, of_names=False))
    ]
    last = {what: given.get(what) for what in ("classifier_weight", "classifier_bias")}
    for what, node in last.items():
        if node is not None and not (is_size(node) and node < nodes and names["weights"][node] is not None):
            raise GraphError(f"{what} is {node!r}; None and the number of a node with a weight are accepted")
        if what == "classifier_weight" and node is not None and shapes and not shapes[names["weights"][node]]:
            raise GraphError(f"{what} is {node}, whose parameter has no dimensions; one or more are accepted")
    reasons = dict(items_of("skipped", given.get("skipped", {})))
    if not all(isinstance(text, str) for pair in reasons.items() for text in pair):
        raise GraphError("skipped has something else than strings; {name: reason} is accepted")
    image, reason = given.get("input_shape"), given.get("ran_on_numbers")
    if reason is not None and not isinstance(reason, str):
        raise GraphError(f"ran_on_numbers is {reason!r:.80}; a reason in words, or None, is accepted")
    return {
        "primitives": primitives,
        "edges": edges,
        "level_offsets": offsets,
        "shapes": embedded,
        **names,
        **last,
        "parameter_shapes": shapes,
        "skipped": reasons,
        "input_shape": None if image is None else sizes_of("input_shape", image),
        "ran_on_numbers": reason,
        "slices": checked_slices(given.get("slices", {}), shapes),
        "reparametrized": checked_weights(given.get("reparametrized", {}), shapes),
    }


def checked_slices(given: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, ParameterSlice]:
    found = dict(items_of("slices", given))
    for name, part in found.items():
        fits = isinstance(part, ParameterSlice) and shapes.get(name) == part.shape
        if not fits or not part.is_within():
            raise GraphError(f"slices has {name!r}: {part!r:.80}; parts of parameters of their shape are accepted")
    return found


def checked_weights(given: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Reparametrization]:
    found = dict(items_of("reparametrized", given))
    for name, weight in found.items():
        if not isinstance(weight, Reparametrization) or name not in shapes or name not in weight.originals:
            raise GraphError(f"reparametrized has {name!r}: {weight!r:.80}; Reparametrization is accepted")
    return found


def whole_numbers(name: str, given: Any, dimensions: int, least: int, most: int) -> NDArray[np.integer[Any]]:
    """An array of whole numbers within a range; its second dimension, if any, is two."""
    try:
        array = np.asarray(given)
    except (ValueError, TypeError, OverflowError) as error:
        raise GraphError(f"{name} is no array: {error}") from error
    if array.size == 0:
        array = array.reshape((0, 2)[:dimensions]).astype(np.int64)
    shape = "(n,)" if dimensions == 1 else "(n, 2)"
    if array.dtype.kind not in "iu" or array.ndim != dimensions or (dimensions == 2 and array.shape[1] != 2):
        raise GraphError(f"{name} is {array.dtype}, {array.shape}; whole numbers {shape} are accepted")
    if array.size and not (least <= array.min() and array.max() <= most):
        raise GraphError(f"{name} has numbers from {array.min()} to {array.max()}; {least} to {most} are accepted")
    return array


def check_order(nodes: int, edges: NDArray[np.int32], offsets: NDArray[np.int32]) -> None:
    """Levels are runs of nodes, edges lead to later levels, and are there once, sorted by target."""
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != nodes or (np.diff(offsets) < 1).any():
        raise GraphError(f"level_offsets is {offsets.tolist()!r:.80}; numbers that rise from 0 to {nodes} are accepted")
    level = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    sources, targets = edges.T
    wrong = np.flatnonzero(level[sources] >= level[targets])
    if wrong.size:
        raise GraphError(f"the edge {tuple(edges[wrong[0]].tolist())} does not lead to a later level; every edge must")
    if (np.diff(targets) < 0).any():
        raise GraphError("edges are not sorted by target; such edges are accepted")
    if len(np.unique(targets.astype(np.int64) * nodes + sources)) != len(edges):
        raise GraphError("an edge is there twice; each edge once is accepted")


def has_default(each: Any) -> bool:
    return each.default is not MISSING or each.default_factory is not MISSING


def is_size(value: Any) -> bool:
    """Whether something is a whole number, zero or more, as Python or numpy have them."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def sizes_of(what: str, given: Any, dimensions: int | None = None) -> tuple[int, ...]:
    wanted = "sizes" if dimensions is None else f"{dimensions} sizes"
    if not isinstance(given, (tuple, list)) or not all(map(is_size, given)) or dimensions not in (None, len(given)):
        raise GraphError(f"{what} is {given!r:.80}; {wanted} of 0 or more are accepted")
    if math.prod(map(int, given)) > MOST_ELEMENTS:
        raise GraphError(f"{what} is {given!r:.80}; at most {MOST_ELEMENTS} elements are accepted")
    return tuple(map(int, given))


def per_node(what: str, given: Any, nodes: int, of_names: bool = True) -> list[Any]:
    if not isinstance(given, (list, tuple)) or len(given) != nodes:
        size = len(given) if isinstance(given, (list, tuple)) else type(given).__name__
        raise GraphError(f"{what} is {size} for {nodes} nodes; a list of one for each node is accepted")
    if of_names and not all(name is None or isinstance(name, str) for name in given):
        raise GraphError(f"{what} has something else than names; strings and None are accepted")
    return list(given)


def items_of(what: str, given: Any) -> Any:
    if not isinstance(given, Mapping):
        raise GraphError(f"{what} is a {type(given).__name__}; a dict is accepted")
    return given.items()


def require_name(what: str, name: Any) -> str:
    if not isinstance(name, str):
        raise GraphError(f"{what} has the key {name!r:.80}; names are accepted")
    return name


@dataclass(frozen=True, eq=False)
class Topology:
    """Who sends messages to whom in a batch of graphs, as arrays that the sweep works on.

    The nodes of all graphs are numbered through; those of one graph are in topological order.

    Attributes:
        graph_offsets: (graphs + 1,) int64; graph g has the nodes graph_offsets[g] up to graph_offsets[g + 1].
        levels: (nodes,) int64, the level of each node in its graph.
        edge_offsets: (nodes + 1,) int64; node v has the edges edge_offsets[v] up to edge_offsets[v + 1].
        edge_sources: (edges,) int32, the node that an edge comes from.
        band_starts: (nodes,) int32, the first node that has a path to v of at most `cutoff` hops.
        band_offsets: (nodes + 1,) int64.
        closeness: uint8, at band_offsets[v] and on for the nodes band_starts[v], band_starts[v] + 1, ... up to v:
            cutoff + 1 - distance, or 0 where there is no such path.
        cutoff: the largest distance in hops.
    """

    graph_offsets: NDArray[np.int64]
    levels: NDArray[np.int64]
    edge_offsets: NDArray[np.int64]
    edge_sources: NDArray[np.int32]
    band_starts: NDArray[np.int32]
    band_offsets: NDArray[np.int64]
    closeness: NDArray[np.uint8]
    cutoff: int

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """What C++ takes, in its order: everything but the levels and the cutoff."""
        offsets = self.graph_offsets, self.edge_offsets, self.edge_sources
        return *offsets, self.band_starts, self.band_offsets, self.closeness

    @cached_property
    def native(self) -> _C.Topology:
        """The same for C++, checked once."""
        graph_offsets, edge_offsets, edge_sources, *bands = self.arrays
        return _C.Topology(graph_offsets, edge_offsets, edge_sources, bands[0], bands[1], bands[2], self.cutoff)

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
        """The ordered pairs of nodes with a path within the cutoff: (sources, targets, distances)."""
        sizes = np.diff(self.band_offsets)
        targets = np.repeat(np.arange(len(sizes)), sizes)
        sources = np.arange(len(self.closeness)) + np.repeat(self.band_starts - self.band_offsets[:-1], sizes)
        found = np.flatnonzero(self.closeness)
        return sources[found], targets[found], (self.cutoff - (self.closeness[found] - 1)).astype(np.uint8)


class GraphBatch:
    """Several graphs side by side: node i of graph g is node `offsets[g] + i` of the batch."""

    def __init__(self, graphs: Sequence[ArchGraph]) -> None:
        if not graphs:
            raise GraphError("a batch of no graphs was given; one graph or more is accepted")
        self.graphs = list(graphs)
        self.offsets = np.cumsum([0, *(len(graph) for graph in graphs)], dtype=np.int64)
        self.topologies: dict[int, Topology] = {}  # by cutoff

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @property
    def primitives(self) -> NDArray[np.int8]:
        return np.concatenate([graph.primitives for graph in self.graphs])

    @property
    def shape_table(self) -> NDArray[np.int64]:
        """(nodes, 4): the shapes that embeddings get, and -1 where there is none."""
        return np.concatenate([graph.shape_table for graph in self.graphs])

    def topology(self, cutoff: int = MAX_DISTANCE) -> Topology:
        """Edges, levels and all shortest paths of at most `cutoff` hops, computed once.

        Raises:
            GraphError: `cutoff` is not within 1 to 255.
        """
        if cutoff not in self.topologies:
            if not is_size(cutoff) or not 1 <= cutoff <= 255:
                raise GraphError(f"cutoff is {cutoff!r}; 1 to 255 hops are accepted")
            self.topologies[cutoff] = self.make_topology(cutoff)
        return self.topologies[cutoff]

    def make_topology(self, cutoff: int) -> Topology:
        edges = np.concatenate([graph.edges + offset for graph, offset in zip(self.graphs, self.offsets, strict=False)])
        edge_offsets = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(np.bincount(edges[:, 1], minlength=len(self)), out=edge_offsets[1:])
        edge_sources = edges[:, 0].astype(np.int32)
        bands = _C.hop_bands(self.offsets, edge_offsets, edge_sources, cutoff, torch.get_num_threads())
        levels = np.concatenate([graph.levels for graph in self.graphs]).astype(np.int64)
        return Topology(self.offsets, levels, edge_offsets, edge_sources, *bands, cutoff)
