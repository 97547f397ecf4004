"""One step of training a GHN: a meta-batch of networks, whose losses flow back through their predicted parameters.

Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), equation 2 and appendix C.1. Everything that
is random in a step is a function of the seed and the step's number, so that a run that was killed goes on with the
losses it would have had.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checkpoints.contents import of_a_run
from ..errors import TrainingError
from ..memory import is_out_of_memory
from ..nn import GHN
from ..ops.decode import send_back
from ..randomness import drawing_from
from ..starting import DEFAULTS
from . import optimizers
from .config import TrainConfig, as_lists
from .data import BIG
from .drawing import loud_modules
from .layouts import gradients_whole
from .networks import MetaBatch, for_training, placed, run_drawing_from, run_network
from .processes import add_up

MOST_OUT_OF_MEMORY = 20  # in a row: then nothing will fit


@dataclass
class StepResult:
    """What a step gave, over the networks of all processes.

    losses: of each network of this process. loss: the mean over all networks. seconds, ghn_seconds: of the step, and of
    what the GHN took of it. skipped: why there was no update, or empty.
    """

    losses: list[float]
    loss: float = float("nan")
    top1: float = 0.0
    networks: int = 0
    seconds: float = 0.0
    ghn_seconds: float = 0.0
    skipped: str = ""


class Stopwatch:
    """The time that parts of a step take: on a GPU the device's, which the host is ahead of."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        self.spans: list[tuple[Any, Any]] = []

    def mark(self) -> Any:
        if not self.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def running(self) -> Iterator[None]:
        start = self.mark()
        yield
        self.spans.append((start, self.mark()))

    def read(self) -> float:
        """Seconds since it was last read."""
        spans, self.spans = self.spans, []
        if not self.is_cuda:
            return sum(end - start for start, end in spans)
        torch.cuda.synchronize()
        return sum(start.elapsed_time(end) for start, end in spans) / 1e3


@dataclass
class Trainer:
    """A GHN, its optimizer, and one step of training.

    Attributes:
        images: marks of the images that it is trained on (`ghnfast.training.digests`), for checkpoints.
        is_whole: whether it is between updates, and what it has is that of its step.
        skipped: steps in a row that had no finite loss; out_of_memory: that did not fit into memory.
    """

    ghn: GHN
    config: TrainConfig
    steps: int
    step: int = 0
    rank: int = 0
    world_size: int = 1
    images: list[str] = field(default_factory=list)
    is_whole: bool = True
    skipped: int = 0
    out_of_memory: int = 0
    all_skipped: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    watch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Stopwatch(self.device)
        kind = optimizers.AdamW if self.config.optimizer == "adamw" else optimizers.Adam
        self.optimizer = kind(self.weights, self.config.lr, weight_decay=self.config.weight_decay)
        scaled = self.config.amp == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scaled, growth_interval=self.config.scale_growth)

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        """That are trained: parts of one's own may have frozen ones."""
        return [weight for weight in self.ghn.parameters() if weight.requires_grad]

    @property
    def device(self) -> torch.device:
        return self.ghn.primitive_embedding.weight.device

    def train_step(self, images: Tensor, labels: Tensor, batch: MetaBatch) -> StepResult:
        """One update of the GHN from images and networks, unless a loss is not finite or memory runs out.

        Args:
            images, labels: of one batch for all networks; with `own_images`, of as many as a meta-batch can have.

        Raises:
            TrainingError: too many steps in a row had no finite loss, or did not fit into memory.
        """
        start = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.step, self.steps)
        result = StepResult([], networks=batch.total)
        self.optimizer.zero_grad(set_to_none=True)
        reason = ""
        with self.counted():
            try:
                self.backward(placed(images, self.device), labels.to(self.device), batch, result)
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = "out of memory"
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            with uninterrupted():
                self.is_whole = False
                self.finish(result, reason)
                self.step += 1
                self.is_whole = True
        result.ghn_seconds = self.watch.read()
        result.seconds = time.perf_counter() - start
        return result

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What a GHN with parts of one's own counts or averages is kept where the block has made an update, alone."""
        before = [(buffer, buffer.clone()) for buffer in self.ghn.buffers()]
        updates = self.step - self.all_skipped
        try:
            yield
        finally:
            if self.step - self.all_skipped <= updates:
                for buffer, value in before:
                    buffer.copy_(value)

    def backward(self, images: Tensor, labels: Tensor, batch: MetaBatch, result: StepResult) -> None:
        """Losses and gradients of this process's networks."""
        # Networks run one after the other and release what they needed; the GHN's graph waits for all their gradients.
        first = self.config.seed * BIG + self.step
        # Parts of one's own may draw; no network has this place.
        drawing = drawing_from(first * BIG - 1 - self.rank) if loud_modules(self.ghn) else nullcontext()
        with self.watch.running():
            with drawing:
                predicted = self.ghn(batch.graphs) if batch.graphs else []
            leaves = [
                {name: value.detach().requires_grad_() for name, value in parameters.items()}
                for parameters in predicted
            ]
        losses, correct = [], []
        for network, graph, parameters, place in zip(batch.networks, batch.graphs, leaves, batch.places, strict=True):
            seen, wanted = self.images_of(place, images), self.images_of(place, labels)
            for_training(network)
            own = run_drawing_from(first * BIG + place, network, graph)  # dropout
            with own, self.autocast(), gradients_whole(seen):
                logits = run_network(network, graph, parameters, seen)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = F.cross_entropy(logits, wanted, label_smoothing=self.config.label_smoothing)
            self.scaler.scale(loss / batch.total).backward()
            if self.config.network_clip:
                clip(list(parameters.values()), self.scaler.get_scale() * self.config.network_clip / batch.total)
            losses.append(loss.detach())
            correct.append((logits.detach().argmax(1) == wanted).float().mean())
        result.losses = torch.stack(losses).tolist() if losses else []
        result.top1 = 100 * float(torch.stack(correct).sum()) if correct else 0.0
        if not all(map(is_finite, result.losses)):
            return
        with self.watch.running():
            pairs = [
                (value, self.gradient(leaf, batch.total))
                for parameters, own in zip(predicted, leaves, strict=True)
                for value, leaf in zip(parameters.values(), own.values(), strict=True)
            ]
            given = [(value, grad) for value, grad in pairs if grad is not None]
            send_back([value for value, _ in given], [grad for _, grad in given])

    def images_of(self, place: int, batch: Tensor) -> Tensor:
        """What the network with this place in the meta-batch sees of images or labels."""
        size = self.config.batch_size
        return batch[place * size : (place + 1) * size] if self.config.own_images else batch

    def gradient(self, leaf: Tensor, networks: int) -> Tensor | None:
        """The gradient of a predicted tensor, with that of the penalty on its norm: means over networks, as losses."""
        decay = self.config.predicted_decay
        if not decay:
            return leaf.grad
        penalty = self.scaler.scale(decay / networks * leaf.detach() / leaf.detach().norm().clamp(min=1e-12))
        return penalty if leaf.grad is None else leaf.grad + penalty

    def finish(self, result: StepResult, reason: str) -> None:
        """Share gradients, and update, where every process has finite losses."""
        broken = 0 if all(map(is_finite, result.losses)) else 1
        totals = torch.tensor([sum(result.losses), result.top1, broken, bool(reason)], dtype=torch.float64)
        if self.world_size > 1:
            totals = totals.to(self.device)
            add_up(totals)
        loss, top1, broken_ones, full_ones = totals.tolist()
        result.loss, result.top1 = loss / result.networks, top1 / result.networks
        if full_ones:
            self.out_of_memory += 1
            self.skip(result, "out of memory", self.out_of_memory, MOST_OUT_OF_MEMORY)
        elif broken_ones:
            self.skipped += 1
            self.skip(result, "a loss is not finite", self.skipped, self.config.max_skipped)
        else:
            with self.watch.running():
                updated = self.update()
            if updated:
                self.skipped = self.out_of_memory = 0
            else:
                self.skipped += 1
                self.skip(result, "a gradient is not finite", self.skipped, self.config.max_skipped)

    def skip(self, result: StepResult, reason: str, count: int, limit: int) -> None:
        result.skipped = reason
        self.all_skipped += 1
        if count >= limit:
            raise TrainingError(
                f"{count} steps in a row had no update ({reason}), the last of them step {self.step}. A lower lr, more "
                "warmup or a smaller meta_batch may help; the last checkpoint is as it was"
            )

    def update(self) -> bool:
        """Whether gradients were finite, or are the business of the scaler, which tries a smaller scale."""
        for weight in self.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        if self.world_size > 1:
            flat = torch.cat([weight.grad.flatten() for weight in self.weights if weight.grad is not None])
            add_up(flat)
            parts = flat.split([weight.numel() for weight in self.weights])
            for weight, part in zip(self.weights, parts, strict=True):
                weight.grad = part.view_as(weight).to(weight.dtype)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.grad_clip)
        if not self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
            return False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.config.least_scale and self.scaler.get_scale() < self.config.least_scale:
            self.scaler.update(self.config.least_scale)
        return True

    def autocast(self) -> AbstractContextManager[Any]:
        if self.config.amp == "none":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=getattr(torch, self.config.amp))

    # Checkpoints -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on. What is random in it, and its batches, depend on its number."""
        return {
            "ghn": self.ghn.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "steps": self.steps,
            "skipped": self.skipped,
            "out_of_memory": self.out_of_memory,
            "all_skipped": self.all_skipped,
            "config": as_lists(self.config),
            "images": self.images,
            **of_a_run(self.ghn.config, self.ghn.trained_on),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            Exception: of any kind, where it is something else. The trainer is of no use then.
        """
        fresh = [dict(group) for group in self.optimizer.param_groups]
        self.ghn.load_state_dict(state["ghn"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        check_optimizer(self.optimizer, fresh)
        check_finite(self.ghn.state_dict())
        for name in ("step", "skipped", "out_of_memory", "all_skipped"):
            if type(state[name]) is not int or state[name] < 0:
                raise TrainingError(f"{name} is {state[name]!r}")
            setattr(self, name, state[name])


def check_optimizer(optimizer: torch.optim.Optimizer, fresh: Sequence[Mapping[str, Any]]) -> None:
    """Whether the state that it has loaded is that of its parameters: torch does not ask."""
    for group, wanted in zip(optimizer.param_groups, fresh, strict=True):
        differing = [name for name in wanted if name not in ("lr", "params") and group.get(name) != wanted[name]]
        if differing:
            raise TrainingError(f"{differing[0]} of its optimizer is {group.get(differing[0])!r}")
        for parameter in group["params"]:
            own = optimizer.state.get(parameter, {})
            if own and {"step", "exp_avg", "exp_avg_sq"} != own.keys():
                raise TrainingError("the state of its optimizer has other entries")
            if own and not own["exp_avg"].shape == own["exp_avg_sq"].shape == parameter.shape:
                raise TrainingError("the state of its optimizer has other shapes")
            if own and (own["step"].shape != () or own["exp_avg_sq"].min() < 0):
                raise TrainingError("the state of its optimizer is none that it can have")
            check_finite(own)


def check_finite(tensors: Mapping[str, Any]) -> None:
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"{name} is not finite")


@contextmanager
def uninterrupted() -> Iterator[None]:
    """An interruption that comes within the block takes effect after it; a second one takes effect at once.

    Python has interruptions in its main thread alone.
    """
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in DEFAULTS if is_main}
    before = {number: handler for number, handler in handlers.items() if callable(handler)}
    waiting: list[tuple[int, Any]] = []

    def wait(number: int, frame: Any) -> None:
        waiting.append((number, frame))
        if len(waiting) > 1:
            before[number](number, frame)

    for number in before:
        signal.signal(number, wait)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if waiting:
        number, frame = waiting[0]
        before[number](number, frame)


def clip(leaves: Sequence[Tensor], limit: float) -> None:
    """Scale gradients down to this norm; none is left of those that are not finite."""
    grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
    norm = torch.stack(torch._foreach_norm(grads)).norm()
    if bool(torch.isfinite(norm)):
        torch._foreach_mul_(grads, (limit / norm.clamp(min=1e-12)).clamp(max=1.0))
    else:
        torch._foreach_zero_(grads)


def is_finite(number: float) -> bool:
    return number - number == 0
