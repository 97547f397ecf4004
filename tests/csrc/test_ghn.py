"""csrc/forward and csrc/decode/layout.cpp on plain arrays, with every instruction set of the machine."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.arrays import Array, Batch, mlp, sweep
from helpers.ghn_weights import CHANNEL_ROWS, CLASSES, COLUMNS, EPSILON, HID, KERNEL_ROWS, ROWS, SIZE, VECTOR, Weights
from helpers.table_rows import MEMORY, SLOT, TARGET, table

KERNEL, VECTOR_WEIGHT, VECTOR_BIAS, CLASS_WEIGHT, CLASS_BIAS, WHOLE = range(6)
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-12}


def layer_norm(states: Array, weight: Array, bias: Array) -> Array:
    centred = states - states.mean(axis=1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPSILON) * weight + bias


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("kind", "norm"), [("virtual", True), ("plain", False), ("mlp", True)])
def test_node_states(core: ModuleType, instruction_set: str, dtype: Any, kind: str, norm: bool) -> None:
    weights, random = Weights(dtype, kind, norm), np.random.default_rng(1)
    batch = Batch(core, 4, [13, 1, 30])
    primitives = random.integers(0, 15, batch.nodes).astype(np.int8)
    shapes = random.integers(-1, 9, (batch.nodes, 4))
    native = weights.native(core)
    states = native.node_states(batch.topology(core), primitives, shapes, 2)

    tables = [table.astype(np.float64) for table in weights.tables]
    channels = CHANNEL_ROWS[np.where(shapes[:, :2] < 0, 5, np.minimum(shapes[:, :2], 4))]
    kernels = KERNEL_ROWS[np.where(shapes[:, 2:] < 0, 3, np.minimum(shapes[:, 2:], 2))]
    sizes = [tables[1][channels].reshape(-1, HID // 2), tables[2][kernels].reshape(-1, HID // 2)]
    expected = tables[0][primitives] + np.concatenate(sizes, axis=1)
    if kind == "mlp":
        expected = np.stack([mlp(state, weights.sweep) for state in expected])
    else:
        expected = sweep(expected, weights.sweep, batch)
    if norm:
        expected = layer_norm(expected, *weights.norm)
    np.testing.assert_allclose(states, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def row(node: int, decoder: int, height: int, width: int, columns: int, rows: int, cells: int) -> tuple[Any, ...]:
    return node, decoder, height, width, columns, rows, cells, 9 * rows, 8 * columns, 0, 0, 0.5


def random_table(seed: int, slots: int, nodes: int) -> Array:
    """A table of slots of all decoders but the one that is left to Python."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(slots):
        node, decoder = int(random.integers(nodes)), int(random.integers(5))
        height, width = random.integers(1, SIZE + 1, 2).tolist() if decoder == KERNEL else (1, 1)
        columns, kernels = int(random.integers(1, COLUMNS + 1)), int(random.integers(1, ROWS + 1))
        if decoder in (VECTOR_WEIGHT, VECTOR_BIAS, CLASS_BIAS):
            kernels = 1
        rows.append(row(node, decoder, height, width, columns, kernels, height * width))
    return table(SLOT, rows)


@pytest.mark.parametrize("seed", range(5))
def test_layout_gives_every_slot_a_place_of_its_own(core: ModuleType, seed: int) -> None:
    slots = random_table(seed, 60, 9)
    order, targets, nodes, calls, hidden_rows, elements = core.lay_out(slots, VECTOR, CLASSES)
    assert sorted(order.tolist()) == list(range(60))
    sorted_table = slots[order]
    assert nodes.tolist() == sorted_table["node"].tolist()
    for field in TARGET.names[1:]:
        assert targets[field].tolist() == sorted_table[field].tolist(), field
    assert [call.begin for call in calls] == np.cumsum([0, *(call.count for call in calls)])[:-1].tolist()
    assert sum(call.count for call in calls) == 60
    hidden, blocks = np.zeros(hidden_rows, dtype=int), np.zeros(elements, dtype=int)
    for first, slot in zip(targets["first"].tolist(), sorted_table, strict=True):
        if slot["decoder"] == KERNEL:
            hidden[first : first + slot["cells"]] += 1
        else:
            size = {CLASS_WEIGHT: CLASSES * slot["columns"], CLASS_BIAS: CLASSES}.get(slot["decoder"], VECTOR)
            blocks[first : first + size] += 1
    assert set(hidden.tolist()) <= {1}
    assert blocks.max(initial=0) <= 1
    for call in calls:
        members = sorted_table[call.begin : call.begin + call.count]
        assert set(members["decoder"].tolist()) <= (
            {VECTOR_WEIGHT, VECTOR_BIAS} if call.decoder in (1, 2) else {call.decoder}
        )
        if call.decoder == KERNEL:
            assert set(members[["height", "width"]].tolist()) == {(call.height, call.width)}
        if call.decoder == CLASS_WEIGHT:
            assert set(members["columns"].tolist()) == {call.columns}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("slots", "centred"), [(1, False), (7, False), (300, False), (300, True)])
def test_decode_inputs(core: ModuleType, instruction_set: str, dtype: Any, slots: int, centred: bool) -> None:
    weights = Weights(dtype)
    rows = random_table(slots, slots, 40)
    order, targets, nodes, calls, hidden_rows, elements = core.lay_out(rows, VECTOR, CLASSES)
    states = np.random.default_rng(2).standard_normal((40, HID)).astype(dtype)
    native = weights.native(core, centred)
    middle = SIZE // 2 if centred else 0
    hidden, blocks = native.decode_inputs(states, nodes, calls, hidden_rows, elements, 2)
    assert hidden.shape == (hidden_rows + sum(rows["decoder"] == CLASS_WEIGHT), 8 * HID)
    native.class_weights(calls, hidden, blocks, 2)
    for first, slot in zip(targets["first"].tolist(), rows[order], strict=True):
        node, decoder, height, width, columns, *_ = slot.tolist()
        state = states[node].astype(np.float64)
        cells = weights.linear(0, state).reshape(4 * HID, SIZE, SIZE)
        vector = weights.linear(5, weights.linear(4, state), relu=False)
        if decoder == KERNEL:
            found = hidden[first : first + height * width]
            top, left = (SIZE // 2 - height // 2, SIZE // 2 - width // 2) if centred else (0, 0)
            read = cells[:, top : top + height, left : left + width]
            expected = weights.linear(1, read.reshape(4 * HID, -1).T)
        elif decoder == CLASS_WEIGHT:
            found = blocks[first : first + CLASSES * columns].reshape(CLASSES, columns)
            kernel = weights.linear(2, weights.linear(1, cells[:, middle, middle])).reshape(ROWS, COLUMNS)[:, :columns]
            expected = weights.linear(3, kernel.T, relu=False).T
        elif decoder == CLASS_BIAS:
            found = blocks[first : first + CLASSES]
            expected = weights.linear(6, np.maximum(vector[VECTOR:], 0), relu=False)
        else:
            found = blocks[first : first + VECTOR]
            expected = vector[:VECTOR] if decoder == VECTOR_WEIGHT else vector[VECTOR:]
        np.testing.assert_allclose(found, expected, rtol=20 * TOLERANCE[dtype], atol=20 * TOLERANCE[dtype])


class Case:
    """Slots of all decoders with room for what they decode to."""

    def __init__(self, core: ModuleType, weights: Weights, slots: int, seed: int) -> None:
        rows = random_table(seed, slots, 40)
        rows["kind"] = np.where(rows["decoder"] == KERNEL, 0, 1)
        self.threads = 1 + seed % 2
        _, self.targets, nodes, self.calls, hidden_rows, elements = core.lay_out(rows, VECTOR, CLASSES)
        states = np.random.default_rng(2).standard_normal((40, HID)).astype(weights.tables[0].dtype)
        self.native = weights.native(core)
        self.hidden, self.blocks = self.native.decode_inputs(states, nodes, self.calls, hidden_rows, elements, 2)
        self.last = weights.layers[2][0].reshape(ROWS, COLUMNS, -1), weights.layers[2][1].reshape(ROWS, COLUMNS)

    def memory(self) -> tuple[list[Array], Array]:
        """Outputs, and the table of their memory."""
        outputs, rows = [], []
        for target in self.targets:
            outputs.append(np.full((target["out"], target["in"], target["cells"]), 7, dtype=self.hidden.dtype))
            strides = int(target["in"] * target["cells"]), int(target["cells"]), 1
            rows.append((outputs[-1].ctypes.data, int(self.hidden.dtype == np.float64), strides))
        return outputs, table(MEMORY, rows)

    def at_once(self, **options: Any) -> tuple[int, list[Array]]:
        outputs, memory = self.memory()
        found = self.native.decode(
            self.calls, self.hidden, self.blocks.copy(), self.targets, memory, self.threads, **options
        )
        return found, outputs

    def one_by_one(self, core: ModuleType) -> tuple[int, list[Array]]:
        outputs, memory = self.memory()
        blocks = self.blocks.copy()
        self.native.class_weights(self.calls, self.hidden, blocks, 2)
        return core.decode(self.hidden, *self.last, blocks, self.targets, memory, True, 2), outputs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slots", [1, 7, 60, 300])
def test_class_weights_are_made_along_with_products(
    core: ModuleType, instruction_set: str, dtype: Any, slots: int
) -> None:
    """The same bits as by themselves, whatever products are beside them, and whether the largest weight is known."""
    weights = Weights(dtype)
    for seed in range(4):
        case = Case(core, weights, slots, seed)
        known = {} if seed % 2 else {"largest_weight": float(np.abs(case.last[0]).max())}
        (found, ours), (wanted, theirs) = case.at_once(**known), case.one_by_one(core)
        assert found == wanted == -1
        assert all(map(np.array_equal, ours, theirs))


@pytest.mark.parametrize("layer", [1, 2, 3])
@pytest.mark.parametrize("size", [1e18, 1e37, np.inf, np.nan])
def test_class_weights_that_might_be_too_large_are_looked_at(core: ModuleType, layer: int, size: float) -> None:
    """Nothing is written where one is not finite; what could be too large, but is not, is written."""
    weights = Weights(np.float32)
    weights.layers[layer][0][:2] *= size
    case = Case(core, weights, 60, 1)
    (found, ours), (wanted, theirs) = case.at_once(), case.one_by_one(core)
    assert found == wanted
    assert all(map(np.array_equal, ours, theirs))
    assert found == -1 or all((output == 7).all() for output in ours)


def test_nothing_is_written_when_the_last_thing_that_can_fail_does(core: ModuleType) -> None:
    def refuse() -> None:
        raise KeyboardInterrupt

    case = Case(core, Weights(np.float32), 60, 1)
    outputs, memory = case.memory()
    with pytest.raises(KeyboardInterrupt):
        case.native.decode(case.calls, case.hidden, case.blocks, case.targets, memory, 2, refuse)
    assert all((output == 7).all() for output in outputs)


def test_what_is_no_input_of_the_last_step_is_refused(core: ModuleType) -> None:
    case = Case(core, Weights(np.float32), 60, 1)
    _, memory = case.memory()
    for hidden, blocks in (
        (case.hidden[1:], case.blocks),
        (case.hidden, case.blocks[:-1]),
        (case.hidden[:, 4:], case.blocks),
    ):
        inputs = np.ascontiguousarray(hidden), blocks.copy()
        with pytest.raises(ValueError, match=r"hidden|out of range"):
            case.native.decode(case.calls, *inputs, case.targets, memory, 2)
        with pytest.raises(ValueError, match=r"hidden|out of range"):
            case.native.class_weights(case.calls, *inputs, 2)


def test_what_is_not_a_number_stays_so(core: ModuleType, instruction_set: str) -> None:
    weights = Weights(np.float32)
    weights.layers[1][0][3, 2] = np.nan
    slots = random_table(0, 30, 5)
    _, _, nodes, calls, rows, elements = core.lay_out(slots, VECTOR, CLASSES)
    states = np.ones((5, HID), dtype=np.float32)
    hidden, _ = weights.native(core).decode_inputs(states, nodes, calls, rows, elements, 1)
    assert np.isnan(hidden[:, 3]).all()
    assert np.isfinite(np.delete(hidden, 3, axis=1)).all()


def test_what_does_not_fit_is_refused(core: ModuleType) -> None:
    weights = Weights(np.float32)
    native = weights.native(core)
    slots = random_table(0, 30, 5)
    _, _, nodes, calls, rows, elements = core.lay_out(slots, VECTOR, CLASSES)
    states = np.ones((5, HID), dtype=np.float32)
    for wrong in (
        (nodes, calls, rows - 1, elements),
        (nodes, calls, rows, elements - 1),
        (nodes[1:], calls, rows, elements),
    ):
        with pytest.raises(ValueError, match="out of range"):
            native.decode_inputs(states, *wrong, 1)
    for height in (2, 3, 2_000_001):  # of a class weight, which is one cell
        tall = slots[slots["decoder"] == CLASS_WEIGHT][:1].copy()
        tall["height"] = height
        _, _, ones, its_calls, its_rows, its_elements = core.lay_out(tall, VECTOR, CLASSES)
        with pytest.raises(ValueError, match="a call of a decoder is out of range"):
            weights.native(core, True).decode_inputs(states, ones, its_calls, its_rows, its_elements, 1)
    with pytest.raises(ValueError, match="a node is out of range"):
        native.decode_inputs(states[:2], nodes, calls, rows, elements, 1)
    with pytest.raises(ValueError, match="states has another shape"):
        native.decode_inputs(states[:, 1:].copy(), nodes, calls, rows, elements, 1)
    batch = Batch(core, 4, [5])
    with pytest.raises(ValueError, match="primitives must be"):
        native.node_states(batch.topology(core), np.full(5, 15, dtype=np.int8), np.ones((5, 4), dtype=np.int64), 1)
    weights.sweep, five = [], np.zeros(5, dtype=np.int8)
    with pytest.raises(ValueError, match="without the weights of a sweep"):
        weights.native(core).node_states(batch.topology(core), five, np.ones((5, 4), dtype=np.int64), 1)
    weights.layers[3] = weights.layers[3][0][:, 1:].copy(), weights.layers[3][1]
    with pytest.raises(ValueError, match="the weight of a layer"):
        weights.native(core)
    with pytest.raises(ValueError, match="decoder 6"):
        core.lay_out(table(SLOT, [row(0, 6, 1, 1, 1, 1, 1)]), VECTOR, CLASSES)
    for at in range(2, 9):
        broken = list(row(0, KERNEL, 1, 1, 1, 1, 1))
        broken[at] = 0
        with pytest.raises(ValueError, match="slot 1 has sizes that no parameter has"):
            core.lay_out(table(SLOT, [row(0, KERNEL, 1, 1, 1, 1, 1), broken]), VECTOR, CLASSES)
