"""What a trace records: operations, as C++ reads them, and what becomes of each."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import IntEnum


class Kind(IntEnum):
    """What a traced operation is; the numbers are those of `Kind` in csrc/graph/graph.hpp.

    The first fifteen are the primitives of DeepNets-1M, in the order of the embedding table.
    """

    MAX_POOL = 0
    AVG_POOL = 1
    SEP_CONV = 2
    DIL_CONV = 3
    CONV = 4
    MSA = 5
    CSE = 6
    SUM = 7
    CONCAT = 8
    INPUT = 9
    BIAS = 10
    BN = 11
    LN = 12
    POS_ENC = 13
    GLOB_AVG = 14
    PASS = 15
    SOFTMAX = 16
    MATMUL = 17
    GATE = 18
    SQUEEZE_GLOB_AVG = 19
    SQUEEZE_AVG_POOL = 20
    SQUEEZE_MAX_POOL = 21
    SQUEEZE_PASS = 22
    POINTWISE_CONV = 23


class Fate(IntEnum):
    """Why a traced operation is or is not a node; the numbers are those of `Fate` in csrc/graph/graph.hpp."""

    NODE = 0
    CONTRACTED = 1
    NO_INPUT = 2
    NO_OUTPUT = 3
    ATTENTION_OFFSET = 4


NO_PATH = "its layer has no path from the input"
FATE_REASONS = {
    Fate.NO_INPUT: NO_PATH,
    Fate.NO_OUTPUT: "its layer has no path to an output",
    Fate.ATTENTION_OFFSET: "it is added to attention scores, not to features",
}


def fate_reason(fate: Fate | None, by_chance: bool = False) -> str:
    """Why a parameter of an operation with this fate has no node; None for a parameter that no operation uses.

    by_chance: whether what the forward uses depends on values of features, or on random draws.
    """
    if fate is None:
        return "the forward did not use it on random numbers" if by_chance else "the forward does not use it"
    return FATE_REASONS.get(fate, "its layer is not part of the graph")


class Operations:
    """The traced operations, field by field, as C++ reads them.

    kinds: what each operation is.
    inputs: the operations that operation i reads are inputs[input_offsets[i]:input_offsets[i + 1]].
    parameters: indices of the weight and, for a normalization layer, the bias; None where there is none to predict.
    shapes: 4-D shape for the shape embedding (see `embedding_shape`), or None.
    """

    __slots__ = ("input_offsets", "inputs", "kinds", "parameters", "shapes")

    def __init__(self) -> None:
        self.kinds = array("b")
        self.inputs = array("i")
        self.input_offsets = array("i", [0])
        self.parameters: list[tuple[int | None, int | None]] = []
        self.shapes: list[tuple[int, ...] | None] = []

    def append(
        self,
        kind: Kind,
        inputs: Sequence[int],
        parameters: tuple[int | None, int | None] = (None, None),
        shape: tuple[int, ...] | None = None,
    ) -> int:
        """Append an operation; its number."""
        self.kinds.append(kind)
        self.inputs.extend(inputs)
        self.input_offsets.append(len(self.inputs))
        self.parameters.append(parameters)
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def inputs_of(self, operation: int) -> Sequence[int]:
        """The operations that one reads."""
        return self.inputs[self.input_offsets[operation] : self.input_offsets[operation + 1]]

    def before_passing(self, operation: int) -> int:
        """The last operation before this one that does more than pass on what it reads; itself, if it does."""
        while self.kinds[operation] == Kind.PASS and len(inputs := self.inputs_of(operation)) == 1:
            operation = inputs[0]
        return operation
