"""Every function and class of the C++ core with arguments that it does not take: an exception, and never a crash."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.arrays import Array, Batch, sweep_weights
from helpers.ghn_weights import CHANNEL_ROWS, COLUMNS, EPSILON, HID, KERNEL_ROWS, ROWS, Weights
from helpers.table_rows import MEMORY, SLOT, TARGET, TENSOR, table, targets_of

# What Python's and numpy's own functions raise where they are given such arguments.
REFUSALS = (TypeError, ValueError, IndexError, AttributeError, OverflowError, MemoryError)
EDGES = [(1, 0), (3, 1)]
WRONG: list[Any] = [
    None, -1, 0, 1.5, float("nan"), 2**31, 2**63, 2**64, -(10**30), "text", b"bytes", [], [None], [[]], {}, object(),
    True, np.zeros(0), np.zeros((0, 0)), np.zeros((2, 0, 3)), np.array(7), np.zeros((2, 3, 4)), np.array(["a"]),
    np.array([None]),
]  # fmt: skip


class Plain:
    """What looks like a module of torch."""

    def __init__(self, **children: Any) -> None:
        for name in ("parameters", "buffers", "forward_hooks", "forward_pre_hooks", "backward_hooks"):
            setattr(self, f"_{name}", {})
        self._backward_pre_hooks: dict[str, Any] = {}
        self._modules = children


def decoding(core: ModuleType) -> dict[str, Any]:
    """The arguments of `decode`: a product of four cells, and a given block."""
    random = np.random.default_rng(0)
    sizes = {"hidden": (4, 8), "weight": (7, 6, 8), "bias": (7, 6), "blocks": (12,)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
    return {**arrays, "targets": targets_of([(0, 7, 6, 4, 9, 8, 0), (0, 4, 3, 1, 9, 7, 1)])}


OUTPUTS = [np.zeros((9, 8, 4), np.float32), np.zeros((9, 7, 1), np.float32)]
OF_SLOTS = [np.zeros((9, 8, 4), np.float32), np.zeros((1, 9, 1), np.float32)]


def memory_of(outputs: list[Array]) -> Array:
    return table(
        MEMORY, [(output.ctypes.data, 0, tuple(stride // 4 for stride in output.strides)) for output in outputs]
    )


def calls(core: ModuleType) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """What is called, with arguments that it takes."""
    batch = Batch(core, 0, [4, 3])
    starts, offsets, closeness = batch.bands
    topology = batch.topology(core)
    edges = {
        "graph_offsets": batch.offsets, "edge_offsets": batch.edge_offsets,
        "edge_sources": np.ascontiguousarray(batch.edges[:, 0]),
    }  # fmt: skip
    states = np.random.default_rng(0).standard_normal((7, HID)).astype(np.float32)
    sweep = {
        "states": states,
        "weights": sweep_weights(5, HID, 4, True, np.float32),
        "topology": topology,
        "threads": 2,
    }
    attention = {
        "qkv": np.concatenate([states, states, states], 1), "table": np.ones((101, 2), np.float32),
        "relations": core.Relations(batch.offsets, core.pair_codes(topology, 50, 1)),
    }  # fmt: skip
    result, log_sums = core.attention(*attention.values(), True, 1)
    memory = memory_of(OUTPUTS)
    decode = decoding(core)
    of_ghn = Weights(np.float32)
    weights = {
        "tables": of_ghn.tables, "channel_rows": CHANNEL_ROWS, "kernel_rows": KERNEL_ROWS, "sweep": of_ghn.sweep,
        "norm": of_ghn.norm, "norm_epsilon": EPSILON, "decoder": [a for layer in of_ghn.layers for a in layer],
        "rows": ROWS, "columns": COLUMNS, "centred": False,
    }  # fmt: skip
    ghn = core.GhnFloat(*weights.values())
    slots = table(SLOT, [(0, 0, 2, 2, 5, 6, 4, 9, 8, 0, 1, 0), (1, 1, 1, 1, 6, 1, 1, 1, 9, 2, 1, 0)])
    _, of_slots, _, decoder_calls, rows, elements = core.lay_out(slots, 6, 23)
    inputs = ghn.decode_inputs(states, np.array([0, 1]), decoder_calls, rows, elements, 1)
    ranges = core.TrainingRanges(16, 128, 64, 512, False)
    settings = core.sample_network(0, 0, 0, ranges, False)[0]
    child = Plain()
    modules = [Plain(child=child), child]
    return {
        "build_graph": (core.build_graph, {
            "kinds": np.array([9, 4, 7], np.int8), "input_offsets": np.array([0, 0, 1, 3]),
            "inputs": np.array([0, 0, 1]), "outputs": np.array([2]),
        }),
        "hop_bands": (core.hop_bands, {**edges, "cutoff": 50, "threads": 2}),
        "is_writable": (core.is_writable, {"address": OUTPUTS[0].ctypes.data, "bytes": 8}),
        "overlapping": (core.overlapping, {"memory": table(TENSOR, [(64, 0, 8, -1), (68, 0, 8, -1), (80, 1, 4, -1)])}),
        "reversed_bands": (core.reversed_bands, {"starts": starts, "offsets": offsets, "closeness": closeness}),
        "Topology": (core.Topology, {
            **edges, "band_starts": starts, "band_offsets": offsets, "closeness": closeness, "cutoff": 50,
        }),
        "gated_sweep": (core.gated_sweep, sweep),
        "gated_sweep_backward": (core.gated_sweep_backward, {"grad": states, **sweep}),
        "Relations": (core.Relations, {"graph_offsets": batch.offsets, "codes": core.pair_codes(topology, 50, 1)}),
        "pair_codes": (core.pair_codes, {"topology": topology, "reach": 50, "threads": 2}),
        "path_sums": (core.path_sums, {
            "topology": topology, "kinds": np.array([0, 1, 2, 0, 1, 2, 0], np.int32), "weights": np.ones((3, 2)),
            "threads": 2,
        }),
        "attention": (core.attention, {**attention, "keep": True, "threads": 2}),
        "attention_backward": (core.attention_backward, {
            "grad": states, **attention, "result": result, "log_sums": log_sums, "threads": 2,
        }),
        "decode": (core.decode, {**decode, "memory": memory, "check": True, "threads": 2}),
        "decode_backward": (core.decode_backward, {
            "grad": np.ones(9 * 8 * 4 + 9 * 7, np.float32), **decode, "threads": 2,
        }),
        "largest": (core.largest, {"arrays": [states, states], "threads": 2}),
        "memory_of": (core.memory_of, {
            "found": table(TENSOR, [(64, 0, 8, -1), (96, 0, 8, -1)]), "order": np.array([1, 0]), "empty": memory,
            "kept": np.array([0, 2]), "bytes": [4, 8, 2, 2],
        }),
        "device_targets": (core.device_targets, {"targets": decode["targets"], "memory": memory}),
        "device_items": (core.device_items, {
            "targets": decode["targets"], "tile": 10, "stored": 50, "wide": False,
        }),
        "largest_count": (core.largest_count, {"targets": decode["targets"]}),
        "product_runs": (core.product_runs, {"targets": decode["targets"]}),
        "run_items": (core.run_items, {"runs": core.product_runs(decode["targets"]), "rows": 2, "elements": 5}),
        "lay_out": (core.lay_out, {"table": slots, "vector": 6, "classes": 23}),
        "GhnFloat": (core.GhnFloat, weights),
        "GhnDouble": (core.GhnDouble, {
            name: [array.astype(np.float64) for array in value] if isinstance(value, list) else value
            for name, value in weights.items()
        }),
        "node_states": (ghn.node_states, {
            "topology": topology, "primitives": np.arange(7, dtype=np.int8), "shapes": np.full((7, 4), 3), "threads": 2,
        }),
        "decode_inputs": (ghn.decode_inputs, {
            "states": states, "nodes": np.array([0, 1]), "calls": decoder_calls, "hidden_rows": rows,
            "elements": elements, "threads": 2,
        }),
        "class_weights": (ghn.class_weights, {
            "calls": decoder_calls, "hidden": inputs[0], "blocks": inputs[1], "threads": 2,
        }),
        "Ghn.decode": (ghn.decode, {
            "calls": decoder_calls, "hidden": inputs[0], "blocks": inputs[1], "targets": of_slots,
            "memory": memory_of(OF_SLOTS), "threads": 2,
        }),
        "NetworkSettings": (core.NetworkSettings().set_cells, {
            "normal": EDGES, "normal_concat": [2], "reduce": EDGES, "reduce_concat": [2],
        }),
        "TrainingRanges": (core.TrainingRanges, {
            "channels_first": 16, "channels_last": 128, "fc_first": 64, "fc_last": 512,
            "wider": True,
        }),
        "philox": (core.philox, {"counter": [1, 2, 3, 4], "key": [5, 6]}),
        "sample_network": (core.sample_network, {
            "split": 1, "seed": 0, "index": 0, "ranges": ranges, "large_images": False,
        }),
        "draw_widths": (core.draw_widths, {
            "settings": settings, "small_elements": 1, "large_elements": 1, "seed": 0, "index": 0, "ranges": ranges,
            "large_images": False,
        }),
        "statistics": (core.statistics, {
            "split": 0, "seed": 0, "begin": 0, "end": 2, "ranges": ranges, "threads": 2,
        }),
        "sample_graphs": (core.sample_graphs, {
            "split": 1, "seed": 0, "begin": 0, "end": 2, "ranges": ranges, "num_classes": 10, "large_images": False,
            "threads": 2,
        }),
        "mean_path": (core.mean_path, {"nodes": 3, "edges": np.array([[0, 1], [1, 2]], dtype=np.int32)}),
        "environment": (core.environment, {"name": "PATH"}),
        "use_instruction_set": (core.use_instruction_set, {"name": core.instruction_sets()[-1]}),
        "walk_modules": (core.walk_modules, {"model": modules[0]}),
        "share_attributes": (core.share_attributes, {"modules": modules, "base": Plain, "names": ("__init__",)}),
        "open_attributes": (core.open_attributes, {"modules": modules}),
        "bare_modules": (core.bare_modules, {"modules": modules}),
        "are_untouched": (core.are_untouched, {"modules": modules, "types": {Plain}}),
        "copy_modules": (core.copy_modules, {"modules": modules}),
        "Snapshot": (core.Snapshot, {"modules": modules}),
    }  # fmt: skip


def refusal(function: Callable[..., Any], *arguments: Any) -> str | None:
    """What a call is refused with; None where it is not."""
    try:
        function(*arguments)
    except REFUSALS as error:
        return str(error)
    return None


def bent(array: Array) -> Iterator[Any]:
    """An array in other dtypes, shapes and layouts, and with other lengths."""
    for dtype in (np.float16, np.float32, np.float64, np.complex64, np.int8, np.uint64, np.bool_, object, "U8", ">i4"):
        yield (array if array.dtype.names is None else array[array.dtype.names[0]]).astype(dtype)
    yield from (
        array[None],
        array[..., None],
        array.ravel(),
        array.ravel()[:0],
        array[:0],
        array[1:],
        array[:-1],
        array.T,
    )
    yield from (np.concatenate([array, array]), array[::-1], np.repeat(array, 2, -1)[..., ::2], array[..., :0])
    yield array.tolist()
    yield np.lib.stride_tricks.as_strided(array, (2**12, *array.shape), (0, *array.strides))


def changed(array: Array) -> Iterator[Array]:
    """An array of integers, or a table, with one number replaced."""
    is_table = array.dtype.names is not None
    numbers = array.view(np.int64) if is_table else array.astype(np.int64)
    for at in range(numbers.size):
        for value in (-1, 0, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63)):
            copy = numbers.copy()
            copy.flat[at] = value
            yield copy.view(array.dtype) if is_table else copy


def wrong(name: str, argument: str, value: Any) -> Iterator[Any]:
    """What to give instead of an argument. What tells C++ where memory lies is believed: it changes in type alone."""
    yield from WRONG
    writes = name in ("decode", "Ghn.decode") and argument in ("targets", "memory")
    if isinstance(value, np.ndarray):
        numbers = value.view(np.int64) if value.dtype.names else value
        yield from bent(value) if not writes else (numbers, value[None], value[list(value.dtype.names)[1:]], value[:1])
        if value.dtype.kind in "iuV" and not writes:
            yield from changed(value)
    elif isinstance(value, list) and value:
        yield from (value[:-1], [*value, value[0]], [None] * len(value), [value[0], None], tuple(value), iter(value))
        if isinstance(value[0], np.ndarray):
            for at, item in enumerate(value):
                for other in (None, 3, item.astype(np.float16), item[None], item[:0], item[:-1], item.T, item * np.nan):
                    yield [*value[:at], other, *value[at + 1 :]]


# Where nothing may be given.
OPTIONAL = {("memory_of", "kept"), ("device_targets", "memory")}

NAMES = """
build_graph hop_bands is_writable overlapping reversed_bands Topology gated_sweep gated_sweep_backward Relations
pair_codes attention attention_backward decode decode_backward largest lay_out GhnFloat GhnDouble node_states
decode_inputs class_weights Ghn.decode NetworkSettings TrainingRanges philox sample_network draw_widths statistics
sample_graphs mean_path environment use_instruction_set walk_modules share_attributes open_attributes
bare_modules are_untouched copy_modules Snapshot memory_of device_targets device_items largest_count product_runs
run_items path_sums
""".split()


@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning", "ignore:invalid value", "ignore:overflow")
@pytest.mark.parametrize("name", NAMES)
def test_arguments_that_do_not_fit(core: ModuleType, name: str) -> None:
    function, arguments = calls(core)[name]
    function(*arguments.values())
    for argument, value in arguments.items():
        for other in wrong(name, argument, value):
            message = refusal(function, *{**arguments, argument: other}.values())
            assert message != ""
            assert message or other is not None or (name, argument) in OPTIONAL, argument
    with pytest.raises(TypeError):
        function(*arguments.values(), None, None, None)


@pytest.fixture(autouse=True)
def short_messages() -> Iterator[None]:
    """pybind11 writes all that it was given into its messages, which took half of the time."""
    with np.printoptions(threshold=4, edgeitems=1):
        yield


def test_all_that_there_is_is_called(core: ModuleType) -> None:
    others = {"DecoderCall", "dtypes", "enums", "instruction_sets", "rounds_products", "inspect_tensors", "versions"}
    methods = {"node_states", "decode_inputs", "class_weights", "Ghn.decode"}
    public = {name for name in vars(core) if not name.startswith("_")}
    assert set(calls(core)) == set(NAMES)
    assert public == (set(NAMES) - methods) | others


def test_what_has_no_constructor_has_none(core: ModuleType) -> None:
    with pytest.raises(TypeError):
        core.DecoderCall()
    for arguments in ((None, [], ()), ([], None, ()), ([], [], None), ([None], [], ())):
        with pytest.raises((TypeError, ValueError)):
            core.inspect_tensors(*arguments)
    for strange in (None, [None], [3], "tensors"):
        with pytest.raises(TypeError):
            core.versions(strange)


FIELDS = """
num_classes channels cells kernel channel_factor fc_layers fc_width stem_type large_images stem_pool normed preprocessed
global_average vit
""".split()


@pytest.mark.parametrize("field", FIELDS)
def test_settings_of_networks(core: ModuleType, field: str) -> None:
    for value in (None, -1, 0, 1, 2, 2**20, 2**31 - 1, -(2**31), 2**31, 1.5, "text", True):
        settings = core.NetworkSettings()
        settings.set_cells([(10, 0), (14, 1)], [2], [(13, 0), (3, 1)], [2])
        settings.vit = False
        message = refusal(setattr, settings, field, value)
        assert message != ""
        if message is None:
            assert value is not None
            for describe in (settings.graph, settings.parameters, settings.elements, settings.node_cells):
                assert refusal(describe) != ""


def test_networks_of_too_many_cells(core: ModuleType) -> None:
    settings = core.NetworkSettings()
    settings.cells = 2**20
    with pytest.raises(ValueError, match="the number of cells is 1048576; 1 to 65536 is accepted"):
        settings.graph()


@pytest.mark.parametrize(
    "strange",
    [
        lambda core: None, lambda core: 5, lambda core: len, lambda core: (lambda: 0), lambda core: object(),
        lambda core: KeyError("a"), lambda core: core, lambda core: core.TrainingRanges(16, 16, 64, 64, True),
        lambda core: Plain, lambda core: np.zeros(3), lambda core: {"a": 1}, lambda core: [].append,
    ],
)  # fmt: skip
def test_what_is_no_module(core: ModuleType, strange: Callable[[ModuleType], Any]) -> None:
    """Objects that C made hold more than a dict: a copy of one must not come to be."""
    item = strange(core)
    parent = Plain(child=item)
    for function in (core.copy_modules, core.bare_modules, core.open_attributes, core.Snapshot):
        for modules in ([item], [Plain(), item]):
            message = refusal(function, modules)
            assert message != ""
            assert message or function is not core.copy_modules
    for model in (item, parent):
        assert refusal(core.walk_modules, model) != ""
    gc.collect()


@pytest.mark.parametrize("kind", ["GhnFloat", "GhnDouble"])
def test_width_zero(core: ModuleType, kind: str) -> None:
    """Nothing has a width of zero; where sizes are divided by it, a loop might not end."""
    _, arguments = calls(core)[kind]
    for width in (0, 2, 6):
        tables = [
            table[:, :width] if at == 0 else table[:, : width // 4] for at, table in enumerate(arguments["tables"])
        ]
        with pytest.raises(ValueError, match=rf"a GHN of width {width} .*; a positive multiple of 4"):
            getattr(core, kind)(*{**arguments, "tables": [np.ascontiguousarray(table) for table in tables]}.values())
    for size in (0, -1, -(2**62)):
        with pytest.raises(ValueError, match="positive sizes are accepted"):
            getattr(core, kind)(*{**arguments, "rows": size}.values())


def test_decoding_from_width_zero(core: ModuleType) -> None:
    function, arguments = calls(core)["decode"]
    for width in (0, 2):
        given = {**arguments, "hidden": np.zeros((4, width), np.float32), "weight": np.zeros((7, 6, width), np.float32)}
        with pytest.raises(ValueError, match=f"the width of hidden is {width}; a positive multiple of 4 is accepted"):
            function(*given.values())


@pytest.mark.parametrize("column", range(7))
@pytest.mark.parametrize("value", [-1, -(2**62), 2**62, 2**63 - 1, -(2**63)])
def test_tables_of_targets_whose_sizes_overflow(core: ModuleType, column: int, value: int) -> None:
    for name in ("decode", "decode_backward"):
        function, arguments = calls(core)[name]
        for row in range(2):
            targets = arguments["targets"].copy()
            targets[TARGET.names[column]][row] = value
            with pytest.raises(ValueError):  # noqa: PT011 (each has its own message)
                function(*{**arguments, "targets": targets}.values())


def test_memory_at_address_zero(core: ModuleType) -> None:
    function, arguments = calls(core)["decode"]
    memory = arguments["memory"].copy()
    memory["address"][1] = 0
    with pytest.raises(ValueError, match="target 1 has no memory"):
        function(*{**arguments, "memory": memory}.values())


def test_integers_that_do_not_fit_are_not_cut_off(core: ModuleType) -> None:
    """2^32 + 1 would be 1 in 32 bits."""
    function, arguments = calls(core)["hop_bands"]
    with pytest.raises(ValueError, match="integers that do not fit 32 bits"):
        function(*{**arguments, "edge_sources": arguments["edge_sources"] + 2**32}.values())
    with pytest.raises(TypeError):
        function(*{**arguments, "edge_sources": arguments["edge_sources"].astype(float)}.values())


def test_more_threads_than_a_system_has(core: ModuleType) -> None:
    function, arguments = calls(core)["decode"]
    assert function(*{**arguments, "threads": 2**31 - 1}.values()) == -1
