"""ghnfast/tracing/shapes: shapes that are computed here are torch's own, and so are strides."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ghnfast.tracing.shapes import (
    KEEPING,
    SHAPES,
    UNARY,
    changes_values_alone,
    contiguous_layout,
    kept_layout,
    result_dtype,
    result_shape,
)
from ghnfast.tracing.tensors import tensors_in

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


MASKS = [empty(2, 8, 4, 4, dtype=torch.bool), empty(4, 4, dtype=torch.bool), empty(2, 8, 1, 1, dtype=torch.bool)]
OPERANDS = [*IMAGES, empty(1, 8, 1, 1), empty(1, 8, 1, 4), empty(8, 4, 1), empty(5), *MASKS, 2, 0.5, None, True, "a"]


def unaries() -> Iterator[Call]:
    for x in IMAGES:
        yield (x,), {}
        yield (x, 0.5), {}
        yield (x, 0.5, 2), {}
        yield (x, 1, 0.5), {}
        yield (x,), {"out": IMAGES[0]}


def binaries() -> Iterator[Call]:
    yield from (((a, b), {}) for a, b in itertools.product(OPERANDS, OPERANDS))


def ternaries() -> Iterator[Call]:
    few = [IMAGES[0], IMAGES[5], IMAGES[9], empty(1, 8, 1, 4), empty(8, 4, 1), empty(3), MASKS[0], MASKS[2], 2.0, 1]
    few += [empty(2, 8, 4, 4, dtype=torch.float64)]
    for a, b, c in itertools.product(few, few, few):
        yield (a, b, c), {}
        yield (a, b, c), {"value": 2}


def limits() -> Iterator[Call]:
    for x, low, high in itertools.product(IMAGES, (None, 0, 0.5, empty(4)), (None, 1, "b")):
        yield (x, low, high), {}
        yield (x,), {"min": low}
        yield (x,), {"max": high}


def along_dimensions() -> Iterator[Call]:
    for x, dim in itertools.product(IMAGES, DIMENSIONS):
        yield (x, dim), {}
        yield (x,), {"dim": dim}
        yield (x,), {"dim": dim, "dtype": torch.float64}
        yield (x, 2.0, dim), {}
        yield (x, 1, dim, True), {}
        yield (x, 0.5), {}
        yield (x,), {}


def spreads() -> Iterator[Call]:
    for x, dim, keep in itertools.product(IMAGES, DIMENSIONS, (False, True)):
        yield (x, dim), {"keepdim": keep, "correction": 0}
        yield (x, dim, False, keep), {}
        yield (x, dim, True), {"keepdim": keep}


def pairs() -> Iterator[Call]:
    for a, b, dim in itertools.product(IMAGES, IMAGES, (1, -1, 7)):
        yield (a, b), {"dim": dim}
        yield (a, b, dim, 1e-6), {}


def slopes() -> Iterator[Call]:
    for x, count in itertools.product(IMAGES, (1, 8, 4)):
        yield (x, empty(count)), {}


def windows() -> Iterator[Call]:
    for x in IMAGES:
        yield (x, 3), {}
        yield (x, 2, 1e-3, 0.5, 2.0), {}


def weights() -> Iterator[Call]:
    for shape in ((6, 3, 2, 2), (4, 3), (4, 3, 5)):
        yield (empty(*shape), empty(shape[0], *(1 for _ in shape[1:])), 0), {}
        yield (empty(*shape), empty(1, shape[1], *(1 for _ in shape[2:])), 1), {}
        yield (empty(*shape), empty(shape[0], *(1 for _ in shape[1:]))), {}


def convolutions(rank: int) -> Iterator[Call]:
    settings = itertools.product(
        (1, 2, 4), (1, 2, (3,) * rank, [2]), (1, (2,) * rank), (0, 1, (2,) * rank, "same", "valid", -1)
    )
    images = empty(2, 6, *(9, 8, 7)[:rank]), empty(6, *(9, 8, 7)[:rank]), empty(2, 6, *[2] * rank)
    for image, (groups, stride, dilation, padding) in itertools.product(images, settings):
        kernel = (3, 2, 4)[:rank]
        for weight in (empty(4, 6 // groups, *kernel), empty(4, 5, *kernel), empty(4, 6)):
            yield (image, weight, None, stride, padding, dilation, groups), {}
            yield (image, weight), {"stride": stride, "groups": groups}


def transposed_convolutions(rank: int) -> Iterator[Call]:
    settings = itertools.product(
        (1, 2, 4), (1, 2, (3,) * rank), (1, (2,) * rank), (0, 1, (2,) * rank), (0, 1, (2,) * rank)
    )
    images = empty(2, 6, *(4, 3, 2)[:rank]), empty(6, *(4, 3, 2)[:rank]), empty(2, 6, *[1] * rank)
    for image, (groups, stride, dilation, padding, more) in itertools.product(images, settings):
        weight = empty(6, 4, *(3, 2, 4)[:rank])
        yield (image, weight, None, stride, padding, more, groups, dilation), {}
        yield (image, weight), {"stride": stride, "output_padding": more}


def paddings() -> Iterator[Call]:
    few = [empty(2, 8, 4, 4), empty(2, 8, 5), empty(2, 8, 4, 3, 5), empty(8, 5), *IMAGES]
    for x, pad in itertools.product(few, ((1, 1), (1, 2, 0, 3), (1, 1, 1, 1, 2, 0), (4, 0), (0, 0), (-1, 2), (1,), ())):
        for mode in ("constant", "reflect", "replicate", "circular", "other"):
            yield (x, pad, mode), {}
            yield (x, list(pad)), {"mode": mode, "value": 1.0 if mode == "constant" else None}


def interpolations() -> Iterator[Call]:
    few = [empty(2, 8, 4, 6), empty(2, 8, 5), empty(2, 8, 4, 3, 5), empty(8, 5), *IMAGES]
    modes = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "trilinear", "area", "other")
    for x, mode, size in itertools.product(few, modes, (3, (5, 7), (2, 3, 4), 0, 2.5)):
        yield (x, size), {"mode": mode}
        yield (x,), {"size": size, "mode": mode, "align_corners": True}
    for x, mode, factor in itertools.product(few, modes, (2, 0.5, 1.7, (2, 1.3), 0.01, True)):
        yield (x,), {"scale_factor": factor, "mode": mode}
        yield (x,), {"scale_factor": factor, "mode": mode, "recompute_scale_factor": True}
        yield (x, 3, factor), {}


def lookups() -> Iterator[Call]:
    tables = [*IMAGES, empty(9, 4), empty(9), empty(4, 9).t(), empty(9, 4)[:, :2], empty(0, 4), empty(())]
    rows = [torch.empty(shape, dtype=torch.int64, device="meta") for shape in ((3,), (2, 5), (49, 49), (1,), (0,), ())]
    for table, row in itertools.product(tables, [*rows, rows[1].t(), rows[0].int(), rows[0].bool(), 1, slice(2), None]):
        yield (table, row), {}


def stacks() -> Iterator[Call]:
    for a, b, dim in itertools.product(IMAGES, IMAGES, DIMENSIONS):
        yield ([a, b], dim), {}
        yield ((a,),), {"dim": dim}


def all_calls(name: str) -> Iterator[Call]:
    """Those of a function, or of what has as many arguments."""
    if name in CALLS:
        return CALLS[name]()
    alike = (*UNARY, "softshrink", "hardshrink", "tanhshrink", "log_sigmoid", "_threshold")
    return unaries() if name in alike else binaries()


CALLS: dict[str, Callable[[], Iterator[Call]]] = {
         "cat": concatenations, "concat": concatenations, "concatenate": concatenations, "mean": reductions,
         "__getitem__": lookups,
         "sum": reductions, "amax": reductions, "roll": rolls, "contiguous": copies, "matmul": products,
         "__matmul__": products, "bmm": products, "clamp": limits, "clip": limits,
         "lerp": ternaries, "addcmul": ternaries,
         "addcdiv": ternaries, "where": ternaries, "masked_fill": ternaries, "cumsum": along_dimensions,
         "cumprod": along_dimensions, "normalize": along_dimensions, "log_softmax": along_dimensions,
         "glu": along_dimensions, "prelu": slopes, "local_response_norm": windows, "_weight_norm": weights,
         "amin": reductions, "logsumexp": reductions, "linalg_vector_norm": along_dimensions, "norm": along_dimensions,
         "linalg_norm": along_dimensions, "var": spreads, "std": spreads, "cosine_similarity": pairs,
         "pad": paddings, "interpolate": interpolations, "stack": stacks,
         **{f"conv{rank}d": functools.partial(convolutions, rank) for rank in (1, 2, 3)},
         **{f"conv_transpose{rank}d": functools.partial(transposed_convolutions, rank) for rank in (1, 2, 3)}
         }  # fmt: skip


@pytest.mark.parametrize("func", SHAPES, ids=lambda func: func.__name__)
def test_shape_is_that_of_torch(func: Callable[..., Any]) -> None:
    answered = 0
    for args, kwargs in all_calls(func.__name__):
        shape = result_shape(func, args, kwargs)
        if shape is None:
            continue
        answered += 1
        result = func(*args, **kwargs)
        assert (result.shape, result.stride()) == (shape, empty(shape).stride()), (args, kwargs)
        assert result.dtype == result_dtype(tensors_in(args, kwargs))
        assert all(result is not x for x in args)
    assert answered >= 3


@pytest.mark.parametrize("func", KEEPING, ids=lambda func: func.__name__)
def test_layout_that_is_kept_is_that_of_torch(func: Callable[..., Any]) -> None:
    answered = 0
    for args, kwargs in all_calls(func.__name__):
        if (layout := kept_layout(func, args, kwargs)) is None:
            continue
        answered += 1
        result = func(*args, **kwargs)
        assert (tuple(result.shape), result.stride(), result.dtype) == (*layout, args[0].dtype), (args, kwargs)
    assert answered >= 5


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
    divided = [x for x in IMAGES if changes_values_alone(Tensor.div_, (x, number))]
    for x in divided:
        shape, stride, dtype = x.shape, x.stride(), x.dtype
        assert x.div_(number) is x
        assert (x.shape, x.stride(), x.dtype) == (shape, stride, dtype)
    assert len(divided) >= 5
    assert all(x.fill_(number) is x and x.zero_() is x for x in IMAGES)
    assert not any(changes_values_alone(func, (IMAGES[0], number)) for func in (Tensor.div, Tensor.squeeze_))


def test_other_functions_and_arguments_are_left_to_torch() -> None:
    assert result_shape(torch.add, (IMAGES[0], IMAGES[0]), {}) is None
    assert result_shape(torch.cat, ([IMAGES[0]],), {"out": IMAGES[0]}) is None
