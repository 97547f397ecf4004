"""csrc/python/tables.hpp: what tables have for columns, and which arrays are tables."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from helpers.arrays import Array
from helpers.table_rows import DEVICE, MEMORY, SLOT, TARGET, TENSOR, table

ROWS = {"Slot": SLOT, "DecodeTarget": TARGET, "DecodeMemory": MEMORY, "DeviceTarget": DEVICE, "TensorMemory": TENSOR}


def test_rows(core: ModuleType) -> None:
    assert core.dtypes() == ROWS
    assert {name: dtype.itemsize for name, dtype in ROWS.items()} == {
        "Slot": 96,
        "DecodeTarget": 64,
        "DecodeMemory": 40,
        "DeviceTarget": 112,
        "TensorMemory": 32,
    }


def memory(count: int) -> Array:
    """Tensors of eight bytes, each of which shares four with the next."""
    return table(TENSOR, [(64 + 4 * index, 0, 8, -1) for index in range(count)])


def unaligned(rows: Array) -> Array:
    found = np.frombuffer(b"1" + rows.tobytes(), dtype=rows.dtype, offset=1)
    assert found.ctypes.data % 8 != 0
    return found


# Ways to hold the same table.
LAYOUTS: dict[str, Any] = {
    "as it is": lambda rows: rows,
    "reversed twice": lambda rows: rows[::-1].copy()[::-1],
    "every second row": lambda rows: np.repeat(rows, 2)[::2],
    "read only": lambda rows: np.frombuffer(rows.tobytes(), dtype=rows.dtype),
    "at an odd address": unaligned,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tables_of_any_layout_are_read(core: ModuleType, layout: str) -> None:
    assert core.overlapping(LAYOUTS[layout](memory(5))) == [[0, 1, 2, 3, 4]]
    assert core.overlapping(LAYOUTS[layout](memory(5)[:0])) == []


def renamed(rows: Array) -> Array:
    return rows.view([("address", "i8"), ("kind", "i8"), ("bytes", "i8"), ("device", "i8")])


# What is no table of tensors, though some of it has as many numbers.
OTHERS: dict[str, Any] = {
    "numbers": lambda rows: rows.view(np.int64).reshape(-1, 4),
    "a list": lambda rows: rows.tolist(),
    "other names": renamed,
    "other numbers": lambda rows: rows.astype(
        [("address", "i8"), ("element", "i4"), ("bytes", "i8"), ("device", "i8")]
    ),
    "another byte order": lambda rows: rows.astype(rows.dtype.newbyteorder()),
    "fields in another order": lambda rows: rows[["element", "address", "bytes", "device"]],
    "some fields": lambda rows: rows[["address", "bytes"]],
    "a table of memory": lambda rows: np.zeros(len(rows), MEMORY),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_table_is_refused(core: ModuleType, what: str) -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        core.overlapping(OTHERS[what](memory(3)))


@pytest.mark.parametrize("shape", [(), (1, 3), (3, 1), (0, 3)])
def test_tables_have_one_dimension(core: ModuleType, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"a table has {len(shape)} dimensions; one is accepted"):
        core.overlapping(np.zeros(shape, TENSOR))
