"""What normalization layers find in their inputs, while a model runs as in evaluation but that they normalize by it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import UninitializedBuffer
from torch.overrides import TorchFunctionMode

from .errors import CalibrationError
from .memory import unwritable
from .ops.decode import copy_all
from .randomness import SEED, drawing_from
from .tracing.alone import without_broadcasts
from .tracing.forward import eager
from .tracing.members import to_the_end, unchanged

STATISTICS = ("running_mean", "running_var")


@dataclass(eq=False)
class Tally:
    """Sums of the statistics of a layer.

    Attributes:
        mean, variance: weighted sums, float64 on the CPU.
        values, freedom: the sums of their weights.
        calls: how often the layer normalized by its input.
        broken_at: the first batch whose statistics are not finite.
        own, lent: its buffers, and the copies of them that it has while it tells what it finds.
    """

    name: str
    layer: _NormBase
    mean: Tensor | float = 0.0
    variance: Tensor | float = 0.0
    values: int = 0
    freedom: int = 0
    calls: int = 0
    broken_at: int | None = None
    own: dict[str, Tensor | None] = field(default_factory=dict)
    lent: dict[str, Tensor | None] = field(default_factory=dict)

    def lend(self) -> None:
        """Give the layer copies instead of its buffers."""
        self.own = dict(self.layer._buffers)
        self.lent = {name: None if buffer is None else buffer.clone() for name, buffer in self.own.items()}
        self.layer._buffers.update(self.lent)

    def is_written(self) -> bool:
        """Whether the layer has other statistics than it was lent."""
        for name in STATISTICS:
            now, before = self.layer._buffers[name], self.own[name]
            if now is None or before is None or now is not self.lent[name] or not torch.equal(now, before):
                return True
        return False

    def lend_again(self) -> None:
        """What the layer wrote into its copies is gone."""
        for name, copy in self.lent.items():
            if copy is not None:
                copy.copy_(self.own[name])  # type: ignore[arg-type]
        self.layer._buffers.update(self.lent)

    def add(self, found: Mapping[str, Any], values: int, freedom: int, batch: int) -> None:
        """The statistics of an input, and their weights."""
        if not values:
            raise CalibrationError("there are no images in it")
        mean, variance = (found[name].to("cpu", torch.float64) for name in STATISTICS)
        if self.broken_at is None and not bool(torch.isfinite(mean + variance).all()):
            self.broken_at = batch
        self.mean, self.variance = self.mean + values * mean, self.variance + freedom * variance
        self.values, self.freedom, self.calls = self.values + values, self.freedom + freedom, self.calls + 1

    def forget(self) -> None:
        """What was found is gone."""
        self.mean = self.variance = 0.0
        self.values = self.freedom = self.calls = 0
        self.broken_at = None
        self.lend_again()

    def writes(self) -> list[tuple[Tensor, Tensor]]:
        """The layer's buffers, and what they become."""
        if not self.calls:
            return []
        found = (self.mean / self.values, self.variance / max(self.freedom, 1), self.calls)
        named = zip((*STATISTICS, "num_batches_tracked"), found, strict=True)
        pairs = [(self.layer._buffers.get(name), torch.as_tensor(value)) for name, value in named]
        return [(buffer, value) for buffer, value in pairs if buffer is not None]


def write(tallies: list[Tally]) -> None:
    """All of them or, where an interrupt comes before, none."""
    pairs = [pair for tally in tallies for pair in tally.writes()]
    if pairs:
        copy_all(*zip(*pairs, strict=True))


def has_statistics(name: str, layer: nn.Module) -> bool:
    """Whether a layer normalizes by running statistics in evaluation mode."""
    if isinstance(layer, torch.jit.ScriptModule) and STATISTICS[0] in dict(layer.named_buffers(recurse=False)):
        raise CalibrationError(f"the layer {name!r} is TorchScript; the model before it was compiled is accepted")
    if not isinstance(layer, _NormBase) or any(layer._buffers.get(each) is None for each in STATISTICS):
        return False
    buffer = layer._buffers[STATISTICS[0]]
    if isinstance(buffer, UninitializedBuffer) or (buffer is not None and buffer.is_meta):
        raise CalibrationError(
            f"the layer {name!r} ({type(layer).__name__}) has no memory yet: it is lazy, or on the meta device"
        )
    return layer.track_running_stats or not isinstance(layer, _InstanceNorm)


def others_with_statistics(model: nn.Module) -> list[str]:
    """The modules with running statistics that are no layers of torch: frozen ones, and those of exported programs."""
    return [
        name
        for name, module in model.named_modules()
        if not isinstance(module, _NormBase)
        and not {*STATISTICS}.isdisjoint(key for key, _ in module.named_buffers(recurse=False))
    ]


# The functions that layers normalize with, and the order of their arguments.
IN_PYTHON = ("input", *STATISTICS, "weight", "bias", "by_input", "momentum", "eps")
IN_CPP = ("input", "weight", "bias", *STATISTICS, "by_input", "momentum", "eps", "cudnn_enabled")
FUNCTIONS: dict[Any, tuple[tuple[str, ...], str]] = {
    F.batch_norm: (IN_PYTHON, "training"),
    torch.batch_norm: (IN_CPP, "training"),
    F.instance_norm: (IN_PYTHON, "use_input_stats"),
    torch.instance_norm: (IN_CPP, "use_input_stats"),
}


class Collector(TorchFunctionMode):
    """Tells the tallies what layers find.

    A layer says only as it calls one of `FUNCTIONS` whether it normalizes by its input or by its running statistics,
    and may call it several times (for parts of a batch). So that is where the statistics of the input are taken, in
    memory of their own: the copies that the layer has keep what they have. A layer that computes its statistics
    otherwise writes them into its copies, alone, for its momentum is 1.
    """

    def __init__(self, tallies: list[Tally], modes: list[tuple[nn.Module, bool]]) -> None:
        super().__init__()
        self.tallies = {id(tally.lent[STATISTICS[0]]): tally for tally in tallies}
        self.modes = modes
        self.batch = 0
        self.told: set[Tally] = set()  # since the last call of the layer came to its end
        # For each layer, which of its calls in a batch normalize by the batch in training; None where nobody asked.
        self.live: dict[Tally, list[bool]] | None = None
        self.heard: dict[Tally, list[bool]] = {}

    def run(self, model: nn.Module, batch: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Let the model run on a batch.

        A forward that switches layers to evaluation has frozen them, or hands on its own mode, which is evaluation
        here, too (`self.backbone.train(self.training)`): calls of layers that normalize by the batch in training are
        `live`, and do so here.
        """
        self.start(batch)
        with eager(), self:
            model(*args, **kwargs)
        if self.live is None and not all(tally.layer.training for tally in self.tallies.values()):
            self.forget()
            self.live = self.live_in_training(model, args, kwargs)
            self.forget()
            self.run(model, batch, args, kwargs)

    def live_in_training(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[Tally, list[bool]]:
        """The calls that normalize by the batch where the whole model is in training mode; none where it fails so."""
        self.heard.clear()
        for module, _ in self.modes:
            module.training = True
        try:
            with drawing_from(SEED), eager(), self:
                model(*args, **kwargs)
        except Exception:  # whatever the model raises: it may want labels
            return {}
        return dict(self.heard)

    def wake(self, tally: Tally) -> None:
        """Before a call of a layer: if that is live, the layer is in training mode."""
        at = len(self.heard.get(tally, ()))
        if self.live and self.live.get(tally, [])[at : at + 1] == [True]:
            tally.layer.training = True

    def forget(self) -> None:
        """What all layers told is gone."""
        self.told.clear()
        self.heard.clear()
        for tally in self.tallies.values():
            tally.forget()

    def start(self, batch: int) -> None:
        """The next call of the model is of this batch; what the last one did to the modes of modules is undone."""
        self.batch = batch
        self.heard.clear()
        for module, mode in self.modes:
            module.training = mode  # not by `train`, which models override with effects of their own

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in FUNCTIONS:
            return func(*args, **kwargs)
        names, flag = FUNCTIONS[func]
        given = {flag if name == "by_input" else name: value for name, value in zip(names, args, strict=False)} | kwargs
        tally = self.tallies.get(id(given.get("running_mean")))
        by_input = given.get(flag, func is F.instance_norm)
        if tally is None or not by_input or given.get("running_var") is not tally.lent["running_var"]:
            return func(*args, **kwargs)
        found = {name: torch.zeros_like(given[name]) for name in STATISTICS}
        output = func(**{**given, **found, "momentum": 1.0})
        images = given["input"]
        if flag == "training":
            values = images.numel() // found["running_mean"].numel()
            freedom = values - 1
        else:  # the average over images, of the statistics of each
            values = freedom = len(images)
        tally.add(found, values, freedom, self.batch)
        self.told.add(tally)
        return output

    def listen(self, tally: Tally, images: Tensor) -> None:
        """After a call of a layer: if it told nothing but wrote into its copies, that is what it found in its input."""
        layer, told = tally.layer, tally in self.told
        self.told.discard(tally)
        by_batch = told or tally.is_written()
        self.heard.setdefault(tally, []).append(by_batch)
        if not by_batch:
            return
        if not told:
            if isinstance(layer, _InstanceNorm):
                values = freedom = len(images) if images.ndim == layer._get_no_batch_dim() + 1 else 1
            else:
                values = images.numel() // layer.num_features
                freedom = values - 1
            tally.add(layer._buffers, values, freedom, self.batch)
        tally.lend_again()


@contextmanager
def collecting(model: nn.Module, tallies: list[Tally]) -> Iterator[Collector]:
    """Within it, and that of what it yields, layers tell their tallies what they find.

    All else is in evaluation mode. Attributes and buffers of the model are as they were afterwards.

    The layers have other buffers meanwhile: their own are not written.
    """
    modes = [(module, module.training) for module in model.modules()]
    layers = {tally.layer for tally in tallies}
    others = {id(each): each for module, _ in modes if module not in layers for each in module.buffers(recurse=False)}
    with values_kept([*others.values()]), unchanged([module for module, _ in modes]):
        try:
            without_broadcasts(module for module, _ in modes)
            for tally in tallies:
                tally.lend()
                tally.layer.track_running_stats, tally.layer.momentum = True, 1.0
            collector = Collector(tallies, [(module, module in layers) for module, _ in modes])
            for tally in tallies:
                tally.layer.register_forward_pre_hook(waking(collector, tally))
                tally.layer.register_forward_hook(listening(collector, tally), prepend=True, with_kwargs=True)
            yield collector
        finally:
            to_the_end(lambda: set_modes(modes))


def set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:  # that of scripts is no attribute
        module.training = mode


@contextmanager
def values_kept(buffers: list[Tensor]) -> Iterator[None]:
    """Puts back what is written into buffers; takes as much memory as they do."""
    kept = [(buffer, buffer.clone()) for buffer in buffers if unwritable(buffer) is None]
    try:
        yield
    finally:
        to_the_end(lambda: put_back(kept))


def put_back(kept: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, copy in kept:
        if not torch.equal(buffer, copy):
            # Memory that was made in inference mode may only be written in it.
            with torch.inference_mode(buffer.is_inference()), torch.no_grad():
                buffer.copy_(copy)


def waking(collector: Collector, tally: Tally) -> Any:
    def hook(layer: nn.Module, args: Any) -> None:
        collector.wake(tally)

    return hook


def listening(collector: Collector, tally: Tally) -> Any:
    def hook(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        collector.listen(tally, args[0] if args else next(iter(kwargs.values())))

    return hook
