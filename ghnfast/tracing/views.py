"""Rules for functions that keep or rearrange values, and for tables that are looked up."""

from __future__ import annotations

import inspect
import math
from functools import lru_cache, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .calls import writes_first_argument
from .operations import Kind
from .registry import Arguments, Function, Keywords, attribute, functions, rule
from .tensors import META, SCALARS, broadcast_shapes, tensors_in
from .tracer import Tracer
from .values import LOOKUP, Value

ACTIVATIONS = """
relu relu6 silu gelu sigmoid tanh hardswish hardsigmoid hardtanh leaky_relu elu selu celu mish softplus
softsign logsigmoid hardshrink dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
feature_alpha_dropout clamp clip clamp_min clamp_max exp log sqrt rsqrt abs neg square erf
""".split()


@rule(functions(*ACTIVATIONS))
def activation(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Elementwise functions of one activation."""
    x: Any = args[0] if args else None
    if not isinstance(x, Tensor) or "out" in kwargs:
        return tracer.generic(func, args, kwargs)
    value = tracer.value(x)
    if value.operation < 0 and not value.parameters and func.__name__.strip("_") in DROPOUTS:
        return tracer.run_constant(Tensor.clone, (x,), {})  # nothing is dropped by luck
    alone = SCALARS.issuperset(map(type, (*args[1:], *kwargs.values()))) or not tensors_in(args[1:], kwargs)
    if value.operation < 0 or not x.is_meta or not alone:
        return tracer.generic(func, args, kwargs)
    if not x.is_floating_point():  # the result may have another dtype: of integers, and the absolute of complex numbers
        return tracer.generic(func, args, kwargs)
    in_place = writes_first_argument(func) or argument_named(func, "inplace", args, kwargs)
    return activate(tracer, x, value, in_place)


def activate(tracer: Tracer, x: Tensor, value: Value, in_place: bool) -> Tensor:
    operation = tracer.emit(Kind.PASS, [value.operation])
    return tracer.write(x, operation) if in_place else tracer.new(x.shape, x, operation, value.channel)


def argument_named(func: Function, name: str, args: Arguments, kwargs: Keywords) -> bool:
    if name in kwargs:
        return bool(kwargs[name])
    if len(args) < 2 or not inspect.isfunction(func):
        return False
    names = parameter_names(func)
    return name in names and len(args) > names.index(name) and bool(args[names.index(name)])


@lru_cache(maxsize=1024)  # torch's functions are there as long as torch is
def parameter_names(func: Function) -> list[str]:
    return list(inspect.signature(func).parameters)


VIEWS = """
view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t unsqueeze squeeze expand
broadcast_to repeat tile repeat_interleave contiguous clone detach chunk split split_with_sizes tensor_split
unbind narrow select roll flip pad unfold fold pixel_shuffle pixel_unshuffle channel_shuffle getitem
index_select gather view_as reshape_as expand_as interpolate upsample rot90
""".split()
DROPOUTS = frozenset(name for name in ACTIVATIONS if "dropout" in name)
SAME_VALUES = ("contiguous", "clone", "detach")
DONORS: dict[str, Function] = {"view_as": Tensor.view, "reshape_as": Tensor.reshape, "expand_as": Tensor.expand}
LOOKUPS = ("index_select", "gather")


@rule(functions(*VIEWS) + attribute("T") + attribute("mT") + attribute("H"))
def view(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Functions that move values around: their results are the same value to the graph."""
    x: Any = args[0] if args else None
    rest = args[1:]
    name = func.__name__.strip("_")
    if name in DONORS and len(args) == 2 and isinstance(rest[0], Tensor):  # of which the shape is read alone
        return view(tracer, DONORS[name], (x, rest[0].shape), kwargs)
    value = tracer.data_value(x)
    if value is None:
        if name in LOOKUPS or (name == "getitem" and tensors_in(rest)):
            return lookup(tracer, func, args, kwargs)
        return tracer.generic(func, args, kwargs)
    others = tensors_in(rest, kwargs) if kwargs or not SCALARS.issuperset(map(type, rest)) else []
    inputs = tracer.sources(x, others) if others else [value.operation]
    operation = tracer.emit(Kind.PASS, inputs) if len(inputs) > 1 else value.operation
    shape = x.shape
    if others:
        tracer.note_use(others, "what is computed from it says which features are picked")
        args = integer_index(tracer, func, args)
    if others or writes_first_argument(func):
        result = tracer.run_meta(func, args, kwargs, operation)
    elif (result := tracer.run_unary(func, x, rest, kwargs)) is x and operation != value.operation:
        tracer.write(x, operation)
    shared = False
    for tensor in (result,) if type(result) is Tensor else tensors_in(result):
        channel = moved_channel(name, rest, kwargs, shape, tensor.shape, value.channel)
        looks = tensor._is_view() or name in SAME_VALUES
        tracer.set_value(tensor, Value(operation, channel, shared=looks))
        shared = shared or looks
    if shared:
        tracer.share(x)
    return result


@rule([torch.broadcast_tensors])
def broadcast_each(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Each tensor takes the shape of all, and nothing else of the others."""
    tensors = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
    shape = reduce(broadcast_shapes, [tensor.shape for tensor in tensors])
    return tuple(tracer.__torch_function__(Tensor.expand, (), (tensor, shape)) for tensor in tensors)


def integer_index(tracer: Tracer, func: Function, args: Arguments) -> Arguments:
    """The arguments of an indexing with masks that are known as the indices that they stand for.

    How many elements a mask picks depends on its values, which its meta twin has not.
    """
    if func.__name__.strip("_") not in ("getitem", "setitem"):
        return args
    items = args[1] if isinstance(args[1], tuple) else (args[1],)
    if not any(is_mask(item) for item in items):
        return args
    index: list[Any] = []
    for item in items:
        value = tracer.value(item) if isinstance(item, Tensor) else None
        if value is not None and is_mask(item) and not item.is_meta and (value.known or value.operation < 0):
            picked = item.nonzero(as_tuple=True) if item.dtype is torch.bool else item.bool().nonzero(as_tuple=True)
            index.extend(tracer.set_value(each, Value()) for each in picked)
        else:
            index.append(item)
    return args[0], tuple(index), *args[2:]


def is_mask(item: Any) -> bool:
    return isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) and item.ndim > 0


TRANSPOSED = frozenset("permute transpose swapaxes swapdims movedim moveaxis t get rot90".split())
REGROUPED = frozenset("view reshape flatten unflatten unsqueeze squeeze view_as reshape_as contiguous".split())


def moved_channel(
    name: str, rest: Arguments, kwargs: Keywords, shape: torch.Size, result: torch.Size, channel: int | None
) -> int | None:
    """Where the channel dimension of a tensor of this shape went; `rest` is what the function was given besides it."""
    if channel is None:
        return None
    if name in TRANSPOSED:
        return transposed_channel(name, rest, kwargs, len(shape), channel)
    if name in REGROUPED:
        return regrouped_channel(shape, result, channel)
    if name == "getitem":
        return indexed_channel(rest[0], len(shape), channel)
    return channel if len(result) == len(shape) else None


@lru_cache(maxsize=4096)
def regrouped_channel(shape: torch.Size, result: torch.Size, channel: int) -> int | None:
    """The dimension of the result that is as large as the channels, and has as much before it."""
    before, size = math.prod(shape[:channel]), shape[channel]
    found = (i for i, other in enumerate(result) if other == size and math.prod(result[:i]) == before)
    return next(found, None)


def transposed_channel(name: str, args: Arguments, kwargs: Keywords, rank: int, channel: int) -> int | None:
    """Where dimension `channel` of a tensor of `rank` dimensions went."""
    given = tuple([tuple(item) if isinstance(item, list) else item for item in args])
    named = tuple([(key, tuple(item) if isinstance(item, list) else item) for key, item in kwargs.items()])
    try:
        sizes = transposed_sizes(name, rank, given, named)
    except (TypeError, RuntimeError, IndexError):
        return None
    return sizes.index(channel + 2) if channel + 2 in sizes else None


@lru_cache(maxsize=1024)
def transposed_sizes(name: str, rank: int, args: Arguments, kwargs: tuple[tuple[str, Any], ...]) -> torch.Size:
    """The sizes of a small tensor of sizes 2, 3, ..., which say which dimension went where."""
    probe = torch.empty(tuple(range(2, rank + 2)), device=META)
    moved: Tensor = probe.mT if name == "get" else getattr(torch.Tensor, name)(probe, *args, **dict(kwargs))
    return moved.shape


def indexed_channel(index: Any, rank: int, channel: int) -> int | None:
    """Where dimension `channel` of a tensor of `rank` dimensions is in `tensor[index]`."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(not (item is None or item is Ellipsis or isinstance(item, (int, slice))) for item in items):
        return None
    taken = sum(item is not None and item is not Ellipsis for item in items)
    if Ellipsis not in items:
        items.append(Ellipsis)
    at = items.index(Ellipsis)
    items[at : at + 1] = [slice(None)] * (rank - taken)
    source = target = 0
    for item in items:
        if item is None:
            target += 1
            continue
        if source == channel:
            return None if isinstance(item, int) else target
        source += 1
        target += not isinstance(item, int)
    return None


REARRANGING = """
view reshape flatten unflatten permute transpose swapaxes swapdims movedim moveaxis t unsqueeze squeeze contiguous clone
detach view_as reshape_as flip roll rot90 getitem select narrow to float double half bfloat16 cpu cuda type type_as
pixel_shuffle pixel_unshuffle channel_shuffle expand expand_as broadcast_to alias
""".split()
RESCALING = """
mul multiply div divide true_divide truediv add sub subtract neg negative batch_norm layer_norm group_norm instance_norm
normalize fake_quantize_per_tensor_affine fake_quantize_per_channel_affine
fused_moving_avg_obs_fake_quant
masked_fill where tril triu clamp clip clamp_min clamp_max dropout dropout1d dropout2d dropout3d feature_dropout
""".split()
SHORTHANDS = [function for name in ("T", "mT", "H", "data") for function in attribute(name)]
Tracer.rearranging = frozenset(functions(*REARRANGING) + SHORTHANDS)
Tracer.rescaling = frozenset(functions(*RESCALING))
Tracer.masking = frozenset(functions("mul", "multiply"))


@rule([F.embedding, torch.embedding])
def lookup(tracer: Tracer, func: Function, args: Arguments, kwargs: Keywords) -> Any:
    """Entries of a table, picked by index: of a parameter, it is an embedding."""
    if tracer.sources(args, kwargs):
        tracer.note_use((args, kwargs), "a table that is looked up by index")
    elif parameters := tracer.parameters_of(args, kwargs):
        return tracer.run_parametric(func, integer_index(tracer, func, args), kwargs, parameters, LOOKUP)
    return tracer.generic(func, args, kwargs)
