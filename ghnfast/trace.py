"""From a model to its architecture graph: `trace`.

The model's forward runs once under a `Tracer` (see `ghnfast.tracing`), with its real control flow but without computing
anything, and is left exactly as it was.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import _C
from .errors import TraceError
from .graph import PREDICTED_DTYPES, ArchGraph
from .tracing import RULES
from .tracing.leaves import private_copy
from .tracing.members import Members, members_of, unchanged
from .tracing.tracer import META, Fate, Tracer, Value, fate_reason, map_tensors

# Two images: a batch of one hides its dimension from code that squeezes.
BATCH_SIZE = 2


def trace(
    model: nn.Module,
    *,
    input_shape: Sequence[int] | None = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
) -> ArchGraph:
    """The architecture graph of a model (Parameter Prediction for Unseen Deep Architectures, section 2.1).

    The forward runs in the model's present mode (auxiliary heads of a model in training mode are part of its graph) on
    meta tensors; the model, its buffers and the random state are left as they were.

    Args:
        model: any module whose forward runs on meta tensors.
        input_shape: the shape (channels, height, width) of one input. By default what the model says of itself
            (`input_shape`, or the configuration of timm and transformers models), else (3, 224, 224), or (3, 299, 299)
            for Inception v3.
        example_inputs: for models that take something else than one batch of images: a tuple of positional arguments
            or a dict of keyword arguments. Only the shapes and dtypes of tensors matter.

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
    try:
        tracer, outputs = record(model, members, args, kwargs, copied=True)
    except Exception:  # the model itself has the last word, and says what is wrong in its own terms
        try:
            tracer, outputs = record(model, members, args, kwargs, copied=False)
        except Exception as error:
            raise TraceError(
                f"the forward of {type(model).__name__} failed on {described}: {first_line(error)}. "
                "Accepted are models whose forward runs on meta tensors; pass input_shape=(channels, height, width) or "
                "example_inputs=(...) if the model takes something else."
            ) from error
    produced = [tracer.value(tensor).operation for tensor in output_tensors(outputs)]
    images = tuple(args[0].shape[1:]) if example_inputs is None else None
    return build(tracer, [operation for operation in produced if operation >= 0], type(model).__name__, images)


def record(
    model: nn.Module, members: Members, args: tuple[Any, ...], kwargs: dict[str, Any], copied: bool
) -> tuple[Tracer, Any]:
    """Run the forward, of a private copy of the model if there can be one; the trace of it, and what it returned."""
    tracer = Tracer(members, RULES)
    args, kwargs = (map_tensors(lambda tensor: as_input(tracer, tensor), given) for given in (args, kwargs))
    with unchanged(members.modules):
        runner = private_copy(model, members, tracer) if copied else nullcontext(model)
        with runner as run, torch.no_grad(), eager(), tracer:
            return tracer, run(*args, **kwargs)


def check_parameters(model: nn.Module, members: Members) -> None:
    if not members.parameters:
        raise TraceError(f"{type(model).__name__} has no parameters; there is nothing to predict")
    if set(map(type, members.parameters)) == {nn.Parameter}:
        return
    for name, parameter in zip(members.names, members.parameters, strict=True):
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise TraceError(f"the parameter {name} is not initialized; run the lazy model once before tracing it")


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
    image = torch.empty((BATCH_SIZE, *shape), dtype=dtype, device=META)
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
    image = torch.empty(tensor.shape, dtype=tensor.dtype, device=META)
    return tracer.set_value(image, Value(0, 1 if tensor.ndim == 4 else None))


def eager() -> AbstractContextManager[object]:
    """Compiled models run as written: a trace inside a compiler's own trace would see nothing."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def first_line(error: Exception) -> str:
    """The kind of an error and what its message says in one line."""
    lines = [line.rstrip(".") for line in str(error).splitlines() if line.strip()]
    if lines and "TorchScript" in lines[0]:  # what its interpreter failed on comes last
        return lines[-1]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def output_tensors(outputs: Any) -> Iterator[Tensor]:
    """The tensors a forward returned, in order: from containers, dicts and dataclasses, nested."""
    pending = [outputs]
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, Mapping):
            pending.extend(reversed(list(item.values())))
        elif isinstance(item, (tuple, list)):
            pending.extend(reversed(item))
        elif is_dataclass(item) and not isinstance(item, type):
            pending.extend(getattr(item, field.name) for field in reversed(fields(item)))


def build(tracer: Tracer, outputs: list[int], model_name: str, input_shape: tuple[int, ...] | None) -> ArchGraph:
    """Hand the traced operations to C++ and name the nodes it returns."""
    if not outputs:
        raise TraceError(f"no output of {model_name} depends on its input; there is no graph")
    operations = tracer.operations
    nodes, primitives, edges, levels, fates, classifier_weight, classifier_bias = _C.build_graph(
        np.asarray(operations.kinds),
        np.asarray(operations.input_offsets),
        np.asarray(operations.inputs),
        np.asarray(outputs, dtype=np.int32),
    )
    chosen = nodes.tolist()
    placed = [operations.parameters[node] for node in chosen]
    names = {index: tracer.names[index] for pair in placed for index in pair if index is not None}
    return ArchGraph(
        primitives=primitives,
        edges=edges,
        level_offsets=levels,
        shapes=[operations.shapes[node] for node in chosen],
        weights=[None if weight is None else names[weight] for weight, _ in placed],
        norm_biases=[None if bias is None else names[bias] for _, bias in placed],
        parameter_shapes={name: tuple(tracer.parameters[index].shape) for index, name in names.items()},
        classifier_weight=classifier_weight if classifier_weight >= 0 else None,
        classifier_bias=classifier_bias if classifier_bias >= 0 else None,
        skipped=skip_reasons(tracer, fates, names.keys()) if len(names) < len(tracer.names) else {},
        input_shape=input_shape,
        check=False,
    )


def skip_reasons(tracer: Tracer, fates: Any, placed: Container[int]) -> dict[str, str]:
    """Why each parameter that has no node has none."""
    fate_of = {
        index: fate
        for pair, fate in zip(tracer.operations.parameters, fates.tolist(), strict=True)
        for index in pair
        if index is not None
    }
    reasons = {}
    for index, name in enumerate(tracer.names):
        if index in placed:
            continue
        if index not in fate_of and index in tracer.used_by:
            reasons[name] = tracer.used_by[index]
        else:
            reasons[name] = fate_reason(Fate(fate_of[index]) if index in fate_of else None)
    return reasons
