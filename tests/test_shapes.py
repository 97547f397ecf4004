"""ghnfast/tracing/shapes.py: shapes that are computed here are torch's own, and so are strides."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ghnfast.tracing.shapes import SHAPES, contiguous_layout, result_shape, scales_in_place

Call = tuple[tuple[Any, ...], dict[str, Any]]


def empty(*shape: Any, **options: Any) -> Tensor:
    return torch.empty(*shape, device="meta", **options)


IMAGES = [
    empty(2, 8, 4, 4),
    empty(2, 4),
    empty(3),
    empty(()),
    empty(2, 8, 4, 4).permute(0, 2, 3, 1),
    empty(2, 8, 4, 4, memory_format=torch.channels_last),
    empty(2, 16, 4, 4).chunk(2, dim=1)[1],
    empty(2, 16, 4, 4, memory_format=torch.channels_last).chunk(2, dim=1)[1],
    empty(2, 1, 4, 1, memory_format=torch.channels_last),
    empty(2, 8, 1, 1),
    empty(2, 8, 1, 1, memory_format=torch.channels_last),
    empty(2, 8, 1, 4, 4),
    empty(2, 8, 1, 4, 4, memory_format=torch.channels_last_3d),
    empty(2, 1, 4, 1),
    empty(2, 5, 8).transpose(1, 2),
    empty(1, 1, 5).expand(2, 8, 5),
    empty(0, 4),
    empty(0),
    empty(2, 8, 4, 4, dtype=torch.int64),
    empty(2, 8, 4, 4, dtype=torch.float64),
]
MATRICES = [
    empty(2, 3, 4),
    empty(2, 4, 3),
    empty(2, 3, 4).transpose(1, 2),
    empty(1, 4, 3).expand(2, 4, 3),
    empty(4, 3),
    empty(2, 4, 3, dtype=torch.float16),
    empty(2, 0, 4),
    empty(5, 2, 4, 3).permute(1, 0, 3, 2),
    empty(2, 5, 4, 3),
]
DIMENSIONS = [None, 0, 1, -1, 4, -5, (), (2, 3), [1], (0, 0), (-1, 1), (0, 1, 2, 3), True, 1.0]


def reductions() -> Iterator[Call]:
    for x, dim in itertools.product(IMAGES, DIMENSIONS):
        for options in ({}, {"keepdim": True}, {"keepdim": 1}, {"dtype": torch.float64}):
            yield (x, dim), options
            yield (x,), {"dim": dim, **options}
        yield (x, dim, True), {}
    yield from (((x,), {}) for x in IMAGES)


def rolls() -> Iterator[Call]:
    for x, shift, dim in itertools.product(IMAGES, (1, (1,), (1, -3), (1, 2, 3), 1.5), DIMENSIONS):
        yield (x, shift, dim), {}
        yield (x,), {"shifts": shift, "dims": dim}
    yield (IMAGES[0], 1), {}


def concatenations() -> Iterator[Call]:
    for a, b, dim in itertools.product(IMAGES, IMAGES, DIMENSIONS):
        yield ([a, b], dim), {}
        yield ((b, a, a),), {"dim": dim}
    yield ([],), {}
    yield ([IMAGES[0]],), {}
    yield (), {"tensors": [IMAGES[0], IMAGES[0]]}


def copies() -> Iterator[Call]:
    for x in IMAGES:
        yield (x,), {}
        yield (x,), {"memory_format": torch.channels_last}


def products() -> Iterator[Call]:
    yield from (((a, b), {}) for a, b in itertools.product(MATRICES, MATRICES))


CALLS = {"cat": concatenations, "concat": concatenations, "concatenate": concatenations, "mean": reductions,
         "sum": reductions, "amax": reductions, "roll": rolls, "contiguous": copies, "matmul": products,
         "__matmul__": products}  # fmt: skip


@pytest.mark.parametrize("func", SHAPES, ids=lambda func: func.__name__)
def test_shape_is_that_of_torch(func: Callable[..., Any]) -> None:
    answered = 0
    for args, kwargs in CALLS[func.__name__]():
        shape = result_shape(func, args, kwargs)
        if shape is None:
            continue
        answered += 1
        result = func(*args, **kwargs)
        assert (result.shape, result.stride()) == (shape, empty(shape).stride()), (args, kwargs)
        assert all(result is not x for x in args)
    assert answered >= 3


@pytest.mark.parametrize("shape", [(), (3,), (2, 8, 4, 4), (2, 0, 3), (0,), (2, 1, 4, 1), torch.Size((5, 4, 3))])
def test_layout_is_that_of_torch(shape: tuple[int, ...]) -> None:
    x = empty(shape)
    assert contiguous_layout(shape) == (tuple(x.shape), x.stride())


def test_concatenation_of_a_part_of_an_image_is_not_left_to_torch() -> None:
    part, image = empty(2, 16, 4, 4).chunk(2, dim=1)[1], empty(2, 8, 4, 4)
    for tensors in ([part, image], [image, part]):
        assert result_shape(torch.cat, (tensors, 1), {}) == (2, 16, 4, 4)


@pytest.mark.parametrize("number", [2, 0.5])
def test_division_in_place_gives_the_tensor_itself(number: float) -> None:
    divided = [x for x in IMAGES if scales_in_place(Tensor.div_, (x, number))]
    for x in divided:
        shape, stride, dtype = x.shape, x.stride(), x.dtype
        assert x.div_(number) is x
        assert (x.shape, x.stride(), x.dtype) == (shape, stride, dtype)
    assert len(divided) >= 5
    assert not any(scales_in_place(func, (IMAGES[0], number)) for func in (Tensor.div, Tensor.squeeze_))


def test_other_functions_and_arguments_are_left_to_torch() -> None:
    assert result_shape(torch.add, (IMAGES[0], IMAGES[0]), {}) is None
    assert result_shape(torch.cat, ([IMAGES[0]],), {"out": IMAGES[0]}) is None
