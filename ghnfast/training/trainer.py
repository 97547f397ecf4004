"""Training a GHN: meta-batches of networks, whose losses flow back through their predicted parameters.

Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), equation 2 and appendix C.1. Everything that
is random in a step is a function of the seed and the step's number, so that a run that was killed goes on with the
losses it would have had.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from ..checkpoint import TrainedOn
from ..deepnets import DeepNets1M
from ..errors import TrainingError
from ..files import in_words, replacing
from ..nn import GHN
from ..optional import import_optional
from ..predict import load
from .config import TrainConfig
from .data import BIG, Batches, ImageData, load_data
from .networks import MetaBatch, MetaBatches, ahead, placed, run_network
from .randomness import drawing_from
from .start import start_from_identity

CHECKPOINT, CONFIG, LOG, WEIGHTS = "checkpoint.pt", "config.toml", "log.jsonl", "ghn.safetensors"
GHN_ARGUMENTS = ("max_shape", "hypernet", "decoder", "weight_norm", "ve", "layernorm", "hid")
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
        self.ghn.load_state_dict(state["ghn"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.skipped, self.out_of_memory = state["step"], state["skipped"], state["out_of_memory"]
        self.all_skipped = state["all_skipped"]


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
    `save_every` steps, replaced whole), and at the end `ghn.safetensors`, which `ghnfast.load` reads. Under `torchrun`,
    the networks of each meta-batch are shared between the processes.

    Args:
        config: the configuration; that of a run that goes on must be the one it began with, but for `steps`, `epochs`,
            `workers`, `device` and how often it logs and saves.
        folder: where the run lives.
        progress: show a progress bar, where tqdm is installed.

    Returns:
        The path of the trained GHN.

    Raises:
        TrainingError: the data, the configuration or the checkpoint cannot be used; found before any work starts. Or
            too many steps in a row had no update.
    """
    path = Path(folder)
    with processes(config) as (rank, world_size, device):
        data = load_data(config.data, config.root)
        batches = make_batches(config, data)
        steps = config.steps or config.epochs * batches.per_epoch
        trainer = Trainer(make_ghn(config, data).to(device), config, steps, rank=rank, world_size=world_size)
        known = read_checkpoint(path)
        dataset = make_dataset(config, data)
        if known is not None:
            check_same_run(known["config"], trainer.state()["config"], path)
            trainer.restore(known)
        else:
            start_from_identity(trainer.ghn, dataset, config.identity_steps, config.seed)
        share_weights(trainer)
        if rank == 0:
            path.mkdir(parents=True, exist_ok=True)
            (path / CONFIG).write_text(config.as_toml())
        run(trainer, dataset, batches, path, progress and rank == 0)
        if rank == 0:
            trainer.ghn.name, trainer.ghn.epoch = path.name, trainer.step // batches.per_epoch
            trainer.ghn.trained_on = TrainedOn(data.name, data.input_shape)
            trainer.ghn.save(path / WEIGHTS)
    return path / WEIGHTS


def make_ghn(config: TrainConfig, data: ImageData) -> GHN:
    arguments = {name: getattr(config, name) for name in GHN_ARGUMENTS}
    if config.init:
        ghn = load(config.init)
        given = {**arguments, "num_classes": data.num_classes}
        differing = [name for name, value in given.items() if ghn.config[name] != value]
        if differing:
            found = ", ".join(f"{name} is {ghn.config[name]}" for name in differing)
            wanted = ", ".join(str(given[name]) for name in differing)
            raise TrainingError(f"init is {config.init}, whose {found}; the configuration says {wanted}")
        return ghn.train()
    try:
        with drawing_from(config.seed):
            return GHN(num_classes=data.num_classes, **arguments)
    except ValueError as error:
        raise TrainingError(str(error)) from error


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
                save_checkpoint(path, trainer)
    except KeyboardInterrupt:
        if trainer.rank == 0:
            save_checkpoint(path, trainer)
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
        self.device = torch.device(f"cuda:{local}" if config.device == "cuda" else config.device)

    def __enter__(self) -> tuple[int, int, torch.device]:
        try:
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise TrainingError(f"the device {self.device} cannot be used: {in_words(error)}") from error
        if self.size == 1:
            return 0, 1, self.device
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        # NCCL refuses processes that share a GPU, as they do where the configuration names one.
        distributed.init_process_group("nccl" if self.config.device == "cuda" else "gloo")
        return distributed.get_rank(), self.size, self.device

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


def save_checkpoint(path: Path, trainer: Trainer) -> None:
    """Written beside the last one, which it then replaces: killed at any time, a whole one is there."""
    with replacing(path / CHECKPOINT) as file:
        torch.save(trainer.state(), file)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint of a run, or None where there is none."""
    file = path / CHECKPOINT
    if not file.exists():
        return None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise TrainingError(f"the checkpoint {file} cannot be read: {in_words(error)}") from error
    if not isinstance(state, dict) or "optimizer" not in state or "config" not in state:
        raise TrainingError(f"{file} is not the checkpoint of a training run")
    return state


# Reports --------------------------------------------------------------------------------------------------------------


class Reporter:
    """The log, the progress bar and TensorBoard."""

    def __init__(self, trainer: Trainer, path: Path | None, progress: bool) -> None:
        self.trainer, self.path, self.results = trainer, path, list[StepResult]()
        self.bar = make_bar(trainer) if progress else None
        self.board = make_board(path) if path is not None and trainer.config.tensorboard else None
        if path is not None:
            forget_later_lines(path / LOG, trainer.step)

    def add(self, result: StepResult) -> None:
        self.results.append(result)
        if result.skipped and self.trainer.rank == 0 and self.bar is not None:
            self.bar.write(f"step {self.trainer.step - 1} was skipped: {result.skipped}")
        if self.bar is not None:
            self.bar.update(1)
        if self.trainer.step % self.trainer.config.log_every == 0 or self.trainer.step == self.trainer.steps:
            self.report()

    def report(self) -> None:
        values = summary(self.results, self.trainer)
        self.results = []
        if self.bar is not None:
            self.bar.set_postfix(
                {name: f"{values[name]:.3g}" for name in ("loss", "top1", "networks_per_second", "ghn_share")}
            )
        if self.path is not None:
            with open(self.path / LOG, "a") as file:
                file.write(json.dumps(values) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, self.trainer.step)

    def close(self) -> None:
        for sink in (self.bar, self.board):
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


def forget_later_lines(log: Path, step: int) -> None:
    """Lines of steps after the checkpoint will be written again."""
    if not log.exists():
        return
    lines = log.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        with replacing(log) as file:
            file.write("".join(kept).encode())


def make_bar(trainer: Trainer) -> Any:
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=trainer.steps, initial=trainer.step, unit=" steps", disable=None)


def make_board(path: Path) -> Any:
    import_optional("tensorboard", "tensorboard = true needs")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(path))
