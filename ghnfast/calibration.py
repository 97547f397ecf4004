"""Running statistics of normalization layers: what a GHN does not predict, and evaluation needs."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from .errors import CalibrationError
from .graph import PREDICTED_DTYPES
from .plain import plain
from .randomness import CPU
from .surroundings import check_surroundings
from .tallies import Collector, Tally, collecting, has_statistics, others_with_statistics, write
from .tracing.forward import modes_put_back
from .tracing.inputs import input_dtype

Model = TypeVar("Model", bound=nn.Module)
CHUNK = 64  # images at once, where all of them come in one tensor
LABELS = {"label", "labels", "label_ids", "target", "targets"}
ACCEPTED = "a tensor of images, a pair (images, labels), or a mapping of the model's keyword arguments is accepted"


def calibrate(model: Model, batches: Iterable[Any], limit: int | None = None) -> Model:
    """Set the running statistics of normalization layers to those of images.

    Parameters that a GHN predicts are right for the statistics of batches, and `model.eval()` uses running statistics,
    which are not predicted: evaluated without them, a model is at chance. Layers are those of torch that have running
    statistics (`BatchNorm1d` to `3d`, `SyncBatchNorm`, `InstanceNorm` with `track_running_stats`) and their subclasses.

    The model runs on the batches as in evaluation (as written, if it is compiled), but that these layers normalize by
    each batch. Their statistics become the averages over all batches: means weighted by how many values a batch has for
    a channel, unbiased variances by their degrees of freedom. With batches of one size that is what `momentum=None` and
    `torch.optim.swa_utils.update_bn` give. `num_batches_tracked` becomes the number of batches.

    Nothing else changes: parameters, gradients, modes, momentum, hooks; attributes and buffers that the forward itself
    writes (a counter of its calls) are put back. Layers that no batch reaches keep what they
    have, and so do those that do not normalize by the batch because the model says so as it runs (a frozen backbone,
    whose `eval()` the forward calls): they are computed with what they have. A forward that hands on its own mode
    (`self.backbone.train(self.training)`) freezes nothing. A model without such layers is returned as it is.

    Args:
        model: on any device, in any mode.
        batches: yields batches of images (a single one is joined with the batch beside it): tensors or numpy arrays
            (batch, channels, height, width), or pairs, the first of which is one; or mappings, as data sets of
            transformers yield them, whose entries are keyword arguments of the model, labels left out. They are brought
            to the device of the model, floating-point numbers to the dtype of its first weight; in a model of several
            dtypes, those that have another of them, but float32, keep it, and where it fails on such, they are tried as
            they are given, and in each of its dtypes. One tensor of all images is split into
            batches of 64.
        limit: the first so many batches; all by default, so an endless iterable needs one.

    Returns:
        The model that was given.

    Raises:
        CalibrationError: there is no batch, one cannot be read, or the model fails on it; or statistics are not finite.
            The model is as it was.

    Warns:
        UserWarning: other modules have running statistics (`FrozenBatchNorm2d`, exported programs), which stay.
    """
    check_surroundings("calibrate", CalibrationError)
    limit = plain(limit)
    with in_memory():
        tallies = gather(model, islice(check_arguments(model, batches, limit), limit and min(limit, sys.maxsize)))
        for tally in tallies:
            if tally.broken_at is not None:
                raise CalibrationError(
                    f"the statistics of the layer {tally.name!r} ({type(tally.layer).__name__}) are not finite in "
                    f"batch {tally.broken_at}: its images, the parameters before this layer, or the statistics of "
                    "layers that do not normalize by the batch are too large or not finite. The model is as it was"
                )
        warn_of_others(model)
        write(tallies)
    return model


def warn_of_others(model: nn.Module) -> None:
    if others := others_with_statistics(model):
        warnings.warn(
            f"{len(others)} modules of {type(model).__name__} have running statistics and are no layers of torch, such "
            f"as {others[0]!r} ({type(model.get_submodule(others[0])).__name__}): these statistics stay as they are",
            stacklevel=3,
        )


def in_memory() -> AbstractContextManager[object]:
    """Tensors have memory, also where the caller's default device has none: the model computes, as do data sets."""
    return CPU if torch.empty(0).is_meta else nullcontext()


def check_arguments(model: Any, batches: Any, limit: Any) -> Iterator[Any]:
    if not isinstance(model, nn.Module):
        raise CalibrationError(f"the model is a {type(model).__name__}; a torch.nn.Module is accepted")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise CalibrationError(f"limit is {limit!r}; a positive number of batches, or None for all, is accepted")
    if isinstance(batches, np.ndarray):
        batches = as_tensor(batches, 0)
    if isinstance(batches, Tensor):
        if batches.ndim == 0:
            raise CalibrationError(f"the batches are a tensor without dimensions; {ACCEPTED}")
        return iter(batches.split(CHUNK)) if len(batches) else iter(())
    if isinstance(batches, (str, bytes, Mapping)):
        raise CalibrationError(f"the batches are a {type(batches).__name__}; an iterable of batches is accepted")
    try:
        return iter(batches)
    except Exception as error:  # whatever the caller's iterable raises
        raise CalibrationError(
            f"the batches are a {type(batches).__name__}, which cannot be iterated over: {error}"
        ) from error


def gather(model: nn.Module, batches: Iterable[Any]) -> list[Tally]:
    """The statistics of each layer that has running ones; the model is as it was.

    Raises:
        CalibrationError: there is no batch, one cannot be read, or the model fails on it.
    """
    tallies = [Tally(name, layer) for name, layer in model.named_modules() if has_statistics(name, layer)]
    if not tallies:
        return []
    check_memory(model)
    number = -1
    with modes_put_back(), torch.no_grad(), collecting(model, tallies) as collector:
        place, read = fitting_place(model, collector, readable(batches))
        given = (Given(number, *arguments_of(model, batch, number, place)) for number, batch in enumerate(read))
        for number, args, kwargs in joined(given):
            try:
                collector.run(model, number, args, kwargs)
            except Exception as error:  # whatever the model raises
                shapes = ", ".join(str(tuple(value.shape)) for value in (*args, *kwargs.values()) if is_tensor(value))
                raise CalibrationError(
                    f"the model fails on batch {number}, of the shape {shapes}: {type(error).__name__}: {error}. "
                    "Batches of two images or more, as the model takes them, are accepted (torch.utils.data.DataLoader "
                    "makes them of a data set); the model is as it was"
                ) from error
    if number < 0:
        raise CalibrationError("the batches are empty: there is nothing to calibrate on; one batch or more is accepted")
    return tallies


def check_memory(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise CalibrationError(f"the parameter {name!r} has no memory yet: it is lazy; run the model once before")


class Given(NamedTuple):
    """What the model is called with: the arguments, and the number of the batch."""

    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def images(self) -> int:
        """How many images there are; 0 where that is not known."""
        first = next((value for value in (*self.args, *self.kwargs.values()) if is_tensor(value)), None)
        return len(first) if first is not None and first.ndim else 0


def joined(batches: Iterable[Given]) -> Iterator[Given]:
    """The batches, a single image (the rest of a data set, mostly) together with a batch beside it.

    One image may be one value for a channel, which has no variance.
    """
    pending: Given | None = None
    for batch in batches:
        single = pending is not None and 1 in (batch.images, pending.images) and pending.images < 2 * CHUNK
        together = join(pending, batch) if pending is not None and single else None
        if pending is not None and together is None:
            yield pending
        pending = together or batch
    if pending is not None:
        yield pending


def join(first: Given, second: Given) -> Given | None:
    """Two batches as one; None where their arguments are not alike."""
    if len(first.args) != len(second.args) or first.kwargs.keys() != second.kwargs.keys():
        return None
    pairs = [
        *zip(first.args, second.args, strict=True),
        *((first.kwargs[key], second.kwargs[key]) for key in first.kwargs),
    ]
    if not all(is_tensor(a) and is_tensor(b) and a.ndim and a.shape[1:] == b.shape[1:] for a, b in pairs):
        return None
    made = [torch.cat(pair) for pair in pairs]
    count = len(first.args)
    return Given(second.number, tuple(made[:count]), dict(zip(first.kwargs, made[count:], strict=True)))


# Batches --------------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a model takes images: its device, the dtypes that images may keep, and that which others become.

    Of a model in several dtypes, whoever gives images in one of those means it; but float32 is what data sets yield,
    whether or not the first layer takes it.
    """

    device: torch.device
    kept: frozenset[torch.dtype]
    default: torch.dtype

    def move(self, images: Tensor) -> Tensor:
        converted = images.is_floating_point() and images.dtype not in self.kept
        return images.to(self.device, self.default if converted else None)


def places_of(model: nn.Module) -> list[Place]:
    """Where a model may take images; the first is the likeliest, and the only one where the model has one dtype."""
    tensors = [*model.parameters(), *model.buffers()]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    kept = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()} - {torch.float32}
    device = floating[0].device
    likeliest = Place(device, frozenset(kept), input_dtype(floating))
    dtypes = dict.fromkeys(tensor.dtype for tensor in floating)
    as_given = Place(device, frozenset(PREDICTED_DTYPES), likeliest.default)
    return [likeliest] if len(dtypes) == 1 else [likeliest, as_given, *(Place(device, NONE, dtype) for dtype in dtypes)]


NONE: frozenset[torch.dtype] = frozenset()


def fitting_place(model: nn.Module, collector: Collector, batches: Iterator[Any]) -> tuple[Place, Iterable[Any]]:
    """The first place where the model runs on the first batch, if it may be one of several; and the batches."""
    places = places_of(model)
    if len(places) == 1 or (first := next(batches, None)) is None:
        return places[0], batches
    read = chain([first], batches)
    for place in places:
        given = Given(0, *arguments_of(model, first, 0, place))
        if given.images == 1:
            given = join(given, given) or given
        try:
            collector.run(model, 0, given.args, given.kwargs)
        except Exception:  # what is wrong with it, the likeliest place says
            continue
        finally:
            collector.forget()
        return place, read
    return places[0], read


def readable(batches: Iterable[Any]) -> Iterator[Any]:
    iterator = iter(batches)
    number = 0
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # whatever the caller's iterable raises
            raise CalibrationError(f"batch {number} cannot be read: {type(error).__name__}: {error}") from error
        yield batch
        number += 1


def arguments_of(model: nn.Module, batch: Any, number: int, place: Place) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a model is called with, for a batch."""
    given = batch
    if isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]  # labels come second
    if isinstance(batch, Mapping):
        args, kwargs = keywords_of(model, batch, number)
    elif isinstance(batch, (Tensor, np.ndarray)):
        args, kwargs = (batch,), {}
    else:
        inner = f" of {type(batch).__name__}" if batch is not given else ""
        raise CalibrationError(f"batch {number} is a {type(given).__name__}{inner}; {ACCEPTED}")

    def moved(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = as_tensor(value, number)
        if not isinstance(value, Tensor):
            return value
        if value.is_meta:
            raise CalibrationError(f"batch {number} is on the meta device and has no memory; {ACCEPTED}")
        return place.move(value)

    return tuple(map(moved, args)), {name: moved(value) for name, value in kwargs.items()}


def keywords_of(model: nn.Module, batch: Mapping[Any, Any], number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The entries that a model's forward takes; labels, for which it would compute a loss, only where it needs them."""
    parameters = inspect.signature(model.forward).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    named = {parameter.name: parameter.default is parameter.empty for parameter in parameters
             if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)}  # fmt: skip
    chosen = {
        name: value
        for name, value in batch.items()
        if isinstance(name, str) and (named.get(name, False) or (name not in LABELS and (takes_all or name in named)))
    }
    if chosen:
        return (), chosen
    others = [value for name, value in batch.items() if name not in LABELS and isinstance(value, (Tensor, np.ndarray))]
    if len(others) != 1:
        raise CalibrationError(
            f"batch {number} has the entries {', '.join(map(repr, batch))}; those that the model's forward takes are "
            f"accepted: {', '.join(named) or 'none by name'}"
        )
    return (others[0],), {}


def as_tensor(array: Any, number: int) -> Tensor:
    try:
        return torch.as_tensor(array)
    except (TypeError, ValueError) as error:
        raise CalibrationError(f"batch {number} is an array of {array.dtype}: {error}") from error


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
