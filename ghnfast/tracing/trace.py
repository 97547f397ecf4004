"""From a model to its architecture graph: `trace`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..errors import TraceError
from ..graph import ArchGraph
from ..surroundings import check_surroundings
from .build import build
from .chance import Chance
from .containers import check_inputs
from .failures import failure
from .forward import run_forward
from .inputs import check_parameters, input_dtypes, make_inputs
from .members import Members, members_of

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
            (`input_shape`, or the configuration of timm and transformers models), or the only module that it wraps of
            itself; else (3, 224, 224), or (3, 299, 299) for Inception v3.
        example_inputs: for models that take something else than one batch of images: a tuple of positional arguments
            or a dict of keyword arguments. Of floating-point tensors the shapes and dtypes matter, and the values only
            where the forward reads them and fails on random ones; of integers and booleans the values.

    Raises:
        TraceError: the model has no parameters, its forward failed, or its outputs do not depend on its input.
    """
    check_surroundings("trace", TraceError, numbers=False)
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
    if example_inputs is not None:
        return trace_inputs(model, members, torch.float32, input_shape, example_inputs)
    failed: TraceError | None = None
    for dtype in input_dtypes(members.parameters):
        try:
            return trace_inputs(model, members, dtype, input_shape, None)
        except TraceError as error:
            failed = failed or error  # the likeliest says what is wrong
    raise failed or AssertionError("there is a likeliest dtype")


def trace_inputs(
    model: nn.Module,
    members: Members,
    dtype: torch.dtype,
    input_shape: Sequence[int] | None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None,
) -> ArchGraph:
    """The graph for these inputs, or for images of this dtype."""
    args, kwargs, described = make_inputs(model, dtype, input_shape, example_inputs)
    images = tuple(args[0].shape[1:]) if example_inputs is None else None
    if example_inputs is not None:
        check_inputs(args, kwargs)

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
