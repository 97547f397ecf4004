"""Architecture graphs: `ArchGraph`, batches of them, and what their nodes and parameters are."""

from .arch_graph import ArchGraph
from .batch import GraphBatch, batch_of
from .parameters import PREDICTED_DTYPES, ParameterSlice, Reparametrization
from .primitives import PRIMITIVES, embedding_shape
from .topology import MAX_DISTANCE, Topology, topology_of

__all__ = [
    "MAX_DISTANCE",
    "PREDICTED_DTYPES",
    "PRIMITIVES",
    "ArchGraph",
    "GraphBatch",
    "ParameterSlice",
    "Reparametrization",
    "Topology",
    "batch_of",
    "embedding_shape",
    "topology_of",
]
