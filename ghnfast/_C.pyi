from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from numpy import dtype, float32, float64, int8, int32, int64, integer, uint8, void
from numpy.typing import NDArray

T = TypeVar("T", float32, float64)

def build_graph(
    kinds: NDArray[int8], input_offsets: NDArray[int32], inputs: NDArray[int32], outputs: NDArray[int32]
) -> tuple[NDArray[int32], NDArray[int8], NDArray[int32], NDArray[int32], NDArray[int8], int, int]: ...
def hop_bands(
    graph_offsets: NDArray[int64],
    edge_offsets: NDArray[int64],
    edge_sources: NDArray[int32],
    cutoff: int,
    threads: int,
) -> tuple[NDArray[int32], NDArray[int64], NDArray[uint8]]: ...
def reversed_bands(
    starts: NDArray[int32], offsets: NDArray[int64], closeness: NDArray[uint8]
) -> tuple[NDArray[int32], NDArray[int64], NDArray[uint8]]: ...

class Topology:
    def __init__(
        self,
        graph_offsets: NDArray[int64],
        edge_offsets: NDArray[int64],
        edge_sources: NDArray[int32],
        band_starts: NDArray[int32],
        band_offsets: NDArray[int64],
        closeness: NDArray[uint8],
        cutoff: int,
    ) -> None: ...

def inspect_tensors(tensors: list[Any], shapes: list[Any], dtypes: tuple[Any, ...]) -> NDArray[void]: ...
def versions(tensors: list[Any]) -> list[tuple[int, int]] | None: ...
def is_writable(address: int, bytes: int) -> bool: ...
def overlapping(memory: NDArray[void]) -> list[list[int]]: ...

class DecoderCall:
    @property
    def decoder(self) -> int: ...
    @property
    def begin(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def cells(self) -> int: ...
    @property
    def first(self) -> int: ...

def memory_of(
    found: NDArray[void],
    order: NDArray[int64],
    empty: NDArray[void],
    kept: NDArray[int64] | None,
    bytes: Sequence[int],
) -> tuple[NDArray[void], int] | None: ...
def lay_out(
    table: NDArray[void], vector: int, classes: int
) -> tuple[NDArray[int64], NDArray[void], NDArray[int64], list[DecoderCall], int, int]: ...

class Ghn(Generic[T]):
    def __init__(
        self,
        tables: Sequence[NDArray[Any]],
        channel_rows: NDArray[int64],
        kernel_rows: NDArray[int64],
        sweep: Sequence[NDArray[Any]],
        norm: Sequence[NDArray[Any]],
        norm_epsilon: float,
        decoder: Sequence[NDArray[Any]],
        rows: int,
        columns: int,
        centred: bool,
    ) -> None: ...
    def node_states(
        self,
        topology: Topology,
        primitives: NDArray[int8],
        shapes: NDArray[int64],
        threads: int,
        relations: Relations | None = None,
    ) -> NDArray[T]: ...
    def decode_inputs(
        self,
        states: NDArray[T],
        nodes: NDArray[int64],
        calls: Sequence[DecoderCall],
        hidden_rows: int,
        elements: int,
        threads: int,
    ) -> tuple[NDArray[T], NDArray[T]]: ...
    def class_weights(
        self, calls: Sequence[DecoderCall], hidden: NDArray[T], blocks: NDArray[T], threads: int
    ) -> None: ...
    def decode(
        self,
        calls: Sequence[DecoderCall],
        hidden: NDArray[T],
        blocks: NDArray[T],
        targets: NDArray[void],
        memory: NDArray[void],
        threads: int,
        before_writing: Callable[[], object] | None = None,
        largest_weight: float | None = None,
        rounds: bool = False,
    ) -> int: ...

GhnFloat = Ghn[float32]
GhnDouble = Ghn[float64]

def gated_sweep(states: NDArray[T], weights: Sequence[NDArray[T]], topology: Topology, threads: int) -> NDArray[T]: ...
def gated_sweep_backward(
    grad: NDArray[T], states: NDArray[T], weights: Sequence[NDArray[T]], topology: Topology, threads: int
) -> tuple[NDArray[T], list[NDArray[T]]]: ...

class Relations:
    def __init__(self, graph_offsets: NDArray[int64], codes: NDArray[uint8]) -> None: ...

def path_sums(
    topology: Topology, kinds: NDArray[int32], weights: NDArray[float64], threads: int
) -> NDArray[float64]: ...
def pair_codes(topology: Topology, reach: int, threads: int) -> NDArray[uint8]: ...
def attention(
    qkv: NDArray[T], table: NDArray[T], relations: Relations, keep: bool, threads: int
) -> tuple[NDArray[T], NDArray[T]]: ...
def attention_backward(
    grad: NDArray[T],
    qkv: NDArray[T],
    table: NDArray[T],
    relations: Relations,
    result: NDArray[T],
    log_sums: NDArray[T],
    threads: int,
) -> tuple[NDArray[T], NDArray[T]]: ...
def decode(
    hidden: NDArray[T],
    weight: NDArray[Any],
    bias: NDArray[Any],
    blocks: NDArray[T],
    targets: NDArray[void],
    memory: NDArray[void],
    check: bool,
    threads: int,
    before_writing: Callable[[], object] | None = None,
    largest_weight: float | None = None,
    rounds: bool = False,
) -> int: ...
def decode_backward(
    grad: NDArray[T],
    hidden: NDArray[T],
    weight: NDArray[T],
    bias: NDArray[T],
    blocks: NDArray[T],
    targets: NDArray[void],
    threads: int,
) -> tuple[NDArray[T], NDArray[T]]: ...
def device_targets(targets: NDArray[void], memory: NDArray[void] | None) -> NDArray[void]: ...
def device_items(
    targets: NDArray[void], tile: int, stored: int, wide: bool
) -> tuple[NDArray[integer[Any]], NDArray[integer[Any]]]: ...
def largest_count(targets: NDArray[void]) -> int: ...
def product_runs(targets: NDArray[void]) -> NDArray[int64]: ...
def run_items(runs: NDArray[int64], rows: int, elements: int) -> NDArray[int32]: ...
def largest(arrays: Sequence[NDArray[Any]], threads: int) -> list[float]: ...
def dtypes() -> dict[str, dtype[void]]: ...
def enums() -> dict[str, dict[str, int]]: ...
def environment(name: str) -> str | None: ...
def instruction_sets() -> list[str]: ...
def rounds_products() -> bool: ...
def use_instruction_set(name: str) -> None: ...
def walk_modules(model: Any) -> tuple[list[Any], list[str], list[Any], list[Any]] | None: ...
def share_attributes(modules: list[Any], base: type, names: tuple[Any, ...]) -> bool: ...
def open_attributes(modules: list[Any]) -> list[Any]: ...
def bare_modules(modules: list[Any]) -> list[bool]: ...
def are_untouched(modules: list[Any], types: set[type]) -> bool: ...
def copy_modules(modules: list[Any]) -> list[Any]: ...

class Snapshot:
    def __init__(self, modules: list[Any]) -> None: ...
    def changed(self) -> list[tuple[Any, Any]]: ...

class NetworkSettings:
    """The arguments of `ghnfast.deepnets.Network`; operations are positions in `OPERATIONS`."""

    num_classes: int
    channels: int
    cells: int
    kernel: int
    channel_factor: int
    fc_layers: int
    fc_width: int
    stem_type: int
    stem_stride: int
    large_images: bool
    stem_pool: bool
    normed: bool
    preprocessed: bool
    global_average: bool
    vit: bool
    def __init__(self) -> None: ...
    def set_cells(
        self,
        normal: Sequence[tuple[int, int]],
        normal_concat: Sequence[int],
        reduce: Sequence[tuple[int, int]],
        reduce_concat: Sequence[int],
    ) -> None: ...
    def cells_as_lists(self) -> tuple[list[tuple[int, int]], list[int], list[tuple[int, int]], list[int]]: ...
    def graph(self) -> NetworkGraph | None: ...
    def parameters(self) -> list[tuple[str, tuple[int, ...]]]: ...
    def elements(self) -> int: ...
    def node_cells(self) -> NDArray[int32]: ...

# Primitives, edges, level offsets, shapes, weights, norm biases, shapes of parameters, {name: fate} of parameters
# without a node (-1: no operation uses it), and the nodes of the classification layer's weight and bias.
NetworkGraph = tuple[
    NDArray[int8],
    NDArray[int32],
    NDArray[int32],
    list[tuple[int, ...] | None],
    list[str | None],
    list[str | None],
    dict[str, tuple[int, ...]],
    dict[str, int],
    int,
    int,
]

class TrainingRanges:
    def __init__(self, channels_first: int, channels_last: int, fc_first: int, fc_last: int, wider: bool) -> None: ...

def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...
def sample_network(
    split: int, seed: int, index: int, ranges: TrainingRanges, large_images: bool
) -> tuple[NetworkSettings, int, int]: ...
def draw_widths(
    settings: NetworkSettings,
    small_elements: int,
    large_elements: int,
    seed: int,
    index: int,
    ranges: TrainingRanges,
    large_images: bool,
) -> None: ...
def sample_graphs(
    split: int,
    seed: int,
    begin: int,
    end: int,
    ranges: TrainingRanges,
    num_classes: int,
    large_images: bool,
    threads: int,
) -> tuple[NDArray[int64], NDArray[int8], NDArray[int32], NDArray[int64], NDArray[int32], NDArray[int64]]: ...
def mean_path(nodes: int, edges: NDArray[int32]) -> float: ...
def statistics(split: int, seed: int, begin: int, end: int, ranges: TrainingRanges, threads: int) -> dict[str, Any]: ...
