"""csrc/sweep on plain arrays, with every instruction set of the machine."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.arrays import Array, Batch, sweep, sweep_weights

TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize(("hid", "hidden"), [(4, 2), (8, 8), (32, 16), (36, 18), (128, 64)])
def test_states_are_those_of_the_definition(
    core: ModuleType, instruction_set: str, hid: int, hidden: int, virtual: bool, dtype: Any, threads: int
) -> None:
    batch = Batch(core, hid, [1, 30, 2, 17], per_node=2)
    weights = sweep_weights(1, hid, hidden, virtual, dtype)
    states = np.random.default_rng(2).standard_normal((batch.nodes, hid)).astype(dtype)
    result = core.gated_sweep(states, weights, batch.topology(core), threads)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, sweep(states, weights, batch), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize("sizes", [[1], [1, 1, 1], [0, 3, 0], [9]])
def test_graphs_without_edges(core: ModuleType, sizes: list[int], virtual: bool) -> None:
    batch = Batch(core, 0, sizes, per_node=0)
    weights = sweep_weights(1, 8, 4, virtual, np.float64)
    states = np.random.default_rng(2).standard_normal((batch.nodes, 8))
    result = core.gated_sweep(states, weights, batch.topology(core), 2)
    np.testing.assert_allclose(result, sweep(states, weights, batch), rtol=0, atol=1e-12)


@pytest.mark.parametrize("virtual", [True, False])
@pytest.mark.parametrize("hid", [4, 12, 32])
def test_gradients_are_those_of_finite_differences(
    core: ModuleType, instruction_set: str, hid: int, virtual: bool
) -> None:
    batch = Batch(core, 5, [1, 12, 7], cutoff=3)
    topology = batch.topology(core)
    random = np.random.default_rng(3)
    weights = sweep_weights(4, hid, hid // 2, virtual, np.float64)
    states, grad = random.standard_normal((batch.nodes, hid)), random.standard_normal((batch.nodes, hid))
    grad_states, grad_weights = core.gated_sweep_backward(grad, states, weights, topology, 2)

    def value(arrays: list[Array]) -> float:
        return float((grad * core.gated_sweep(arrays[0], arrays[1:], topology, 1)).sum())

    given, found = [states, *weights], [grad_states, *grad_weights]
    for index, (array, gradient) in enumerate(zip(given, found, strict=True)):
        direction = random.standard_normal(array.shape)
        step = 1e-6
        ahead, behind = ([*given[:index], array + sign * step * direction, *given[index + 1 :]] for sign in (1, -1))
        expected = (value(ahead) - value(behind)) / (2 * step)
        assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_gradients_in_single_precision_and_on_threads(core: ModuleType, instruction_set: str) -> None:
    batch = Batch(core, 5, [25, 12, 7, 40])
    weights = sweep_weights(4, 32, 16, True, np.float64)
    random = np.random.default_rng(3)
    states, grad = random.standard_normal((2, batch.nodes, 32))
    exact = core.gated_sweep_backward(grad, states, weights, batch.topology(core), 1)
    single = [array.astype(np.float32) for array in (grad, states, *weights)]
    rounded = [core.gated_sweep_backward(single[0], single[1], single[2:], batch.topology(core), 3) for _ in range(2)]
    for wanted, first, again in zip((exact[0], *exact[1]), *((r[0], *r[1]) for r in rounded), strict=True):
        np.testing.assert_array_equal(first, again)  # equal threads, equal bits
        np.testing.assert_allclose(first, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_what_is_not_a_number_stays_so(core: ModuleType, instruction_set: str) -> None:
    batch = Batch(core, 5, [6], per_node=6)
    weights = sweep_weights(4, 8, 4, True, np.float32)
    states = np.ones((6, 8), dtype=np.float32)
    states[2, 3] = np.nan
    assert np.isnan(core.gated_sweep(states, weights, batch.topology(core), 1)).all()


@pytest.mark.parametrize("count", [0, 7, 9, 13])
def test_a_wrong_number_of_weights_is_rejected(core: ModuleType, count: int) -> None:
    batch = Batch(core, 0, [2])
    weights = (sweep_weights(1, 8, 4, True, np.float32) * 2)[:count]
    with pytest.raises(ValueError, match="8 or 12 are accepted"):
        core.gated_sweep(np.zeros((2, 8), dtype=np.float32), weights, batch.topology(core), 1)


@pytest.mark.parametrize("index", range(12))
def test_weights_of_another_shape_are_rejected(core: ModuleType, index: int) -> None:
    batch = Batch(core, 0, [2])
    weights = sweep_weights(1, 8, 4, True, np.float32)
    weights[index] = np.zeros((5, 5), dtype=np.float32)
    with pytest.raises(ValueError, match="has another shape"):
        core.gated_sweep(np.zeros((2, 8), dtype=np.float32), weights, batch.topology(core), 1)


def test_states_of_other_nodes_are_rejected(core: ModuleType) -> None:
    batch = Batch(core, 0, [2])
    with pytest.raises(ValueError, match=r"states must be \(nodes, hid\)"):
        core.gated_sweep(
            np.zeros((3, 8), dtype=np.float32), sweep_weights(1, 8, 4, True, np.float32), batch.topology(core), 1
        )


def test_virtual_edges_need_bands(core: ModuleType) -> None:
    batch = Batch(core, 0, [2])
    empty = np.zeros(0, dtype=np.int64)
    topology = core.Topology(batch.offsets, batch.edge_offsets, batch.edges[:, 0], empty, empty, empty, 50)
    with pytest.raises(ValueError, match="need the bands"):
        core.gated_sweep(np.zeros((2, 8), dtype=np.float32), sweep_weights(1, 8, 4, True, np.float32), topology, 1)


# Two nodes and one edge, and what may be wrong with it.
GOOD: dict[str, Any] = {
    "graph_offsets": [0, 2],
    "edge_offsets": [0, 0, 1],
    "edge_sources": [0],
    "band_starts": [0, 0],
    "band_offsets": [0, 0, 1],
    "closeness": [50],
    "cutoff": 50,
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("graph_offsets", [0, 3]),
        ("graph_offsets", []),
        ("edge_offsets", [0, 1, 1]),
        ("edge_offsets", [0, 0, 2]),
        ("edge_sources", [1]),
        ("edge_sources", [-1]),
        ("band_starts", [0]),
        ("band_starts", [0, 1]),
        ("band_offsets", [0, 1]),
        ("band_offsets", [0, 1, 1]),
        ("closeness", [50, 50]),
        ("closeness", [51]),
        ("cutoff", 0),
        ("cutoff", 256),
    ],
)
def test_topologies_that_fit_nothing_are_rejected(core: ModuleType, name: str, value: Any) -> None:
    core.Topology(**{key: np.asarray(item) if key != "cutoff" else item for key, item in GOOD.items()})
    broken = GOOD | {name: value}
    with pytest.raises(ValueError):  # noqa: PT011 (each has its own message)
        core.Topology(**{key: np.asarray(i, dtype=np.int64) if key != "cutoff" else i for key, i in broken.items()})
