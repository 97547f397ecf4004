"""The C++ core under random and hostile arrays. Only numpy: these also run on a sanitized build of the extension."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from fuzzing.damage import Array, Random, chance, extreme, pick, spoil
from fuzzing.driver import Target

# TypeError is what pybind11 raises for what is no array at all, or of numbers that do not convert.
ERRORS = (ValueError, TypeError)
KINDS = 24


def load_core() -> ModuleType:
    """The extension by itself: the package around it imports torch, which takes longer than a short round."""
    given = os.environ.get("GHNFAST_TEST_EXTENSION")
    package = importlib.util.find_spec("ghnfast")
    assert package is not None
    folders = [given] if given else package.submodule_search_locations or []
    path = next(path for folder in folders for path in Path(folder).glob("_C*.so"))
    loader = importlib.machinery.ExtensionFileLoader("_C", str(path))
    spec = importlib.util.spec_from_file_location("_C", path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


core: Any = load_core()
warnings.simplefilter("ignore")  # numpy's, of complex numbers that are made real


def integers(random: Random, low: int, high: int, size: Any, dtype: Any = np.int64) -> Array:
    """Within low and high, exclusive; none where that is empty."""
    return random.integers(low, max(high, low + 1), size).astype(dtype)


def number_of_threads(random: Random) -> int:
    return extreme(random, np.int32) if chance(random, 0.05) else int(random.integers(1, 4))


def offsets_of(counts: Array) -> Array:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def traced(random: Random) -> list[Array]:
    """Operations that read earlier ones."""
    count = int(random.integers(0, 40))
    kinds = integers(random, 0, KINDS, count, np.int8)
    inputs = [integers(random, 0, at, random.integers(0, 4 if at else 1), np.int32) for at in range(count)]
    offsets = offsets_of(np.array([len(each) for each in inputs], dtype=np.int64)).astype(np.int32)
    outputs = integers(random, 0, count, random.integers(0, 3 if count else 1), np.int32)
    return [kinds, offsets, np.concatenate([*inputs, np.zeros(0, np.int32)]).astype(np.int32), outputs]


def build_graph(random: Random) -> None:
    arrays = [spoil(random, array, 0.3) for array in traced(random)]
    operations, primitives, edges, levels, fates, *classifier = core.build_graph(*arrays)
    nodes = len(primitives)
    assert len(operations) == nodes == levels[-1]
    assert ((primitives >= 0) & (primitives < 15)).all()
    assert len(fates) == len(arrays[0])
    assert ((edges >= 0) & (edges < nodes)).all()
    assert (edges[:, 0] < edges[:, 1]).all()
    assert all(-1 <= node < nodes for node in classifier)


def graphs(random: Random) -> list[Array]:
    """Offsets of graphs and edges, and where edges come from."""
    sizes = integers(random, 0, 30, random.integers(0, 4))
    sources = []
    for size in sizes.tolist():
        for node in range(size):
            wanted = integers(random, 0, node, random.integers(0, 3) if node else 0)
            sources.append(np.unique(wanted))
    starts = np.repeat(offsets_of(sizes)[:-1], sizes)
    counts = np.array([len(each) for each in sources], dtype=np.int64)
    joined = np.concatenate([*(each + start for each, start in zip(sources, starts, strict=True)), np.zeros(0)])
    return [offsets_of(sizes), offsets_of(counts), joined.astype(np.int32)]


def cutoff_of(random: Random) -> int:
    return extreme(random, np.int32) if chance(random, 0.1) else int(random.integers(1, 256))


def hop_bands(random: Random) -> None:
    arrays = [spoil(random, array, 0.25) for array in graphs(random)]
    starts, offsets, closeness = core.hop_bands(*arrays, cutoff_of(random), number_of_threads(random))
    assert len(starts) + 1 == len(offsets) == len(arrays[1])
    assert offsets[-1] == len(closeness)


def reversed_bands(random: Random) -> None:
    given = graphs(random)
    bands = [spoil(random, array, 0.3) for array in core.hop_bands(*given, 50, 1)]
    starts, offsets, closeness = core.reversed_bands(*bands)
    assert len(starts) + 1 == len(offsets)
    assert offsets[-1] == len(closeness)


def sweep_weights(random: Random, hid: int, virtual: bool, dtype: Any) -> list[Array]:
    hidden = int(random.integers(1, 9))
    mlp: list[tuple[int, ...]] = [(hidden, hid), (hidden,), (hid, hidden), (hid,)]
    shapes = [*mlp, (3 * hid, hid), (3 * hid, hid), (3 * hid,), (3 * hid,), *(mlp if virtual else [])]
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


def topology(random: Random, probability: float) -> tuple[Any, int]:
    """A topology from arrays that are as they should be, or perhaps not, and its number of nodes."""
    given, cutoff = graphs(random), int(random.integers(1, 60))
    bands = core.hop_bands(*given, cutoff, 1)
    arrays = [spoil(random, array, probability) for array in (*given, *bands)]
    return core.Topology(*arrays, cutoff if chance(random, 0.9) else extreme(random, np.int32)), len(arrays[1]) - 1


def sweep(random: Random) -> None:
    made, nodes = topology(random, 0.1)
    hid, dtype = int(random.integers(0, 13)), pick(random, (np.float32, np.float64))
    weights = sweep_weights(random, hid, chance(random), dtype)
    if chance(random, 0.2):
        at = int(random.integers(len(weights)))
        weights[at] = spoil(random, weights[at], 1)
    if chance(random, 0.05):
        del weights[-1]
    states, grad = (spoil(random, random.standard_normal((nodes, hid)).astype(dtype), 0.1) for _ in range(2))
    threads = number_of_threads(random)
    assert core.gated_sweep(states, weights, made, threads).shape == (nodes, hid)
    core.gated_sweep_backward(grad, states, weights, made, threads)


def path_sums(random: Random) -> None:
    made, nodes = topology(random, 0.1)
    kinds, directions = (int(random.integers(0, most)) for most in (9, 40))
    weights = spoil(random, random.standard_normal((kinds, directions)), 0.1)
    given = spoil(random, integers(random, 0, max(kinds, 1), nodes, np.int32), 0.1)
    threads = number_of_threads(random)
    assert core.path_sums(made, given, weights, threads).shape[1] == weights.shape[1]


def attention(random: Random) -> None:
    """Codes of a topology, or any; heads and widths that fit, or perhaps not."""
    made, _ = topology(random, 0.05)
    core.pair_codes(made, extreme(random, np.int32) if chance(random, 0.1) else 50, number_of_threads(random))
    sizes = integers(random, 0, 40, random.integers(0, 4))
    kinds, heads, width = (int(random.integers(1, most)) for most in (102, 20, 20))
    codes = integers(random, 0, kinds, int((sizes**2).sum()), np.uint8)
    relations = core.Relations(spoil(random, offsets_of(sizes), 0.1), spoil(random, codes, 0.1))
    dtype, nodes = pick(random, (np.float32, np.float64)), int(sizes.sum())
    shapes = [(nodes, 3 * heads * width), (kinds, heads), (nodes, heads * width)]
    qkv, table, grad = (spoil(random, random.standard_normal(shape).astype(dtype), 0.1) for shape in shapes)
    threads = number_of_threads(random)
    result, log_sums = core.attention(qkv, table, relations, True, threads)
    assert result.shape == (nodes, heads * width)
    kept = [spoil(random, array, 0.1) for array in (result, log_sums)]
    core.attention_backward(grad, qkv, table, relations, *kept, threads)


# Decoding ------------------------------------------------------------------------------------------------------------


SLOT, TARGET, MEMORY = (core.dtypes()[name] for name in ("Slot", "DecodeTarget", "DecodeMemory"))


def spoilt_table(random: Random, table: Array, probability: float = 0.5) -> Array:
    """A table, or perhaps not: its numbers may be others, and it may be none."""
    numbers = spoil(random, table.view(np.int64).reshape(len(table), table.itemsize // 8), probability)
    if numbers.dtype != np.int64 or numbers.ndim != 2 or numbers.shape[1] * 8 != table.itemsize:
        return numbers
    return np.ascontiguousarray(numbers).view(table.dtype).reshape(len(numbers))


def slots(random: Random, count: int, nodes: int) -> Array:
    """Rows as ghnfast/prediction/layout.py makes them."""
    table = np.zeros(count, dtype=SLOT)
    for at in range(count):
        decoder = int(random.integers(0, 6))
        height, width = integers(random, 1, 4, 2).tolist()
        cells = height * width if decoder == 0 else 1
        rows, columns = integers(random, 1, 5, 2).tolist()
        out, inner = integers(random, 1, 12, 2).tolist()
        kind = 0 if decoder == 0 else int(random.integers(1, 4))
        node = int(random.integers(nodes))
        table[at] = (node, decoder, height, width, columns, rows, cells, out, inner, kind, 0, 0.5)
    return table


def lay_out(random: Random) -> None:
    table = spoilt_table(random, slots(random, int(random.integers(0, 12)), 9))
    sizes = [extreme(random) if chance(random, 0.1) else int(random.integers(0, 20)) for _ in range(2)]
    order, targets, nodes, calls, hidden_rows, elements = core.lay_out(table, *sizes)
    assert sorted(order.tolist()) == list(range(len(table)))
    assert len(targets) == len(nodes) == len(table)
    assert sum(call.count for call in calls) == len(table)
    assert min(hidden_rows, elements) >= 0


def source_and_targets(random: Random) -> tuple[list[Array], Array]:
    """Hidden states, weight, bias, blocks; targets within them, or perhaps not."""
    dtype = pick(random, (np.float32, np.float64))
    hidden_rows, width, max_rows, max_columns = integers(random, 0 if chance(random, 0.1) else 1, 9, 4).tolist()
    length = int(random.integers(0, 60))
    shapes = [(hidden_rows, width), (max_rows, max_columns, width), (max_rows, max_columns), (length,)]
    source = [spoil(random, random.standard_normal(shape).astype(dtype), 0.05) for shape in shapes]
    table = np.zeros(int(random.integers(0, 5)), dtype=TARGET)
    for at in range(len(table)):
        kind = int(random.integers(0, 4))
        rows, columns = (int(random.integers(1, most + 1)) if most else 0 for most in (max_rows, max_columns))
        room = hidden_rows if kind == 0 else length // max(rows * columns, 1)
        cells = int(random.integers(1, max(room, 1) + 1))
        first = int(random.integers(0, max(room - cells, 0) + 1))
        table[at] = (first, rows, columns, cells, *integers(random, 1, 30, 2), kind, random.standard_normal())
    return source, spoilt_table(random, table, 0.35)


def sizes_of(targets: Array) -> list[int]:
    """How many elements each has; none where they are no targets."""
    if targets.dtype != TARGET:
        return []
    return [int(row["out"]) * int(row["in"]) * int(row["cells"]) for row in targets]


MOST_ELEMENTS = 1 << 20


def decode(random: Random) -> None:
    """Into memory that has just the elements of each target, which a write beside them would leave."""
    source, targets = source_and_targets(random)
    if (memory := memory_for(random, targets)) is None:
        return
    result = core.decode(*source, targets, memory[0], chance(random), number_of_threads(random))
    assert -1 <= result < max(len(targets), 1)


def memory_for(random: Random, targets: Array) -> tuple[Array, list[Array]] | None:
    """The table of their memory, or perhaps not, and what it points to; None for targets that no memory holds."""
    elements = sizes_of(targets)
    if max(elements, default=0) > MOST_ELEMENTS:
        return None  # nobody can know that there is no such memory
    kinds = integers(random, 0, 4, len(elements)).tolist()
    buffers = [np.zeros(max(size, 0) * 8, dtype=np.uint8) for size in elements]
    memory = np.zeros(len(elements), dtype=MEMORY)
    for at, (buffer, kind) in enumerate(zip(buffers, kinds, strict=True)):
        cells = int(targets[at]["cells"])
        strides = np.clip((int(targets[at]["in"]) * cells, cells, 1), -(2**40), 2**40)
        memory[at] = (buffer.ctypes.data, kind, strides)
    if chance(random, 0.1):
        memory = memory[: int(random.integers(len(memory) + 1))]
    elif chance(random, 0.1) and len(memory):
        memory["element"][int(random.integers(len(memory)))] = extreme(random)
    return memory, buffers


def decode_backward(random: Random) -> None:
    source, targets = source_and_targets(random)
    total = sum(sizes_of(targets))
    length = total if 0 <= total <= MOST_ELEMENTS else 0
    grad = spoil(random, random.standard_normal(length).astype(source[0].dtype), 0.05)
    products, blocks = core.decode_backward(grad, *source, targets, number_of_threads(random))
    assert blocks.shape == source[3].shape
    assert products.ndim == 1


def weights_of_ghn(random: Random, hid: int, dtype: Any) -> list[Any]:
    rows, columns, classes, units, size = integers(random, 1, 6, 5).tolist()
    vector, channels = max(rows, columns), 4 * hid
    layers = [
        (channels * size * size, hid), (2 * channels, channels), (rows * columns, 2 * channels), (classes, rows),
        (units, hid), (2 * vector, units), (classes, vector),
    ]  # fmt: skip
    tables = [(15, hid), (int(random.integers(1, 9)), hid // 4), (int(random.integers(1, 9)), hid // 4)]
    sweep = sweep_weights(random, hid, chance(random), dtype)[: 4 if chance(random, 0.2) else None]

    def made(shape: Any) -> Array:
        return random.standard_normal(shape).astype(dtype)

    decoder = [made(shape) for layer in layers for shape in (layer, layer[:1])]
    lookups = [integers(random, 0, table[0], random.integers(2, 50)) for table in tables[1:]]
    norm = [made(hid), made(hid)] if chance(random, 0.7) else []
    return [list(map(made, tables)), *lookups, sweep, norm, 1e-5, decoder, rows, columns, chance(random, 0.5)]


def spoil_one(random: Random, arguments: list[Any]) -> None:
    """One array among arguments, which may be in a list, is spoilt; or a number is."""
    at = int(random.integers(len(arguments)))
    if isinstance(arguments[at], list) and arguments[at]:
        if chance(random, 0.2):
            arguments[at] = arguments[at][:-1]
        else:
            spoil_one(random, arguments[at])
    elif isinstance(arguments[at], np.ndarray):
        arguments[at] = spoil(random, arguments[at], 1)
    elif type(arguments[at]) is int:
        arguments[at] = extreme(random)


def ghn(random: Random) -> None:
    hid, dtype = 4 * int(random.integers(0, 4)), pick(random, (np.float32, np.float64))
    weights = weights_of_ghn(random, hid, dtype)
    if chance(random, 0.3):
        spoil_one(random, weights)
    made = (core.GhnFloat if dtype is np.float32 else core.GhnDouble)(*weights)
    graph, nodes = topology(random, 0.05)
    primitives = spoil(random, integers(random, 0, 15, nodes, np.int8), 0.1)
    shapes = spoil(random, integers(random, -1, 60, (nodes, 4)), 0.1)
    threads = number_of_threads(random)
    states = made.node_states(graph, primitives, shapes, threads)
    assert states.shape == (nodes, hid)
    vector, classes = len(weights[6][10]), len(weights[6][6])
    table = spoilt_table(random, slots(random, int(random.integers(0, 9)), max(nodes, 1)), 0.2)
    _, targets, chosen, calls, hidden_rows, elements = core.lay_out(table, vector, classes)
    if max(hidden_rows, elements) > MOST_ELEMENTS:
        return
    if chance(random, 0.1):
        hidden_rows, elements = int(random.integers(0, 40)), extreme(random, np.int16)
    hidden, blocks = made.decode_inputs(states, spoil(random, chosen, 0.1), calls, hidden_rows, elements, threads)
    assert len(hidden) == hidden_rows + sum(call.count for call in calls if call.decoder == 3)
    assert len(blocks) == elements
    made.class_weights(calls, hidden, blocks, threads)
    if (memory := memory_for(random, targets)) is not None:
        inputs = [spoil(random, array, 0.1) for array in (hidden, blocks)]
        assert -1 <= made.decode(calls, *inputs, targets, memory[0], threads) < max(len(targets), 1)


# The search space ----------------------------------------------------------------------------------------------------

SETTINGS = {
    "num_classes": 1000, "channels": 64, "cells": 6, "kernel": 8, "channel_factor": 3, "fc_layers": 3, "fc_width": 64,
    "stem_type": 3,
}  # fmt: skip
FLAGS = ("large_images", "stem_pool", "normed", "preprocessed", "global_average", "vit")


def cell(random: Random) -> tuple[list[tuple[int, int]], list[int]]:
    steps = int(random.integers(0, 6))
    edges = [(int(random.integers(0, 15)), int(random.integers(0, 2 + at // 2))) for at in range(2 * steps)]
    concat = sorted({int(state) for state in integers(random, 0, 2 + steps, random.integers(1, 5))})
    if chance(random, 0.15) and edges:
        edges[int(random.integers(len(edges)))] = (int(random.integers(0, 15)), extreme(random, np.int32))
    if chance(random, 0.1):
        concat = [extreme(random, np.int32) for _ in concat]
    return edges, concat


def search_space(random: Random) -> None:
    settings = core.NetworkSettings()
    for name, most in SETTINGS.items():
        setattr(settings, name, int(random.integers(1, most + 1)))
    for name in FLAGS:
        setattr(settings, name, chance(random))
    settings.set_cells(*cell(random), *cell(random))
    if chance(random, 0.3):
        setattr(settings, pick(random, list(SETTINGS)), extreme(random, np.int32))
    settings.graph()
    parameters = settings.parameters()
    assert sum(int(np.prod(shape, dtype=object)) for _, shape in parameters) == settings.elements()
    settings.node_cells()
    sampled(random)


def sampled(random: Random) -> None:
    numbers = [int(each) for each in integers(random, 1, 130, 4)]
    if chance(random, 0.3):
        numbers[int(random.integers(4))] = extreme(random, np.int32)
    ranges = core.TrainingRanges(*numbers, chance(random))
    split = int(random.integers(-1, 9))
    seed, index = (abs(extreme(random)) for _ in range(2))
    made, small, large = core.sample_network(split, seed, index, ranges, chance(random))
    core.draw_widths(made, small, large, seed, index, ranges, chance(random))
    core.statistics(split, seed, index, index + 2, ranges, number_of_threads(random))


# Arguments of other types --------------------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    None, 0, -1, 1.5, "a", b"a", (), [], {}, object(), np.zeros(0), np.zeros((0, 0)), np.zeros(()), np.zeros(3, "O"),
    np.zeros(3, "c16"), np.zeros(3, "U1"), np.zeros((2, 3), np.int64), np.zeros(4, np.int8), [None], [np.zeros(2)],
    2**70,
)  # fmt: skip
FUNCTIONS = {
    "build_graph": 4, "hop_bands": 5, "reversed_bands": 3, "Topology": 7, "lay_out": 3, "decode": 8,
    "decode_backward": 7, "gated_sweep": 4, "gated_sweep_backward": 5, "largest": 2, "GhnFloat": 10, "GhnDouble": 10,
    "philox": 2, "sample_network": 5, "draw_widths": 7, "statistics": 6, "TrainingRanges": 5, "environment": 1,
    "use_instruction_set": 1, "attention": 5, "attention_backward": 7, "Relations": 2, "pair_codes": 3,
    "overlapping": 1, "is_writable": 2, "inspect_tensors": 3, "path_sums": 4,
}  # fmt: skip


def arguments(random: Random) -> None:
    name = pick(random, list(FUNCTIONS))
    getattr(core, name)(*(pick(random, ODD) for _ in range(FUNCTIONS[name])))


TARGETS = {
    run.__name__: Target(run, ERRORS)
    for run in (
        build_graph, hop_bands, reversed_bands, sweep, path_sums, attention, lay_out, decode, decode_backward, ghn,
        search_space, arguments,
    )
}  # fmt: skip
