from typing import Any

from numpy import int8, int32, uint8
from numpy.typing import NDArray

def build_graph(
    kinds: NDArray[int8], input_offsets: NDArray[int32], inputs: NDArray[int32], outputs: NDArray[int32]
) -> tuple[NDArray[int32], NDArray[int8], NDArray[int32], NDArray[int32], NDArray[int8], int, int]: ...
def shortest_paths(node_count: int, edges: NDArray[int32], cutoff: int) -> NDArray[uint8]: ...

Kind: Any
Fate: Any
