"""csrc/decode/device_tables.hpp: the tables that kernels on a GPU work through, against what they are to be."""

from __future__ import annotations

from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.arrays import Array
from helpers.table_rows import MEMORY, TENSOR, table, targets_of
from hypothesis import given, settings
from hypothesis import strategies as st

PRODUCT, SCALED = 0, 1
SIZES = {"tile": 10, "stored": 50}


@st.composite
def targets(draw: Any) -> list[tuple[int, ...]]:
    """Of few sizes, so that neighbours have the same; their hidden rows lie side by side, or not."""
    found: list[tuple[int, ...]] = []
    first = 0
    for _ in range(draw(st.integers(0, 9))):
        rows, columns = draw(st.sampled_from([(1, 1), (3, 4), (4, 3)]))
        cells, kind = draw(st.sampled_from([1, 1, 4])), draw(st.sampled_from([PRODUCT, PRODUCT, SCALED, 3]))
        out, in_ = (size * draw(st.integers(1, 5)) + draw(st.integers(0, 2)) for size in (rows, columns))
        first += draw(st.sampled_from([0, 0, 1]))
        found.append((first, rows, columns, cells, out, in_, kind))
        first += cells
    return found


def items_of(given: list[tuple[int, ...]], most: int | None) -> Any:
    """Those that store most come first."""
    units = []
    for index, (_, rows, columns, cells, out, in_, _) in enumerate(given):
        tiles = -(-rows * columns * cells // SIZES["tile"])
        stored = out * in_ * cells // tiles
        parts = 1 if most is None else max(stored // most, 1)
        items = [(index, tile, part, parts) for part, tile in product(range(parts), range(tiles))]
        units.append((stored // parts, items))
    return [item for _, items in sorted(units, key=lambda unit: -unit[0]) for item in items]


@given(targets(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_items(core: ModuleType, given: list[tuple[int, ...]], wide: bool) -> None:
    found, backward = core.device_items(targets_of(given), *SIZES.values(), wide)
    assert found.dtype == backward.dtype == (np.int64 if wide else np.int32)
    assert list(map(tuple, found.tolist())) == items_of(given, SIZES["stored"])
    assert list(map(tuple, backward.tolist())) == items_of(given, None)


@given(targets())
@settings(max_examples=40, deadline=None)
def test_targets(core: ModuleType, given: list[tuple[int, ...]]) -> None:
    """Without memory, they lie one behind the other; so do products in any case."""
    places, rows = table(MEMORY, [(1 + index, 2, (index, 3, 1)) for index in range(len(given))]), targets_of(given)
    flat, placed = core.device_targets(rows, None), core.device_targets(rows, places)
    address = place = 0
    for index, (_, block_rows, columns, cells, out, in_, kind) in enumerate(given):
        lies = table(MEMORY, [(address, 0, (in_ * cells, cells, 1))])
        for row, memory in ((flat[index], lies[0]), (placed[index], places[index])):
            assert row["target"] == rows[index]
            assert row["memory"] == memory
            assert row["product"] == place
        address += out * in_ * cells
        place += block_rows * columns * cells if kind == PRODUCT else 0


@given(targets())
@settings(max_examples=40, deadline=None)
def test_runs(core: ModuleType, given: list[tuple[int, ...]]) -> None:
    """Of each hidden row, the block that it is multiplied for, and the first element; in tiles of 3."""
    wanted, start = [], 0
    for first, rows, columns, cells, _, _, kind in given:
        for cell in range(cells if kind == PRODUCT else 0):
            wanted.append((first + cell, rows, columns, start))
            start += rows * columns
    runs = core.product_runs(targets_of(given))
    found = [
        (first + row, rows, columns, start + row * rows * columns)
        for rows, columns, first, last, start in runs.tolist()
        for row in range(last - first)
    ]
    assert found == wanted
    for before, after in zip(runs[:-1].tolist(), runs[1:].tolist(), strict=True):
        assert before[:2] != after[:2] or before[3] != after[2]
    tiles, before = [], 0
    for run, (rows, columns, first, last, _) in enumerate(runs.tolist()):
        down, along = range(-(-(last - first) // 3)), range(-(-rows * columns // 5))
        tiles += [[run, tile, part, before + 3 * tile] for tile, part in product(down, along)]
        before += last - first
    assert core.run_items(runs, 3, 5).tolist() == tiles


@pytest.mark.parametrize(
    "sizes", [(0, 1, 1, 1, 1), (1, -1, 1, 1, 1), (1, 1, 1, 0, 1), (2**40, 2**40, 1, 1, 1), (1, 1, 2**20, 2**30, 2**30)]
)
def test_sizes_that_no_parameter_has(core: ModuleType, sizes: tuple[int, ...]) -> None:
    rows = targets_of([(0, *sizes, PRODUCT)])
    for call in (
        lambda: core.device_targets(rows, None),
        lambda: core.device_items(rows, *SIZES.values(), False),
        lambda: core.product_runs(rows),
        lambda: core.largest_count(rows),
    ):
        with pytest.raises(ValueError, match="sizes that no parameters have"):
            call()


@pytest.mark.parametrize("name", SIZES)
def test_sizes_of_items_are_positive(core: ModuleType, name: str) -> None:
    with pytest.raises(ValueError, match="a size is 0; a positive one is accepted"):
        core.device_items(targets_of([]), *{**SIZES, name: 0}.values(), False)


def test_runs_have_five_columns(core: ModuleType) -> None:
    for runs in (np.zeros((2, 4), np.int64), np.zeros(5, np.int64)):
        with pytest.raises(ValueError, match=r"another shape than \(runs, 5\)"):
            core.run_items(runs, 1, 1)


BYTES = [4, 8, 2, 2]


@pytest.mark.parametrize("kept", [None, [3, 0, 5]])
@pytest.mark.parametrize("device", [-1, 1])
def test_memory_of_targets(core: ModuleType, kept: list[int] | None, device: int) -> None:
    found = table(TENSOR, [(1000, 0, 64, device), (2000, 1, 64, device), (3000, 3, 64, device), (-1, -1, -1, -1)])
    empty, order = table(MEMORY, [(0, 0, (index, 2, 1)) for index in range(3)]), np.array([2, 0, 1])
    skipped = None if kept is None else np.array(kept)
    memory, where = core.memory_of(found, order, empty, skipped, BYTES)
    first, second, third = kept or (0, 0, 0)
    addresses = [3000 + 2 * first, 1000 + 4 * second, 2000 + 8 * third]
    assert np.array_equal(memory, table(MEMORY, zip(addresses, [3, 0, 1], empty["strides"].tolist(), strict=True)))
    assert where == device


def changed(rows: Array, **fields: int) -> Array:
    for name, value in fields.items():
        rows[name][1] = value
    return rows


def test_memory_that_cannot_be_written_to_as_it_is(core: ModuleType) -> None:
    empty, order = np.zeros(2, MEMORY), np.arange(2)
    good = table(TENSOR, [(1000, 0, 64, 0), (2000, 0, 64, 0)])
    assert core.memory_of(good, order, empty, None, BYTES) is not None
    for rows in (changed(good.copy(), element=-1), changed(good.copy(), device=1), changed(good.copy(), device=-1)):
        assert core.memory_of(rows, order, empty, None, BYTES) is None
    for wrong in (np.array([0, 2]), np.array([-1, 0]), np.arange(3)):
        with pytest.raises(ValueError, match="target"):
            core.memory_of(good, wrong, empty, None, BYTES)
