"""From a model to its architecture graph: `trace`.

The model's forward runs under a `Tracer` (see `ghnfast.tracing`), with its real control flow, and the model is left
exactly as it was. Mostly it runs once and computes nothing; more often where it reads random numbers, and on real
numbers where it reads values of features.
"""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import _C
from .errors import TraceError
from .graph import PREDICTED_DTYPES, ArchGraph, ParameterSlice, Reparametrization
from .memory import BEFORE_WRAPPING, is_distributed
from .tracing import RULES
from .tracing.chance import SEED, Chance, private_draws
from .tracing.failures import failure
from .tracing.failures import reason as reason_of
from .tracing.leaves import private_copy
from .tracing.members import Members, members_of, unchanged
from .tracing.numbers import HiddenOperations, NumbersTracer, private_model
from .tracing.tensors import CPU, META, MemoryLost, copy_of, map_tensors
from .tracing.tracer import Fate, Origin, ShapeError, Tracer, Value, fate_reason

# Two images: a batch of one hides its dimension from code that squeezes.
BATCH_SIZE = 2
# Lines of code that draw random numbers which a forward reads; with more of them, the others are not tried.
MOST_SITES = 16


def trace(
    model: nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
) -> ArchGraph:
    """The architecture graph of a model (Parameter Prediction for Unseen Deep Architectures, section 2.1).

    The forward runs in the model's present mode (auxiliary heads of a model in training mode are part of its graph) on
    meta tensors, and in a copy on random numbers where it reads values of features; the model and its buffers are left
    as they were, and nobody's random numbers change.

    Args:
        model: any module whose forward runs, without what cannot be followed (TorchScript, torch.func transforms).
        input_shape: the shape (channels, height, width) of one input. By default what the model says of itself
            (`input_shape`, or the configuration of timm and transformers models), else (3, 224, 224), or (3, 299, 299)
            for Inception v3.
        example_inputs: for models that take something else than one batch of images: a tuple of positional arguments
            or a dict of keyword arguments. Of floating-point tensors the shapes and dtypes matter, and the values only
            where the forward reads them and fails on random ones; of integers and booleans the values.

    Raises:
        TraceError: the model has no parameters, its forward failed, or its outputs do not depend on its input.
    """
    if not isinstance(model, nn.Module):
        raise TraceError(f"got {type(model).__name__}; a torch.nn.Module is accepted")
    return trace_members(model, members_of(model), input_shape, example_inputs)


def trace_members(
    model: nn.Module,
    members: Members,
    input_shape: Sequence[int] | None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None,
) -> ArchGraph:
    """`trace`, for a caller that knows the members of the model."""
    check_parameters(model, members)
    args, kwargs, described = make_inputs(model, members.parameters, input_shape, example_inputs)
    images = tuple(args[0].shape[1:]) if example_inputs is None else None

    def say(error: Exception) -> str:
        return failure(model, described, error, input_shape is not None, example_inputs is not None)

    def graph_of(chance: Chance) -> ArchGraph:
        return build(*run_forward(model, members, args, kwargs, say, chance), type(model).__name__, images)

    return most_covering(graph_of)


def most_covering(graph_of: Callable[[Chance], ArchGraph]) -> ArchGraph:
    """The graph that has the most of the parameters, of those that the forward's random draws can lead to.

    Where the forward reads no random numbers, there is one. Else each line of code that draws them is tried both ways.
    """
    chance = Chance()
    try:
        best = graph_of(chance)
    except TraceError:
        if not chance.read:
            raise
        chance = Chance(default=False)
        best = graph_of(chance)
    usual = bool(chance.default)
    levels, pending = dict.fromkeys(chance.read, usual), list(chance.read)
    while pending and len(levels) <= MOST_SITES:
        site = pending.pop(0)
        other = Chance({**levels, site: not levels[site]}, usual)
        try:
            found = graph_of(other)
        except TraceError:
            continue
        for new in other.read:
            if new not in levels:
                levels[new] = usual
                pending.append(new)
        if size_of(found) > size_of(best):
            best, levels = found, {**levels, site: not levels[site]}
    return best


def size_of(graph: ArchGraph) -> tuple[int, int]:
    """How many numbers a graph predicts, and how many nodes it has."""
    return sum(map(math.prod, graph.parameter_shapes.values())), len(graph)


Recording = tuple[Tracer, Any, str | None]
Say = Callable[[Exception], str]


def run_forward(
    model: nn.Module, members: Members, args: tuple[Any, ...], kwargs: dict[str, Any], say: Say, chance: Chance
) -> Recording:
    """The trace of a forward, what it returned, and why it was run on real numbers, or None where shapes were enough.

    Raises:
        TraceError: the forward failed on shapes, and on numbers.
    """
    with private_draws(chance):
        try:
            return *record(model, members, args, kwargs, chance, copied=True), None
        except Exception:  # the model itself has the last word, and says what is wrong in its own terms
            try:
                return *record(model, members, args, kwargs, chance, copied=False), None
            except MemoryLost:
                raise
            except ShapeError as error:
                raise TraceError(say(error)) from error
            except Exception as error:
                reason = reason_of(error)
                if any(isinstance(module, torch.jit.ScriptModule) for module in members.modules):
                    raise TraceError(say(error)) from error
        for number, fill in enumerate(FILLS):
            try:
                return *record_on_numbers(model, args, kwargs, chance, fill), reason
            except MemoryLost:
                raise
            except Exception as error:
                if number + 1 == len(FILLS) or isinstance(error, TraceError):
                    raise TraceError(say(error)) from error
    raise AssertionError("there is a last kind of numbers")


def record(
    model: nn.Module, members: Members, args: tuple[Any, ...], kwargs: dict[str, Any], chance: Chance, copied: bool
) -> tuple[Tracer, Any]:
    """Run the forward, of a private copy of the model if there can be one; the trace of it, and what it returned."""
    tracer = Tracer(members, RULES, chance)
    args, kwargs = (map_tensors(lambda tensor: as_input(tracer, tensor), given) for given in (args, kwargs))
    with unchanged(members.modules):
        runner = private_copy(model, members, tracer) if copied else nullcontext(model)
        with runner as run, torch.no_grad(), eager(), tracer:
            return tracer, run(*args, **kwargs)


# What inputs are filled with where the forward runs on numbers, given its own: in the range of standardized images, in
# that of plain ones, and what was given.
Fill = Callable[[Tensor, Tensor, torch.Generator], Tensor]
FILLS: tuple[Fill, ...] = (
    lambda tensor, given, generator: tensor.normal_(generator=generator),
    lambda tensor, given, generator: tensor.uniform_(generator=generator),
    lambda tensor, given, generator: tensor if given.is_meta else tensor.copy_(copy_of(given)),
)


def record_on_numbers(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    chance: Chance,
    fill: Fill,
) -> tuple[Tracer, Any]:
    """Run the forward of a copy of the model on random numbers; the trace of it, and what it returned."""
    generator = torch.Generator().manual_seed(SEED)
    copied, members = private_model(model, generator)
    tracer = NumbersTracer(members, RULES, chance)

    def real_input(tensor: Tensor) -> Tensor:
        twin = as_input(tracer, tensor)
        if not twin.is_meta:
            return twin
        made = torch.zeros(tensor.shape, dtype=tensor.dtype, device=CPU)
        return tracer.pair(fill(made, tensor, generator) if tensor.is_floating_point() else made, twin)

    args, kwargs = (map_tensors(real_input, given) for given in (args, kwargs))
    try:
        with torch.no_grad(), eager(), HiddenOperations(tracer), tracer:
            return tracer, copied(*args, **kwargs)
    except Exception as error:
        if tracer.hidden is None:
            raise
        raise tracer.hidden from error


def check_parameters(model: nn.Module, members: Members) -> None:
    kind = type(model).__name__
    wrapped = any(base.__name__ == "FullyShardedDataParallel" for base in type(model).__mro__)
    if wrapped or any(name.endswith("_flat_param") for name in members.names):
        raise TraceError(f"the parameters of {kind} are spread over several processes (FSDP); {BEFORE_WRAPPING}")
    if not members.parameters:
        raise TraceError(f"{kind} has no parameters; there is nothing to predict")
    if set(map(type, members.parameters)) == {nn.Parameter}:
        return
    for name, parameter in zip(members.names, members.parameters, strict=True):
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise TraceError(f"the parameter {name} is not initialized; run the lazy model once before tracing it")
        if is_distributed(parameter):
            raise TraceError(f"the parameter {name} is spread over several processes (DTensor); {BEFORE_WRAPPING}")


def make_inputs(
    model: nn.Module, parameters: Sequence[nn.Parameter], input_shape: Sequence[int] | None, example_inputs: Any
) -> tuple[tuple[Any, ...], dict[str, Any], str]:
    """Positional and keyword arguments for the forward, and how to name them in a message."""
    if example_inputs is not None:
        if input_shape is not None:
            raise TraceError("both input_shape and example_inputs are given; one of them is accepted")
        if isinstance(example_inputs, Mapping):
            return (), dict(example_inputs), f"example_inputs with the keys {list(example_inputs)}"
        if not isinstance(example_inputs, (tuple, list)):
            raise TraceError(
                f"example_inputs is a {type(example_inputs).__name__}; a tuple of positional arguments or a dict of "
                "keyword arguments is accepted"
            )
        return tuple(example_inputs), {}, f"{len(example_inputs)} example_inputs"
    shape = default_input_shape(model) if input_shape is None else as_sizes(input_shape)
    dtype = next((p.dtype for p in parameters if p.dtype in PREDICTED_DTYPES), torch.float32)
    try:
        image = torch.empty((BATCH_SIZE, *shape), dtype=dtype, device=META)
    except (RuntimeError, TypeError, OverflowError):  # more bytes than 64 bits count; torch says so in several ways
        raise TraceError(f"input_shape is {shape}; a tensor of fewer elements is accepted") from None
    return (image,), {}, f"an input of shape {(BATCH_SIZE, *shape)}"


def as_sizes(shape: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape)
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise TraceError(f"input_shape is {shape}; positive sizes (channels, height, width) are accepted")
    return sizes


def default_input_shape(model: nn.Module) -> tuple[int, ...]:
    """What the model says of its input, else an ImageNet image."""
    own = getattr(model, "input_shape", None)
    if isinstance(own, (tuple, list)) and all(isinstance(size, int) for size in own):
        return tuple(own)
    settings = getattr(model, "pretrained_cfg", None)  # timm
    if isinstance(settings, Mapping) and settings.get("input_size"):
        return tuple(settings["input_size"])
    config = getattr(model, "config", None)  # transformers
    size = getattr(config, "image_size", None) or getattr(model, "image_size", None)  # torchvision's ViT
    channels = getattr(config, "num_channels", 3)
    if isinstance(size, int):
        return (channels, size, size)
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return (channels, *size)
    inception = any(kind.__name__ == "Inception3" for kind in type(model).__mro__)
    return (3, 299, 299) if inception else (3, 224, 224)


def as_input(tracer: Tracer, tensor: Tensor) -> Tensor:
    """What stands for an input: integers (tokens, masks, edges) are known, of all others the shape."""
    if not tensor.is_floating_point() and not tensor.is_complex() and not tensor.is_meta:
        tracer.has_known = True
        return tracer.set_value(copy_of(tensor), Origin(0, known=True))
    image = torch.empty(tensor.shape, dtype=tensor.dtype, device=META)
    return tracer.set_value(image, Value(0, 1 if tensor.ndim == 4 else None))


def eager() -> AbstractContextManager[object]:
    """Compiled models run as written: a trace inside a compiler's own trace would see nothing."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def outputs_of(returned: Any) -> tuple[list[Tensor], list[str]]:
    """The tensors a forward returned, in order, and the types of what was not looked into.

    Tensors are found in containers, dicts and dataclasses, nested.
    """
    tensors, unknown = [], []
    pending = [returned]
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor):
            tensors.append(item)
        elif isinstance(item, Mapping):
            pending.extend(reversed(list(item.values())))
        elif isinstance(item, (tuple, list)):
            pending.extend(reversed(item))
        elif is_dataclass(item) and not isinstance(item, type):
            pending.extend(getattr(item, field.name) for field in reversed(fields(item)))
        elif not isinstance(item, (int, float, complex, str, bytes, type(None), np.ndarray)):
            unknown.append(f"{type(item).__module__}.{type(item).__qualname__}")
    return tensors, list(dict.fromkeys(unknown))


def build(
    tracer: Tracer, returned: Any, reason: str | None, model_name: str, input_shape: tuple[int, ...] | None
) -> ArchGraph:
    """Hand the traced operations to C++ and name the nodes it returns."""
    tensors, unknown = outputs_of(returned)
    outputs = [value.operation for value in map(tracer.value, tensors) if value.operation >= 0]
    if not outputs:
        what = (
            f". It returned {', '.join(unknown)}; tensors in lists, dicts and dataclasses are found" if unknown else ""
        )
        raise TraceError(f"no output of {model_name} depends on its input; there is no graph{what}")
    tracer.note_use(tensors, "the forward returns it, or what is computed from it, and no layer uses it")
    operations = tracer.operations
    nodes, primitives, edges, levels, fates, classifier_weight, classifier_bias = _C.build_graph(
        np.asarray(operations.kinds),
        np.asarray(operations.input_offsets),
        np.asarray(operations.inputs),
        np.asarray(outputs, dtype=np.int32),
    )
    chosen = nodes.tolist()
    placed = predicted_once(tracer, [operations.parameters[node] for node in chosen])
    known = dict.fromkeys(index for pair in placed for index in pair if index is not None)
    whole = len(tracer.parameters)
    names = {index: tracer.names[index] for index in known if index < whole}
    shapes = {name: tuple(tracer.parameters[index].shape) for index, name in names.items()}
    parts = {index: tracer.parts[index - whole] for index in known if index >= whole}
    names.update((index, part.name) for index, part in parts.items())
    shapes.update((part.name, part.shape) for part in parts.values())
    meanings = {part.name: part.meaning for part in parts.values()}
    return ArchGraph(
        primitives=primitives,
        edges=edges,
        level_offsets=levels,
        shapes=[operations.shapes[node] for node in chosen],
        weights=[None if weight is None else names[weight] for weight, _ in placed],
        norm_biases=[None if bias is None else names[bias] for _, bias in placed],
        parameter_shapes=shapes,
        classifier_weight=classifier_weight if classifier_weight >= 0 else None,
        classifier_bias=classifier_bias if classifier_bias >= 0 else None,
        skipped=skip_reasons(tracer, fates, names.keys()) if len(names) < len(tracer.names) or tracer.parts else {},
        input_shape=input_shape,
        ran_on_numbers=reason,
        slices={name: part for name, part in meanings.items() if isinstance(part, ParameterSlice)},
        reparametrized={name: part for name, part in meanings.items() if isinstance(part, Reparametrization)},
        check=False,
    )


Pair = tuple[int | None, int | None]


def predicted_once(tracer: Tracer, placed: list[Pair]) -> list[Pair]:
    """The parameters and parts of each node, without parts that have elements which are predicted already.

    Whole parameters come first, then parts in the order of the nodes.
    """
    if not tracer.parts:
        return placed
    taken: dict[str, list[ParameterSlice]] = {}
    whole = {
        tracer.names[index] for pair in placed for index in pair if index is not None and not tracer.part_of(index)
    }

    def kept(index: int | None) -> int | None:
        part = None if index is None else tracer.part_of(index)
        if part is None or not isinstance(part.meaning, ParameterSlice):
            return index
        others = taken.setdefault(part.meaning.parameter, [])
        if part.meaning in others:
            return index
        if part.meaning.parameter in whole or any(part.meaning.overlaps(other) for other in others):
            return None
        others.append(part.meaning)
        return index

    return [(kept(weight), kept(bias)) for weight, bias in placed]


def sources_of(tracer: Tracer, number: int) -> tuple[int, ...]:
    """The parameters that a part is in, or is computed from; a parameter itself."""
    part = tracer.part_of(number)
    return (number,) if part is None else part.sources


def skip_reasons(tracer: Tracer, fates: Any, placed: Collection[int]) -> dict[str, str]:
    """Why each parameter that has no node has none."""
    fate_of = {
        index: fate
        for pair, fate in zip(tracer.operations.parameters, fates.tolist(), strict=True)
        for number in pair
        if number is not None
        for index in sources_of(tracer, number)
    }
    found = {index for number in placed for index in sources_of(tracer, number)}
    reasons = {}
    for index, name in enumerate(tracer.names):
        if index in found:
            continue
        if index not in fate_of and index in tracer.used_by:
            reasons[name] = tracer.used_by[index]
        else:
            reasons[name] = fate_reason(Fate(fate_of[index]) if index in fate_of else None)
    return reasons
