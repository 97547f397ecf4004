"""What stands in Python and in C++, and in kernels, is the same in all of them: the numbers of enums."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any

import pytest
import triton.language as tl

from ghnfast import _C
from ghnfast.deepnets import dataset, genotype
from ghnfast.graph import PRIMITIVES
from ghnfast.kernels import decode_tables as kernels
from ghnfast.ops.decode import ELEMENTS, TargetKind
from ghnfast.prediction.layout import DecoderKind
from ghnfast.tracing import Fate, Kind


def members(enum: type[IntEnum]) -> dict[str, int]:
    return {member.name: int(member) for member in enum}


def numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(names)}


PYTHON: dict[str, dict[str, int]] = {
    "Kind": members(Kind),
    "Fate": members(Fate),
    "DecoderKind": members(DecoderKind),
    "TargetKind": members(TargetKind),
    "Element": {str(dtype).removeprefix("torch."): number for dtype, number in ELEMENTS.items()},
    "Operation": numbered(genotype.OPERATIONS),
    "Split": numbered(dataset.SIZES),
}


def test_every_enum_of_the_extension_is_compared() -> None:
    assert PYTHON.keys() == _C.enums().keys()


@pytest.mark.parametrize("name", PYTHON)
def test_python_and_cpp_have_the_same_numbers(name: str) -> None:
    numbers = _C.enums()[name]
    assert PYTHON[name] == numbers
    assert sorted(numbers.values()) == list(range(len(numbers)))


def test_primitives_are_the_first_kinds() -> None:
    kinds = _C.enums()["Kind"]
    assert {name: kinds[name.upper()] for name in PRIMITIVES} == numbered(PRIMITIVES)
    assert kinds["PASS"] == len(PRIMITIVES)


def test_splits_that_are_sampled_come_first() -> None:
    assert dataset.SPLITS[: len(dataset.SIZES)] == tuple(dataset.SIZES)


def constants(module: Any, names: Iterable[str]) -> dict[str, int]:
    found = {name: getattr(module, name) for name in names}
    assert all(isinstance(value, tl.constexpr) for value in found.values())
    return {name: value.value for name, value in found.items()}


def test_kernels_have_the_same_numbers() -> None:
    enums = _C.enums()
    assert constants(kernels, enums["TargetKind"]) == enums["TargetKind"]
    elements = {name.upper(): number for name, number in enums["Element"].items()}
    assert constants(kernels, elements) == elements
