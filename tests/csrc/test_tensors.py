"""csrc/core/memory.cpp on memory without tensors: what overlaps, and what can be written."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.table_rows import TENSOR, table
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(derandomize=True, max_examples=200, deadline=None, database=None)
@given(ranges=st.lists(st.tuples(st.integers(-1, 40), st.integers(-1, 8)), max_size=12))
def test_ranges_are_grouped_by_common_bytes(core: ModuleType, ranges: list[tuple[int, int]]) -> None:
    rows = [(start, 0, size, -1) for start, size in ranges]
    groups = core.overlapping(table(TENSOR, rows))
    known = {index for index, (start, size) in enumerate(ranges) if start >= 0 and size > 0}
    bytes_of = {index: set(range(ranges[index][0], sum(ranges[index]))) for index in known}
    # Groups grow until nothing outside of them touches them.
    wanted, rest = [], set(known)
    while rest:
        group: set[int] = set()
        bytes_ = set(bytes_of[min(rest)])
        while touching := {index for index in rest - group if bytes_of[index] & bytes_}:
            group |= touching
            bytes_ = set.union(*(bytes_of[index] for index in group))
        rest -= group
        if len(group) > 1:
            wanted.append(group)
    assert sorted(map(sorted, groups)) == sorted(map(sorted, wanted))


def address_of(memory: mmap.mmap) -> int:
    return int(np.frombuffer(memory, dtype=np.uint8).ctypes.data)


PAGES, PAGE, NO_ACCESS = 5, mmap.PAGESIZE, 0


def test_memory_of_the_process_can_be_written_and_keeps_its_content(core: ModuleType) -> None:
    values = np.arange(3 * PAGE, dtype=np.int64)
    before = values.copy()
    assert core.is_writable(values.ctypes.data + 8, values.nbytes - 8)
    assert core.is_writable(values.ctypes.data, 0)
    assert (values == before).all()


@pytest.mark.parametrize("kind", ["shared", "private"])
def test_a_file_mapped_for_writing(core: ModuleType, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(b"7" * PAGES * PAGE)
    with path.open("r+b") as file:
        flags = mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE
        memory = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    assert core.is_writable(address_of(memory), PAGES * PAGE)
    assert memory[:] == b"7" * PAGES * PAGE
    os.truncate(path, PAGE)
    assert core.is_writable(address_of(memory), PAGE)
    if kind == "shared":  # a private copy was made of the rest
        assert not core.is_writable(address_of(memory), 2 * PAGE)


@pytest.mark.parametrize("page", range(PAGES))
def test_one_page_that_cannot_be_written(core: ModuleType, page: int) -> None:
    memory = mmap.mmap(-1, PAGES * PAGE)
    start = address_of(memory)
    protect(start + page * PAGE, mmap.PROT_READ)
    for first in range(PAGES):
        for last in range(first, PAGES):
            fine = core.is_writable(start + first * PAGE + 5, (last - first) * PAGE + 1)
            assert fine == (not first <= page <= last)
    protect(start + page * PAGE, NO_ACCESS)
    assert not core.is_writable(start, PAGES * PAGE)
    protect(start + page * PAGE, mmap.PROT_READ | mmap.PROT_WRITE)
    assert core.is_writable(start, PAGES * PAGE)
    assert memory[:] == bytes(PAGES * PAGE)


def protect(address: int, access: int) -> None:
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), PAGE, access) == 0


def test_memory_beyond_all_addresses_is_refused(core: ModuleType) -> None:
    with pytest.raises(ValueError, match="memory at 9223372036854775807 has 8 bytes, beyond all addresses"):
        core.overlapping(table(TENSOR, [(64, 0, 8, -1), (2**63 - 1, 0, 8, -1)]))
    assert not core.is_writable(2**63 - 8, 16)
    assert not core.is_writable(-8, 16)
