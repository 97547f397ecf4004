"""The architecture graph of a network: `ArchGraph`."""

from __future__ import annotations

from dataclasses import MISSING, InitVar, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GraphError
from ..optional import import_optional
from .checks import checked_fields
from .drawing import to_svg
from .parameters import ParameterSlice, Reparametrization
from .primitives import PRIMITIVES
from .topology import MAX_DISTANCE, topology_of

if TYPE_CHECKING:
    import networkx

MOST_SHOWN = 1000  # nodes that a notebook draws by itself


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
            self.__dict__.update(checked_fields(self.__dict__, required_fields()))

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict):
            raise GraphError(f"the state of a graph is a {type(state).__name__}; a dict of its attributes is accepted")
        self.__dict__.update(checked_fields(state, required_fields()))

    def __len__(self) -> int:
        return len(self.primitives)

    def __repr__(self) -> str:
        return f"ArchGraph({len(self)} nodes, {len(self.edges)} edges, {self.depth} levels)"

    def _repr_svg_(self) -> str | None:
        """What notebooks show: the drawing, or None where there is nothing to see, or too much."""
        return self.to_svg() if 0 < len(self) <= MOST_SHOWN else None

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
        offsets = np.array([0, len(self)], dtype=np.int64)
        sources, targets, hops = topology_of(offsets, self.edges, self.levels, cutoff).pairs()
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

    def to_svg(self, title: str = "Architecture graph", *, fold: bool = True) -> str:
        """A drawing as a self-contained SVG document, for light and dark grounds; the same text every time.

        One row per level, from top to bottom; levels of more than 24 nodes take several lines. Pointing at a node shows
        its primitive, parameter, shape and level, pointing at an edge makes it bold.

        Args:
            title: stands above the drawing.
            fold: draw blocks that come several times, one after the other, once, in a frame that says how often; edges
                from one time to another are left out, and sizes that grow from time to time are "…". Else every node
                and every edge is drawn: 10,000 nodes take a few seconds.

        Raises:
            GraphError: the graph has no nodes.
        """
        return to_svg(self, title, fold)

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


def required_fields() -> list[str]:
    """The attributes that have no default."""
    return [each.name for each in fields(ArchGraph) if each.default is each.default_factory is MISSING]
