"""Rules for products of matrices: of activations (attention), or of one with a weight (a linear layer)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .layers import emit_weight, note_unpredicted
from .operations import Kind
from .registry import Arguments, Function, Keywords, argument, functions, rule
from .tensors import tensors_in
from .tracer import Tracer
from .values import Value

SEVERAL = "one of several factors that are multiplied with features"


@rule([*functions("matmul", "mm", "bmm", "mv", "inner", "tensordot"), torch.linalg.matmul])
def matmul(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    return product(
        tracer, func, args, kwargs, [named(args, kwargs, 0, "a"), named(args, kwargs, 1, "mat2", "vec", "b")], None
    )


@rule([*functions("addmm", "addmv", "baddbmm"), torch._addmm_activation])
def offset_matmul(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """A product that is added to something: to a bias, mostly."""
    factors = [named(args, kwargs, 1, "mat1", "mat", "batch1"), named(args, kwargs, 2, "mat2", "vec", "batch2")]
    return product(tracer, func, args, kwargs, factors, args[0])


def named(args: Arguments, kwargs: Keywords, position: int, *names: str) -> Any:
    """An argument whose name differs among the functions of a rule."""
    return next((kwargs[name] for name in names if name in kwargs), argument(args, kwargs, position, ""))


@rule([torch.einsum])
def einsum(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    return product(tracer, func, args, kwargs, tensors_in(args), None)


@rule([torch.linalg.multi_dot, torch.chain_matmul])
def chain(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """A product of several matrices, from the features outwards: each weight is that of a layer."""
    factors: Any = args[0] if args and isinstance(args[0], (list, tuple)) else kwargs.get("tensors", args)
    first = next((at for at, factor in enumerate(factors) if tracer.is_data(factor)), None)
    if first is None or "out" in kwargs:
        return tracer.generic(func, args, kwargs)
    result = factors[first]
    for factor in factors[first + 1 :]:
        result = matmul(tracer, torch.matmul, (result, factor), {})
    for factor in reversed(factors[:first]):
        result = matmul(tracer, torch.matmul, (factor, result), {})
    return result


def product(
    tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords, factors: list[Any], offset: Tensor | None
) -> Any:
    """A product of matrices, of these factors."""
    data = [factor for factor in factors if tracer.is_data(factor)]
    weights = [factor for factor in factors if tracer.is_parametric(factor)]
    weight = matrix_of(tracer, weights[0]) if len(data) == len(weights) == 1 else None
    if len(data) >= 2:
        tracer.note_use(weights, SEVERAL)
        tracer.note_use(offset, "an offset of a product of features")
        operation = tracer.emit(Kind.MATMUL, tracer.sources(data))
    elif weight is not None and weight.ndim == 2:
        operation = emit_weight(tracer, Kind.POINTWISE_CONV, tracer.sources(data), weight, offset)
    else:
        if data and len(weights) > 1:
            tracer.note_use(weights, SEVERAL)
        elif data:
            note_unpredicted(tracer, weight, offset)
        return tracer.generic(func, args, kwargs)
    if offset is not None and tracer.is_data(offset):
        operation = tracer.emit(Kind.SUM, [*tracer.sources(offset), operation])
    result = tracer.run_meta(func, args, kwargs, operation)
    channel = None
    if len(data) == 1:
        channel = channel_of(func, args, result.ndim, factors[0] is data[0])
    return tracer.set_value(result, Value(operation, channel))


def matrix_of(tracer: Tracer, weight: Tensor) -> Tensor:
    """The matrix that a weight of more dimensions repeats for each of a batch; the weight itself where it has several.

    Products of a batch come with weights that are expanded to it, by hand or where torch takes them apart.
    """
    if weight.ndim < 3:
        return weight
    twin = tracer.twin(weight)
    if any(size > 1 and stride for size, stride in zip(twin.shape[:-2], twin.stride()[:-2], strict=True)):
        return weight
    index = (0,) * (weight.ndim - 2)
    matrix: Tensor = tracer.rules[Tensor.__getitem__](tracer, Tensor.__getitem__, (weight, index), {})
    return matrix


def channel_of(func: Function, args: Arguments, rank: int, data_first: bool) -> int | None:
    """The dimension of a product in which what a weight gives lies."""
    if func is torch.einsum:
        return einsum_channel(args[0], rank, data_first) if isinstance(args[0], str) else None
    if data_first:
        return rank - 1
    return 0 if func.__name__ in ("inner", "tensordot") else max(rank - 2, 0)


def einsum_channel(equation: str, rank: int, data_first: bool) -> int | None:
    """The dimension of the result that the weight alone has; None where it is none, or several."""
    operands, _, result = equation.replace(" ", "").partition("->")
    first, _, second = operands.partition(",")
    features, weight = (first, second) if data_first else (second, first)
    own = [at for at, letter in enumerate(result) if letter != "." and letter in weight and letter not in features]
    if len(own) != 1:
        return None
    return own[0] if "." not in result[: own[0]] else rank - len(result) + own[0]
