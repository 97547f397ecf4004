"""Training a GHN: meta-batches of networks, whose losses flow back through their predicted parameters.

Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), equation 2 and appendix C.1. Everything that
is random in a step is a function of the seed and the step's number, so that a run that was killed goes on with the
losses it would have had.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from ..checkpoints import TrainedOn
from ..deepnets import DeepNets1M
from ..errors import ConfigError, TrainingError
from ..files import in_words
from ..nn import GHN
from ..nn.config import config_of
from ..optional import import_optional
from ..predict import load
from ..randomness import drawing_from
from .config import TrainConfig
from .data import BIG, Batches, ImageData, load_data
from .folder import CHECKPOINT as CHECKPOINT
from .folder import CONFIG as CONFIG
from .folder import LOG as LOG
from .folder import WEIGHTS as WEIGHTS
from .folder import append_line, cut_log, locked, read_checkpoint, save_checkpoint, sync_folder, writing
from .networks import MetaBatch, MetaBatches, ahead, placed, run_network
from .start import start_from_identity

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
        skipped: steps in a row that had no finite loss; out_of_memory: that did not fit into memory.
    """

    ghn: GHN
    config: TrainConfig
    steps: int
    step: int = 0
    rank: int = 0
    world_size: int = 1
    skipped: int = 0
    out_of_memory: int = 0
    all_skipped: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    watch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Stopwatch(self.device)
        self.optimizer = torch.optim.Adam(self.weights, self.config.lr, weight_decay=self.config.weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.config.amp == "float16")

    @property
    def weights(self) -> list[torch.nn.Parameter]:
        return list(self.ghn.parameters())

    @property
    def device(self) -> torch.device:
        return self.ghn.primitive_embedding.weight.device

    def train_step(self, images: Tensor, labels: Tensor, batch: MetaBatch) -> StepResult:
        """One update of the GHN from images and networks, unless a loss is not finite or memory runs out.

        Raises:
            TrainingError: too many steps in a row had no finite loss, or did not fit into memory.
        """
        start = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.step, self.steps)
        result = StepResult([], networks=batch.total)
        self.optimizer.zero_grad(set_to_none=True)
        reason = ""
        try:
            self.backward(placed(images, self.device), labels.to(self.device), batch, result)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = "out of memory"
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        self.finish(result, reason)
        self.step += 1
        result.ghn_seconds = self.watch.read()
        result.seconds = time.perf_counter() - start
        return result

    def backward(self, images: Tensor, labels: Tensor, batch: MetaBatch, result: StepResult) -> None:
        """Losses and gradients of this process's networks."""
        # Networks run one after the other and release what they needed; the GHN's graph waits for all their gradients.
        with self.watch.running():
            predicted = self.ghn(batch.graphs) if batch.graphs else []
            leaves = [
                {name: value.detach().requires_grad_() for name, value in parameters.items()}
                for parameters in predicted
            ]
        losses, correct = [], []
        for network, parameters, place in zip(batch.networks, leaves, batch.places, strict=True):
            seed = (self.config.seed * BIG + self.step) * BIG + place
            with drawing_from(seed), self.autocast():  # dropout
                logits = run_network(network.train(), parameters, images)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
            self.scaler.scale(loss / batch.total).backward()
            if self.config.network_clip:
                clip(list(parameters.values()), self.scaler.get_scale() * self.config.network_clip / batch.total)
            losses.append(loss.detach())
            correct.append((logits.detach().argmax(1) == labels).float().mean())
        result.losses = torch.stack(losses).tolist() if losses else []
        result.top1 = 100 * float(torch.stack(correct).sum()) if correct else 0.0
        if not all(map(is_finite, result.losses)):
            return
        with self.watch.running():
            pairs = [
                (value, self.gradient(leaf))
                for parameters, own in zip(predicted, leaves, strict=True)
                for value, leaf in zip(parameters.values(), own.values(), strict=True)
            ]
            values = [value for value, grad in pairs if grad is not None]
            torch.autograd.backward(values, [grad for _, grad in pairs if grad is not None])

    def gradient(self, leaf: Tensor) -> Tensor | None:
        """The gradient of a predicted tensor, with that of the penalty on its norm."""
        decay = self.config.predicted_decay
        if not decay:
            return leaf.grad
        penalty = self.scaler.scale(decay * leaf.detach() / leaf.detach().norm().clamp(min=1e-12))
        return penalty if leaf.grad is None else leaf.grad + penalty

    def finish(self, result: StepResult, reason: str) -> None:
        """Share gradients, and update, where every process has finite losses."""
        broken = 0 if all(map(is_finite, result.losses)) else 1
        totals = torch.tensor([sum(result.losses), result.top1, broken, bool(reason)], dtype=torch.float64)
        if self.world_size > 1:
            totals = totals.to(self.device)
            distributed.all_reduce(totals)
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
            distributed.all_reduce(flat)
            parts = flat.split([weight.numel() for weight in self.weights])
            for weight, part in zip(self.weights, parts, strict=True):
                weight.grad = part.view_as(weight)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.grad_clip)
        if not self.scaler.is_enabled() and not bool(torch.isfinite(norm)):
            return False
        self.scaler.step(self.optimizer)
        self.scaler.update()
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
            "config": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.config).items()},
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out; on the CPU torch says so in words only."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


# A run ----------------------------------------------------------------------------------------------------------------


def train(config: TrainConfig, folder: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Train a GHN, or go on with a run that was interrupted.

    Writes into the folder: `config.toml`, `log.jsonl` (a line every `log_every` steps), `checkpoint.pt` (every
    `save_every` steps, replaced whole), and at the end `ghn.safetensors`, which `ghnfast.load` reads. One trainer at a
    time works in a folder. Under `torchrun`, the networks of each meta-batch are shared between the processes. Nothing
    is drawn from torch's global generators.

    Args:
        config: the configuration; that of a run that goes on must be the one it began with, but for `steps`, `epochs`,
            `workers`, `device` and how often it logs and saves.
        folder: where the run lives.
        progress: say on stderr how far the run is: a bar on a terminal, where tqdm is installed; else a line at most
            every ten seconds.

    Returns:
        The path of the trained GHN.

    Raises:
        TrainingError: the data, the configuration or the checkpoint cannot be used; found before any work starts. Or
            too many steps in a row had no update, or the folder cannot be written, or another trainer is at it.
    """
    if not os.fspath(folder):
        raise TrainingError("the folder of the run is an empty path; a name, or '.', is accepted")
    path = Path(folder)
    with processes(config) as (rank, world_size, device):
        data = load_data(config.data, config.root)
        batches = make_batches(config, data)
        steps = config.steps if config.steps else config.epochs * batches.per_epoch
        trainer = Trainer(make_ghn(config, data).to(device), config, steps, rank=rank, world_size=world_size)
        dataset = make_dataset(config, data)
        with locked(path) if rank == 0 else nullcontext():
            go_on(trainer, dataset, path)
            if rank == 0:
                with writing(path, CONFIG) as file:
                    file.write(config.as_toml().encode())
            run(trainer, dataset, batches, path, progress and rank == 0)
            if rank == 0:
                trainer.ghn.name, trainer.ghn.epoch = path.resolve().name, trainer.step // batches.per_epoch
                trainer.ghn.trained_on = TrainedOn(data.name, data.input_shape)
                trainer.ghn.save(path / WEIGHTS)
                sync_folder(path)
    return path / WEIGHTS


def go_on(trainer: Trainer, dataset: DeepNets1M, path: Path) -> None:
    """From the checkpoint of the folder, or from the beginning."""
    known = read_checkpoint(path)
    if known is None:
        start_from_identity(trainer.ghn, dataset, trainer.config.identity_steps, trainer.config.seed)
    else:
        check_same_run(known["config"], trainer.state()["config"], path)
        try:
            trainer.restore(known)
        except Exception as error:  # torch checks what it loads in many ways
            raise TrainingError(
                f"the checkpoint {path / CHECKPOINT} does not fit its configuration: {in_words(error)}; without it, "
                "the run begins again"
            ) from error
    share_weights(trainer)


def make_ghn(config: TrainConfig, data: ImageData) -> GHN:
    try:
        wanted = config_of(config, data.num_classes)
    except ConfigError as error:
        raise TrainingError(str(error)) from error
    if config.init:
        ghn = load(config.init)
        given, found = wanted.as_dict(), ghn.config
        differing = [name for name in given if found[name] != given[name]]
        if differing:
            others = ", ".join(f"{name} is {found[name]}" for name in differing)
            said = ", ".join(str(given[name]) for name in differing)
            raise TrainingError(f"init is {config.init}, whose {others}; the configuration says {said}")
        return ghn.train()
    with drawing_from(config.seed):
        return GHN(**wanted.as_dict())


def run(trainer: Trainer, dataset: DeepNets1M, batches: Batches, path: Path, progress: bool) -> None:
    """All steps that are left."""
    config = trainer.config
    networks = MetaBatches(dataset, config.meta_batch, config.max_nodes, config.seed, trainer.rank, trainer.world_size)
    reporter = Reporter(trainer, path if trainer.rank == 0 else None, progress)
    streams = zip(
        image_stream(batches, config, trainer.step, trainer.steps),
        ahead(networks, trainer.step, trainer.steps),
        strict=True,
    )
    try:
        for (images, labels), meta_batch in streams:
            reporter.add(trainer.train_step(images, labels, meta_batch))
            last = trainer.step == trainer.steps
            if trainer.rank == 0 and (last or trainer.step % config.save_every == 0):
                save_checkpoint(path, trainer.state())
    except KeyboardInterrupt:
        if trainer.rank == 0:
            save_checkpoint(path, trainer.state())
        raise
    finally:
        reporter.close()


def share_weights(trainer: Trainer) -> None:
    """Every process goes on from the first one's weights: theirs may differ by rounding on another machine."""
    if trainer.world_size > 1:
        for value in trainer.ghn.state_dict().values():
            distributed.broadcast(value, 0)


def make_dataset(config: TrainConfig, data: ImageData) -> DeepNets1M:
    try:
        return DeepNets1M(
            "train",
            size=config.networks,
            seed=config.seed,
            large_images=data.input_shape[1] > 100,
            num_classes=data.num_classes,
            num_ch=config.num_ch,
            fc_dim=config.fc_dim,
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error


def make_batches(config: TrainConfig, data: ImageData) -> Batches:
    images = data.train if config.augment else data.calibration
    return Batches(images, config.batch_size, config.seed, config.balanced)


def image_stream(batches: Batches, config: TrainConfig, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of these steps, read in a thread, or in so many processes."""
    if config.workers == 0:
        yield from ahead(batches, start, stop)
        return
    order: Any = range(start, stop)
    loader = DataLoader(
        Readable(batches),
        batch_size=None,
        sampler=order,
        num_workers=config.workers,
        pin_memory=config.device != "cpu",
        generator=torch.Generator(),  # of the processes' seeds, which would come from the global one
    )
    try:
        for found in loader:
            if isinstance(found, TrainingError):
                raise found
            yield found
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that reads images has ended: {in_words(error)}; fewer workers may help"
        ) from error


@dataclass(frozen=True, eq=False)
class Readable(Dataset[Any]):
    """Batches for other processes: what they raise would arrive with their traceback in its words."""

    batches: Batches

    def __getitem__(self, step: int) -> Any:
        try:
            return self.batches[step]
        except TrainingError as error:
            return error


class processes:
    """The process group, where torchrun started several: rank, how many, and the device of this one."""

    def __init__(self, config: TrainConfig) -> None:
        self.config, self.size = config, int(os.environ.get("WORLD_SIZE", "1"))
        local = os.environ.get("LOCAL_RANK", "0")
        self.name = f"cuda:{local}" if config.device == "cuda" else config.device

    def __enter__(self) -> tuple[int, int, torch.device]:
        try:
            device = torch.empty(1, device=self.name).device
        except (RuntimeError, AssertionError) as error:
            raise TrainingError(f"the device {self.name} cannot be used: {in_words(error)}") from error
        if device.type == "meta":
            raise TrainingError("the device meta cannot be used: it has no memory; cpu, cuda and the like are accepted")
        if self.size == 1:
            return 0, 1, device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        # NCCL refuses processes that share a GPU, as they do where the configuration names one.
        distributed.init_process_group("nccl" if self.config.device == "cuda" else "gloo")
        return distributed.get_rank(), self.size, device

    def __exit__(self, *_: Any) -> None:
        if self.size > 1:
            distributed.destroy_process_group()


# What may differ in a run that goes on.
FREE = ("steps", "epochs", "workers", "device", "log_every", "save_every", "max_skipped", "tensorboard", "root")


def check_same_run(known: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> None:
    differing = [name for name in given if name not in FREE and known.get(name) != given[name]]
    if differing:
        name = differing[0]
        raise TrainingError(
            f"the run in {path} has {name} = {known.get(name)!r}, and {given[name]!r} was given; the same, or another "
            "folder, is accepted"
        )


# Reports --------------------------------------------------------------------------------------------------------------


class Reporter:
    """The log, TensorBoard, and how far the run is: a bar on a terminal, where tqdm is installed, else lines."""

    def __init__(self, trainer: Trainer, path: Path | None, progress: bool) -> None:
        self.trainer, self.path, self.results = trainer, path, list[StepResult]()
        bar = make_bar(trainer) if progress else None
        self.shown = Lines(trainer) if progress and bar is None else bar
        self.board = make_board(path) if path is not None and trainer.config.tensorboard else None
        if path is not None:
            cut_log(path, trainer.step)

    def add(self, result: StepResult) -> None:
        self.results.append(result)
        if self.shown is not None:
            self.shown.add(result)
        if self.trainer.step % self.trainer.config.log_every == 0 or self.trainer.step == self.trainer.steps:
            self.report()

    def report(self) -> None:
        values = summary(self.results, self.trainer)
        self.results = []
        if self.path is not None:
            append_line(self.path, values)
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, self.trainer.step)

    def close(self) -> None:
        for sink in (self.shown, self.board):
            if sink is not None:
                sink.close()


def summary(results: Sequence[StepResult], trainer: Trainer) -> dict[str, float]:
    """Means since the last report."""
    done = [result for result in results if not result.skipped]
    seconds = sum(result.seconds for result in results)
    count = max(len(done), 1)
    return {
        "step": trainer.step,
        "loss": sum(result.loss for result in done) / count,
        "top1": sum(result.top1 for result in done) / count,
        "lr": trainer.optimizer.param_groups[0]["lr"],
        "networks_per_second": sum(result.networks for result in results) / seconds,
        "ghn_share": sum(result.ghn_seconds for result in results) / seconds,
        "seconds": seconds,
        "skipped": trainer.all_skipped,
    }


LINE_SECONDS = 10.0  # between lines, at least


class Lines:
    """Says on stderr how far a run is, where there is no terminal for a bar: first, now and then, and at last."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.first, self.results = trainer, trainer.step, list[StepResult]()
        self.start = time.monotonic()
        self.next = self.start

    def add(self, result: StepResult) -> None:
        self.results.append(result)
        say_skipped(result, self.trainer, lambda text: print(text, file=sys.stderr, flush=True))
        now = time.monotonic()
        if now >= self.next or self.trainer.step == self.trainer.steps:
            self.next = now + LINE_SECONDS
            print(self.line(now - self.start), file=sys.stderr, flush=True)
            self.results = []

    def line(self, seconds: float) -> str:
        values, step, steps = summary(self.results, self.trainer), self.trainer.step, self.trainer.steps
        left = seconds / (step - self.first) * (steps - step)
        end = f"{in_time(left)} to go" if step < steps else f"{in_time(seconds)} in all"
        return (
            f"step {step} of {steps}: loss {values['loss']:.3f}, top1 {values['top1']:.1f} %, "
            f"{values['networks_per_second']:.1f} networks a second, {end}"
        )

    def close(self) -> None:
        pass


class Bar:
    """The same, by a bar of tqdm."""

    def __init__(self, trainer: Trainer, bar: Any) -> None:
        self.trainer, self.bar, self.results = trainer, bar, list[StepResult]()

    def add(self, result: StepResult) -> None:
        self.results.append(result)
        say_skipped(result, self.trainer, functools.partial(self.bar.write, file=sys.stderr))
        if self.trainer.step % self.trainer.config.log_every == 0 or self.trainer.step == self.trainer.steps:
            values = summary(self.results, self.trainer)
            names = ("loss", "top1", "networks_per_second", "ghn_share")
            self.bar.set_postfix({name: f"{values[name]:.3g}" for name in names})
            self.results = []
        self.bar.update(1)

    def close(self) -> None:
        self.bar.close()


def say_skipped(result: StepResult, trainer: Trainer, say: Callable[[str], object]) -> None:
    if result.skipped:
        say(f"step {trainer.step - 1} was skipped: {result.skipped}")


def in_time(seconds: float) -> str:
    """Seconds in words: 45 s, 12 min, 3 h 20 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def make_bar(trainer: Trainer) -> Bar | None:
    """A progress bar, where there are tqdm and a terminal."""
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return Bar(trainer, tqdm(total=trainer.steps, initial=trainer.step, unit=" steps", file=sys.stderr))


def make_board(path: Path) -> Any:
    import_optional("tensorboard", "tensorboard = true needs")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(path))
