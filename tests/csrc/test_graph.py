"""csrc/graph: contraction, pruning, order, levels and shortest paths, from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

KINDS = """
max_pool avg_pool sep_conv dil_conv conv msa cse sum concat input bias bn ln pos_enc glob_avg
pass softmax matmul gate squeeze_glob_avg squeeze_avg_pool squeeze_max_pool squeeze_pass pointwise
""".split()


class Built(NamedTuple):
    operations: list[int]
    primitives: list[str]
    edges: list[tuple[int, int]]  # between traced operations
    level_offsets: list[int]
    fates: list[int]
    weight: int
    bias: int


def build(core: ModuleType, operations: Sequence[tuple[str, Sequence[int]]], outputs: Sequence[int]) -> Built:
    kinds = np.array([KINDS.index(kind) for kind, _ in operations], dtype=np.int8)
    offsets = np.cumsum([0, *(len(inputs) for _, inputs in operations)]).astype(np.int32)
    inputs = np.array([i for _, read in operations for i in read], dtype=np.int32)
    result = core.build_graph(kinds, offsets, inputs, np.array(outputs, dtype=np.int32))
    nodes, primitives, edges, levels, fates, weight, bias = result
    nodes = nodes.tolist()
    return Built(
        nodes,
        [KINDS[index] for index in primitives.tolist()],
        [(nodes[source], nodes[target]) for source, target in edges.tolist()],
        levels.tolist(),
        fates.tolist(),
        weight,
        bias,
    )


def test_contracted_operations_connect_their_inputs_to_their_outputs(core: ModuleType) -> None:
    graph = build(core, [("input", []), ("conv", [0]), ("pass", [1]), ("pass", [2]), ("conv", [3])], [4])
    assert graph.edges == [(0, 1), (1, 4)]
    assert graph.fates == [0, 0, 1, 1, 0]


def test_sum_of_one_source_is_no_node(core: ModuleType) -> None:
    graph = build(core, [("input", []), ("conv", [0]), ("pass", [1]), ("sum", [1, 2]), ("bn", [3])], [4])
    assert graph.primitives == ["input", "conv", "bn"]


def test_sum_and_concat_of_different_sources_are_nodes(core: ModuleType) -> None:
    graph = build(core, [("input", []), ("conv", [0]), ("conv", [0]), ("sum", [1, 2]), ("concat", [1, 3])], [4])
    assert graph.primitives.count("sum") == graph.primitives.count("concat") == 1
    assert set(graph.edges) == {(0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (3, 4)}


def test_dead_ends_and_constants_are_dropped(core: ModuleType) -> None:
    traced: list[tuple[str, list[int]]] = [("input", []), ("conv", [0]), ("conv", [0]), ("conv", []), ("sum", [1, 3])]
    graph = build(core, traced, [4])
    assert graph.operations == [0, 1]  # the sum has one source left
    assert graph.fates[2] == 3, "no path to an output"
    assert graph.fates[3] == 2, "no path from the input"


def test_classification_layer_comes_last_although_an_auxiliary_head_is_deeper(core: ModuleType) -> None:
    traced = [("input", []), ("conv", [0]), ("pointwise", [1]), ("bias", [2])]
    traced += [("pointwise", [1]), ("bias", [4]), ("pointwise", [5]), ("bias", [6])]
    graph = build(core, traced, [3, 7])
    assert graph.operations[-2:] == [2, 3]
    assert (graph.weight, graph.bias) == (len(graph.operations) - 2, len(graph.operations) - 1)


def test_pool_behind_the_classification_layer_moves_in_front(core: ModuleType) -> None:
    traced = [("input", []), ("conv", [0]), ("pointwise", [1]), ("bias", [2]), ("pass", [3]), ("squeeze_glob_avg", [4])]
    graph = build(core, traced, [5])
    assert graph.edges == [(0, 1), (1, 5), (5, 2), (2, 3)]
    assert graph.primitives == ["input", "conv", "glob_avg", "conv", "bias"]


def test_softmax_before_a_matrix_product_is_an_attention(core: ModuleType) -> None:
    traced = [("input", []), ("pointwise", [0]), ("pointwise", [0]), ("pointwise", [0])]
    traced += [("matmul", [1, 2]), ("softmax", [4]), ("pass", [5]), ("matmul", [6, 3])]
    graph = build(core, traced, [7])
    assert graph.primitives[-1] == "msa"
    assert set(graph.edges) == {(0, 1), (0, 2), (0, 3), (1, 7), (2, 7), (3, 7)}


def test_embedding_that_is_added_to_attention_scores_is_dropped(core: ModuleType) -> None:
    traced = [("input", []), ("pointwise", [0]), ("matmul", [0, 1]), ("pos_enc", []), ("sum", [2, 3]), ("softmax", [4])]
    traced += [("matmul", [5, 1]), ("pos_enc", []), ("sum", [6, 7])]
    graph = build(core, traced, [8])
    assert graph.fates[3] == 4
    assert graph.fates[7] == 0


def squeeze_and_excite() -> list[tuple[str, list[int]]]:
    squeezed = [("input", []), ("conv", [0]), ("squeeze_glob_avg", [1]), ("pointwise", [2])]
    return [*squeezed, ("pass", [3]), ("gate", [1, 4])]


@pytest.mark.parametrize("swapped", [False, True])
def test_gate_is_a_node_and_its_pool_is_none(core: ModuleType, swapped: bool) -> None:
    traced = squeeze_and_excite()
    if swapped:
        traced[-1] = ("gate", [4, 1])
    graph = build(core, traced, [5])
    assert graph.primitives == ["input", "conv", "conv", "cse"]
    assert set(graph.edges) == {(0, 1), (1, 3), (1, 5), (3, 5)}


def test_product_with_itself_after_a_pool_is_no_gate(core: ModuleType) -> None:
    traced = [("input", []), ("conv", [0]), ("squeeze_glob_avg", [1]), ("pass", [2]), ("gate", [2, 3])]
    assert build(core, traced, [4]).primitives == ["input", "conv", "glob_avg"]


def test_both_pools_of_one_gate_are_contracted(core: ModuleType) -> None:
    traced = [("input", []), ("conv", [0]), ("squeeze_glob_avg", [1]), ("squeeze_max_pool", [1]), ("pointwise", [2])]
    traced += [("pointwise", [3]), ("sum", [4, 5]), ("pass", [6]), ("gate", [1, 7])]
    graph = build(core, traced, [8])
    assert sorted(graph.primitives) == ["conv", "conv", "conv", "cse", "input", "sum"]


def test_pool_of_a_gate_stays_contracted_when_it_is_combined_with_another_afterwards(core: ModuleType) -> None:
    traced = [("input", []), ("conv", [0]), ("squeeze_glob_avg", [1]), ("pointwise", [2]), ("gate", [1, 3])]
    traced += [("squeeze_max_pool", [4]), ("sum", [5, 3]), ("pointwise", [6])]
    graph = build(core, traced, [7])
    assert graph.primitives.count("cse") == 1
    assert "glob_avg" not in graph.primitives


@pytest.mark.parametrize("length", range(5))
def test_gate_beside_another_branch_is_a_node(core: ModuleType, length: int) -> None:
    """Wherever the operations of the branch stand, and however many there are."""
    branch = [("pass", [0]), ("conv", [1]), ("bn", [2]), ("pass", [3]), ("conv", [4])][: length + 1]
    gate = [(kind, [place + length + 1 if place else 0 for place in read]) for kind, read in squeeze_and_excite()]
    before = [("input", []), *branch, *gate[1:]]
    graph = build(core, [*before, ("sum", [length + 1, len(before) - 1])], [len(before)])
    assert graph.primitives.count("cse") == 1
    assert "glob_avg" not in graph.primitives


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([99], [0, 0], [], []), "unknown kind 99"),
        (([9, 4], [0, 0, 1], [1], []), "can read earlier ones only"),
        (([9, 4], [0, 0], [], []), "input_offsets"),
        (([9, 4], [0, 2, 1], [0], []), "must not decrease"),
        (([9], [0, 0], [], [3]), "output 3 is not an operation"),
        (([9, 18], [0, 0, 1], [0], [1]), "takes two"),
    ],
)
def test_malformed_arrays_are_rejected(core: ModuleType, arguments: Any, message: str) -> None:
    kinds, offsets, inputs, outputs = arguments
    arrays = [np.array(kinds, dtype=np.int8), *(np.array(a, dtype=np.int32) for a in (offsets, inputs, outputs))]
    with pytest.raises(ValueError, match=message):
        core.build_graph(*arrays)


def test_no_outputs_give_an_empty_graph(core: ModuleType) -> None:
    graph = build(core, [("input", []), ("conv", [0])], [])
    assert graph.operations == []
    assert graph.level_offsets == [0]


@st.composite
def traced_networks(draw: st.DrawFn) -> tuple[list[tuple[str, list[int]]], list[int]]:
    operations: list[tuple[str, list[int]]] = [("input", [])]
    for op in range(1, draw(st.integers(1, 40))):
        kind = draw(st.sampled_from(KINDS))
        earlier = st.integers(0, op - 1)
        if kind in ("input", "pos_enc"):
            inputs = []
        elif kind == "gate":
            inputs = [draw(earlier), draw(earlier)]
        else:
            inputs = draw(st.lists(earlier, min_size=0, max_size=3))
        operations.append((kind, inputs))
    outputs = draw(st.lists(st.integers(0, len(operations) - 1), min_size=1, max_size=3))
    return operations, outputs


@settings(max_examples=300, deadline=None, derandomize=True)
@given(network=traced_networks())
def test_any_graph_is_ordered_by_level_and_connected(
    core: ModuleType, network: tuple[list[tuple[str, list[int]]], list[int]]
) -> None:
    graph = build(core, *network)
    place = {operation: node for node, operation in enumerate(graph.operations)}
    level = np.repeat(np.arange(len(graph.level_offsets) - 1), np.diff(graph.level_offsets))
    assert len(level) == len(graph.operations) == len(set(graph.operations))
    for source, target in graph.edges:
        assert level[place[source]] < level[place[target]]
    fed = {target for _, target in graph.edges}
    for operation, primitive in zip(graph.operations, graph.primitives, strict=True):
        assert primitive in KINDS[:15]
        assert operation in fed or primitive in ("input", "pos_enc")
        if primitive in ("sum", "concat"):
            assert sum(target == operation for _, target in graph.edges) >= 2


def longest_hops(size: int, edges: list[tuple[int, int]], cutoff: int) -> np.ndarray:
    """Distances by powers of the adjacency matrix."""
    adjacency = np.zeros((size, size), dtype=bool)
    for source, target in edges:
        adjacency[source, target] = True
    distances = np.zeros((size, size), dtype=np.uint8)
    reach = np.eye(size, dtype=bool)
    for hops in range(1, cutoff + 1):
        reach = reach @ adjacency
        new = reach & (distances == 0) & ~np.eye(size, dtype=bool)
        distances[new] = hops
    return distances


def hop_matrix(core: ModuleType, size: int, edges: np.ndarray, cutoff: int) -> np.ndarray:
    """Distances as a matrix, from the bands."""
    edges = edges[np.argsort(edges[:, 1], kind="stable")]
    offsets = np.searchsorted(edges[:, 1], np.arange(size + 1))
    starts, bands, closeness = core.hop_bands(np.array([0, size]), offsets, edges[:, 0], cutoff, 1)
    distances = np.zeros((size, size), dtype=np.int64)
    for node in range(size):
        band = closeness[bands[node] : bands[node + 1]].astype(np.int64)
        assert len(band) == node - starts[node]
        assert len(band) == 0 or band[0] > 0
        distances[starts[node] : node, node] = np.where(band > 0, cutoff + 1 - band, 0)
    return distances


@settings(max_examples=100, deadline=None, derandomize=True)
@given(size=st.integers(1, 25), data=st.data(), cutoff=st.sampled_from([1, 2, 5, 50, 255]))
def test_distances(core: ModuleType, size: int, data: st.DataObject, cutoff: int) -> None:
    node = st.integers(0, size - 1)
    edges = data.draw(st.lists(st.tuples(node, node).filter(lambda e: e[0] < e[1]), max_size=60))
    array = np.array(edges, dtype=np.int32).reshape(-1, 2)
    np.testing.assert_array_equal(hop_matrix(core, size, array, cutoff), longest_hops(size, edges, cutoff))


def test_distances_of_a_chain_of_ten_thousand_nodes_take_little_memory(core: ModuleType) -> None:
    offsets = np.maximum(np.arange(10_001) - 1, 0)
    starts, bands, closeness = core.hop_bands(np.array([0, 10_000]), offsets, np.arange(9_999), 50, 1)
    np.testing.assert_array_equal(starts, np.maximum(np.arange(10_000) - 50, 0))
    assert len(closeness) == bands[-1] == 50 * 10_000 - 50 * 51 // 2
    np.testing.assert_array_equal(closeness[-50:], np.arange(1, 51))


def test_distances_of_graphs_side_by_side(core: ModuleType) -> None:
    """Two chains of three nodes, on two threads."""
    result = core.hop_bands(np.array([0, 3, 6]), np.array([0, 0, 1, 2, 2, 3, 4]), np.array([0, 1, 3, 4]), 2, 2)
    starts, bands, closeness = (array.tolist() for array in result)
    assert (starts, bands, closeness) == ([0, 0, 0, 3, 3, 3], [0, 0, 1, 3, 3, 4, 6], [2, 1, 2, 2, 1, 2])


@pytest.mark.parametrize("cutoff", [0, -1, 256])
def test_cutoffs_out_of_range_are_rejected(core: ModuleType, cutoff: int) -> None:
    with pytest.raises(ValueError, match="it must be 1 to 255"):
        core.hop_bands(np.array([0, 2]), np.array([0, 0, 1]), np.array([0]), cutoff, 1)


@pytest.mark.parametrize("source", [-1, 1, 2])
def test_edges_against_the_order_are_rejected(core: ModuleType, source: int) -> None:
    with pytest.raises(ValueError, match=rf"edge \({source}, 1\) does not come from an earlier node"):
        core.hop_bands(np.array([0, 2]), np.array([0, 0, 1]), np.array([source]), 5, 1)


@pytest.mark.parametrize(
    ("graphs", "edges"), [([0, 3], [0, 0, 1]), ([1, 2], [0, 0, 1]), ([0, 2], [0, 1, 0]), ([0, 2], [0, 0, 2]), ([], [])]
)
def test_offsets_that_fit_nothing_are_rejected(core: ModuleType, graphs: list[int], edges: list[int]) -> None:
    with pytest.raises(ValueError, match="must rise from 0 to"):
        core.hop_bands(np.array(graphs, dtype=np.int64), np.array(edges, dtype=np.int64), np.array([0]), 5, 1)


@pytest.mark.parametrize("seed", range(8))
def test_reversed_bands_hold_the_same_paths(core: ModuleType, seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(2, 30))
    pairs = {(int(target), int(random.integers(0, target))) for target in random.integers(1, size, 40)}
    edges = np.array(sorted(pairs), dtype=np.int32)[:, ::-1]
    offsets = np.searchsorted(edges[:, 1], np.arange(size + 1))
    bands = core.hop_bands(np.array([0, size]), offsets, np.ascontiguousarray(edges[:, 0]), 4, 1)
    starts, ends, closeness = core.reversed_bands(*bands)
    forward, backward = np.zeros((size, size)), np.zeros((size, size))
    for node in range(size):
        begin, band = bands[0][node], bands[2][bands[1][node] : bands[1][node + 1]]
        forward[begin : begin + len(band), node] = band
        band = closeness[ends[node] : ends[node + 1]]
        assert len(band) == 0 or band[-1] > 0
        backward[node, starts[node] : starts[node] + len(band)] = band
    assert np.array_equal(forward, backward)


@pytest.mark.parametrize(
    ("starts", "offsets", "closeness", "message"),
    [
        ([0, 0], [0, 1], [1], "2 bands and 2 offsets"),
        ([0, 2], [0, 0, 1], [1], "the band of node 1 is out of range"),
        ([0, -1], [0, 0, 1], [1], "the band of node 1 is out of range"),
        ([0, 0], [0, 1, 1], [1], "a path leads from node 0 to 0"),
    ],
)
def test_malformed_bands_are_rejected(
    core: ModuleType, starts: list[int], offsets: list[int], closeness: list[int], message: str
) -> None:
    arrays = np.array(starts, dtype=np.int32), np.array(offsets, dtype=np.int64), np.array(closeness, dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        core.reversed_bands(*arrays)
