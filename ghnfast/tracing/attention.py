"""Rules for attention, fused and spelled out."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .calls import ShapeError
from .layers import emit_weight
from .operations import Kind
from .registry import Arguments, Function, Keywords, argument, functions, rule
from .tensors import broadcast_shapes, tensors_in
from .tracer import Tracer

WITHOUT_FEATURES = "a query, key or value of an attention that comes from no features"


@rule(functions("softmax"))
def softmax(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    x = args[0]
    if not tracer.is_data(x):
        return tracer.generic(func, args, kwargs)
    value = tracer.value(x)
    dtype = kwargs.get("dtype")
    result = tracer.new(x.shape, x, tracer.emit(Kind.SOFTMAX, [value.operation]), value.channel)
    return result if dtype in (None, x.dtype) else tracer.set_value(result.to(dtype), tracer.value(result))


@rule(functions("where"))
def where(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """A choice by the scores that an attention is the softmax of (rows that are masked whole) is part of it."""
    if len(args) != 3 or kwargs or tracer.parameters_of(args):
        return tracer.generic(func, args, kwargs)
    condition, *chosen = (args[1], args[0], args[2]) if func is Tensor.where else args
    sources = tracer.sources(chosen)
    if len(sources) != 1 or not tracer.is_data(condition) or not is_made_of(tracer, sources[0], condition):
        return tracer.generic(func, args, kwargs)
    return tracer.run_meta(func, args, kwargs, tracer.emit(Kind.PASS, sources))


def is_made_of(tracer: Tracer, operation: int, scores: Tensor) -> bool:
    """Whether an operation is the softmax of what `scores` was computed from."""
    operations = tracer.operations
    softmax = operations.before_passing(operation)
    if operations.kinds[softmax] != Kind.SOFTMAX:
        return False
    before = operations.before_passing(operations.inputs_of(softmax)[0])
    return before == operations.before_passing(tracer.value(scores).operation)


@rule([F.scaled_dot_product_attention])
def scaled_dot_product_attention(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    query = argument(args, kwargs, 0, "query")
    value = argument(args, kwargs, 2, "value")
    key = argument(args, kwargs, 1, "key")
    inputs = tracer.sources(args, kwargs)
    if not inputs:
        return tracer.generic(func, args, kwargs)
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        shapes = ", ".join(str(tuple(item.shape)) for item in (query, key, value))
        raise ShapeError(f"an attention cannot read query, key and value of shapes {shapes}")
    tracer.note_use((query, key, value), WITHOUT_FEATURES)
    tracer.note_use((args, kwargs), "an offset of attention scores")
    operation = tracer.emit(Kind.MSA, inputs)
    carrier = next(item for item in tensors_in(args, kwargs) if tracer.is_data(item))
    return tracer.new((*leading_shape(query, key, value, kwargs), query.shape[-2], value.shape[-1]), carrier, operation)


def leading_shape(query: Tensor, key: Tensor, value: Tensor, kwargs: Keywords) -> tuple[int, ...]:
    """The batch and the heads of an attention: they broadcast, but for heads that share keys and values."""
    leading = [tuple(item.shape[:-2]) for item in (query, key, value)]
    if kwargs.get("enable_gqa") or leading[0] == leading[1] == leading[2]:
        return leading[0]
    return broadcast_shapes(broadcast_shapes(leading[0], leading[1]), leading[2])


MULTI_HEAD_SIGNATURE = inspect.signature(F.multi_head_attention_forward)
MULTI_HEAD_DEFAULTS = {name: parameter.default for name, parameter in MULTI_HEAD_SIGNATURE.parameters.items()}


@lru_cache(maxsize=64)
def check_multi_head_call(positional: int, keywords: tuple[str, ...]) -> None:
    """Fail as a call with so many positional arguments and these keywords does."""
    MULTI_HEAD_SIGNATURE.bind(*(None,) * positional, **dict.fromkeys(keywords))


@rule([F.multi_head_attention_forward])
def multi_head_attention(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """torch's own attention layer: projections in, attention, projection out."""
    check_multi_head_call(len(args), tuple(kwargs))
    given = {**MULTI_HEAD_DEFAULTS, **dict(zip(MULTI_HEAD_DEFAULTS, args, strict=False)), **kwargs}
    query, key = given["query"], given["key"]
    if query.shape[-1] != given["embed_dim_to_check"]:
        raise ShapeError(
            f"an attention of width {given['embed_dim_to_check']} cannot read a query of shape {tuple(query.shape)}"
        )
    tracer.note_use((given["bias_k"], given["bias_v"]), "a key or value that is appended in an attention")
    tracer.note_use((query, key, given["value"]), WITHOUT_FEATURES)
    tracer.note_use(given["attn_mask"], "an offset of attention scores")
    inputs = emit_projections(tracer, given)
    attention = tracer.emit(Kind.MSA, inputs)
    operation = emit_weight(tracer, Kind.POINTWISE_CONV, [attention], given["out_proj_weight"], given["out_proj_bias"])
    result = tracer.new(query.shape, query, operation, query.ndim - 1)
    if not given["need_weights"]:
        return result, None
    batch = () if query.ndim == 2 else (query.shape[1],)
    heads = () if given["average_attn_weights"] else (given["num_heads"],)
    appended = (given["bias_k"] is not None) + bool(given["add_zero_attn"])
    shape = (*batch, *heads, query.shape[0], key.shape[0] + appended)
    return result, tracer.new(shape, query, attention)


def emit_projections(tracer: Tracer, given: dict[str, Any]) -> list[int]:
    """The input projections of `multi_head_attention_forward`: packed into one weight, or three."""
    bias = given["in_proj_bias"]
    if not given["use_separate_proj_weight"]:
        data = tracer.sources(given["query"], given["key"], given["value"])
        return [emit_weight(tracer, Kind.POINTWISE_CONV, data, given["in_proj_weight"], bias)]
    if bias is not None:
        shared = len(tracer.value(bias).parameters) == 1
        how = "a bias that three weights share" if shared else "a bias that is put together from several parameters"
        tracer.note_use(bias, how)
    return [
        emit_weight(tracer, Kind.POINTWISE_CONV, tracer.sources(given[name]), given[weight], None)
        for name, weight in (("query", "q_proj_weight"), ("key", "k_proj_weight"), ("value", "v_proj_weight"))
    ]
