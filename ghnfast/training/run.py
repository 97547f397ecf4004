"""A run of training: its data, networks and processes, the loop, and going on from a checkpoint."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..checkpoints import TrainedOn
from ..checkpoints.contents import checkpoint_of
from ..deepnets import DeepNets1M
from ..errors import ConfigError, TrainingError
from ..families import TRAINED, Families
from ..files import in_words
from ..nn import GHN
from ..nn.config import config_of
from ..predict import load
from ..progress import progress as say_progress
from ..randomness import CPU, drawing_from
from ..refusals import is_refused
from .config import TrainConfig, as_lists
from .data import Batches, ImageData, load_data
from .digests import are_alike, marks_of
from .folder import (
    CHECKPOINT,
    CONFIG,
    WEIGHTS,
    WHOLE,
    WITHOUT,
    locked,
    read_checkpoint,
    save_checkpoint,
    sync_folder,
    writing,
)
from .networks import MetaBatches, Mixture, Nets, ahead, for_large_images, learning
from .processes import processes, share
from .reporting import Callback, Reporter
from .start import start_from_identity
from .step import Trainer

# What may differ in a run that goes on.
FREE = ("steps", "epochs", "workers", "device", "log_every", "save_every", "max_skipped", "tensorboard", "root")


@learning
def train(
    config: TrainConfig,
    folder: str | os.PathLike[str],
    *,
    progress: bool = True,
    callbacks: Sequence[Callback] = (),
) -> Path:
    """Train a GHN, or go on with a run that was interrupted.

    Writes into the folder: `config.toml`, `log.jsonl` (a line every `log_every` steps), `checkpoint.pt` (every
    `save_every` steps, replaced whole), and at the end `ghn.safetensors`. `ghnfast.load` reads either. One trainer at
    a time works in a folder. Under `torchrun`, the networks of each meta-batch are shared between the processes.
    Nothing is drawn from torch's global generators.

    Args:
        config: the configuration; that of a run that goes on must be the one it began with, but for `steps`, `epochs`,
            `workers`, `device`, how often it logs and saves, and `root`: the images must be the same, wherever they
            are, but for a few that were deleted or mended. `steps` cannot be fewer than there were.
        folder: where the run lives.
        progress: say on stderr how far the run is: a bar on a terminal, where tqdm is installed; else a line at most
            every ten seconds.
        callbacks: functions that are called with each entry of the log, {name: number}, after it is written: `step`,
            `lr` and so on, and, where a step had an update, `loss` and `top1`. In the first process alone. What they
            raise ends the run, which goes on from its last checkpoint when it is called again.

    Returns:
        The path of the trained GHN.

    Raises:
        TrainingError: the data, the configuration or the checkpoint cannot be used; found before any work starts. Or
            too many steps in a row had no update, or the folder cannot be written, or another trainer is at it.
    """
    check_arguments(config, folder, callbacks)
    path = Path(folder)
    # Where the caller has another default device alone: within such a block, each function of torch takes longer.
    with nullcontext() if torch.get_default_device() == CPU else CPU, processes(config) as (rank, world_size, device):
        data = load_data(config.data, config.root, image_size=config.image_size)
        batches = make_batches(config, data)
        steps = config.steps if config.steps else config.epochs * batches.per_epoch
        ghn, marks = make_ghn(config, data).to(device), marks_of(data.train)
        ghn.trained_on = TrainedOn(data.name, data.input_shape)
        trainer = Trainer(ghn, config, steps, rank=rank, world_size=world_size, images=marks)
        dataset = make_dataset(config, data)
        with locked(path) if rank == 0 else nullcontext():
            go_on(trainer, dataset, path, progress and rank == 0)
            if rank == 0:
                with writing(path, CONFIG) as file:
                    file.write(config.as_toml().encode())
            with less_to_collect():
                run(trainer, dataset, batches, path, progress and rank == 0, callbacks)
            if rank == 0:
                done = trainer.step // batches.per_epoch
                trainer.ghn.name, trainer.ghn.epoch = path.resolve().name, done - 1 if done else None
                trainer.ghn.save(path / WEIGHTS)
                sync_folder(path)
    return path / WEIGHTS


def check_arguments(config: object, folder: object, callbacks: object) -> None:
    if not isinstance(config, TrainConfig):
        raise TrainingError(f"the configuration is a {type(config).__name__}; what make_config gives is accepted")
    if not isinstance(folder, (str, os.PathLike)):
        raise TrainingError(f"the folder of the run is {folder!r:.80}; a path is accepted")
    if not os.fspath(folder):
        raise TrainingError("the folder of the run is an empty path; a name, or '.', is accepted")
    if not isinstance(callbacks, Sequence) or not all(map(callable, callbacks)):
        raise TrainingError(f"callbacks is {callbacks!r:.80}; a list of functions is accepted")


def go_on(trainer: Trainer, dataset: Nets, path: Path, progress: bool) -> None:
    """From the checkpoint of the folder, or from the beginning."""
    known = read_checkpoint(path)
    if known is None:
        steps = trainer.config.identity_steps
        with say_progress("starting from identities", steps, "steps") if progress else nullcontext(None) as told:
            start_from_identity(trainer.ghn, dataset, steps, trainer.config.seed, told)
    else:
        check_same_run(known["config"], trainer.state()["config"], path)
        # A run from before they were kept has no marks.
        if trainer.images and "images" in known and not are_alike(trainer.images, known["images"]):
            raise TrainingError(
                f"the run in {path} is trained on other images than those that were given; the same, wherever they "
                "are, or another folder of a run, are accepted"
            )
        try:
            trainer.restore(known)
        except Exception as error:  # torch checks what it loads in many ways
            refused = is_refused(error)
            what, then = ("cannot be gone on from", WHOLE) if refused else ("does not fit its configuration", WITHOUT)
            raise TrainingError(f"the checkpoint {path / CHECKPOINT} {what}: {in_words(error)}; {then}") from error
        if trainer.step > trainer.steps:
            raise TrainingError(
                f"the run in {path} has made {trainer.step} steps, and is to have {trainer.steps} in all; as many or "
                "more, or another folder, are accepted"
            )
    share_weights(trainer)


def check_same_run(known: Mapping[str, Any], given: Mapping[str, Any], path: Path) -> None:
    # A run from before a setting was there went on as the default says.
    known = {**as_lists(TrainConfig()), **known}
    differing = [name for name in given if name not in FREE and known[name] != given[name]]
    if differing:
        name = differing[0]
        raise TrainingError(
            f"the run in {path} has {name} = {known[name]!r}, and {given[name]!r} was given; the same, or another "
            "folder, is accepted"
        )


def share_weights(trainer: Trainer) -> None:
    """Every process goes on from the first one's weights: theirs may differ by rounding on another machine."""
    if trainer.world_size > 1:
        for value in trainer.ghn.state_dict().values():
            share(value)


def make_ghn(config: TrainConfig, data: ImageData) -> GHN:
    try:
        wanted = config_of(config, data.num_classes)
    except ConfigError as error:
        raise TrainingError(str(error)) from error
    if config.init:
        ghn = load(config.init)
        given, found = wanted.as_dict(), ghn.config
        differing = [name for name in given if found.get(name) != given[name]]
        if differing:
            others = ", ".join(f"{name} is {found.get(name)}" for name in differing)
            said = ", ".join(str(given[name]) for name in differing)
            raise TrainingError(f"init is {config.init}, whose {others}; the configuration says {said}")
        return ghn.train()
    with drawing_from(config.seed):
        ghn = GHN(**wanted.as_dict())
    checkpoint_of(ghn.config, ghn.state_dict(), "that the run would end with", None, None)
    return ghn


def make_dataset(config: TrainConfig, data: ImageData) -> Nets:
    shares = config.weights_of_nets()
    sets = [make_deepnets(config, data) if name == "deepnets" else make_families(config, data, name) for name in shares]
    return sets[0] if len(sets) == 1 else Mixture(sets, list(shares.values()))


def make_families(config: TrainConfig, data: ImageData, name: str) -> Nets:
    """All that are trained on, which take turns, or the one with this name."""
    names, size = TRAINED if name == "families" else (name,), data.input_shape[1]
    try:
        return Families(
            size=config.members, seed=config.seed, families=names, num_classes=data.num_classes, image_size=size
        )
    except ConfigError as error:
        raise TrainingError(str(error)) from error


def make_deepnets(config: TrainConfig, data: ImageData) -> Nets:
    try:
        return DeepNets1M(
            "train",
            size=config.networks,
            seed=config.seed,
            large_images=for_large_images(data),
            num_classes=data.num_classes,
            num_ch=config.num_ch,
            wider=config.wider,
            fc_dim=config.fc_dim,
        )
    except ValueError as error:
        raise TrainingError(str(error)) from error


def make_batches(config: TrainConfig, data: ImageData) -> Batches:
    images = data.train if config.augment else data.calibration
    wanted = config.batch_size * (config.meta_batch if config.own_images else 1)
    if config.own_images and wanted > len(images):
        raise TrainingError(
            f"batch_size is {config.batch_size} and meta_batch {config.meta_batch}, with own_images {wanted} images a "
            f"step; at most {len(images)}, all images, are accepted"
        )
    return Batches(images, wanted, config.seed, config.balanced)


@contextmanager
def less_to_collect() -> Iterator[None]:
    """Within it, Python's collector of garbage does not look through what was there before.

    Networks are thousands of containers, so that it looks through everything every few steps; torch alone takes it a
    tenth of a second, in which nothing else runs.
    """
    if gc.get_freeze_count():  # the caller's business
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def run(
    trainer: Trainer, dataset: Nets, batches: Batches, path: Path, progress: bool, callbacks: Sequence[Callback]
) -> None:
    """All steps that are left."""
    config = trainer.config
    networks = MetaBatches(dataset, config.meta_batch, config.max_nodes, config.seed, trainer.rank, trainer.world_size)
    first = trainer.rank == 0
    reporter = Reporter(trainer, path if first else None, progress, callbacks if first else ())
    read = image_stream(batches, config, trainer.step, trainer.steps)
    streams = zip(read, ahead(networks, trainer.step, trainer.steps), strict=True)
    try:
        for (images, labels), meta_batch in streams:
            reporter.add(trainer.train_step(images, labels, meta_batch))
            last = trainer.step == trainer.steps
            if trainer.rank == 0 and (last or trainer.step % config.save_every == 0):
                save_checkpoint(path, trainer.state())
    except (KeyboardInterrupt, UnreadError):
        if trainer.rank == 0 and trainer.is_whole:
            save_checkpoint(path, trainer.state())
        raise
    finally:
        read.close()
        reporter.close()


class UnreadError(TrainingError):
    """The images of a step cannot be read; those before it were."""


def image_stream(
    batches: Batches, config: TrainConfig, start: int, stop: int
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """The batches of these steps, read in a thread, or in so many processes.

    Raises:
        UnreadError: they cannot be.
    """
    try:
        yield from read_by_processes(batches, config, start, stop) if config.workers else ahead(batches, start, stop)
    except TrainingError as error:
        raise UnreadError(str(error)) from error


def read_by_processes(batches: Batches, config: TrainConfig, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
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
        reading = iter(loader)
        with unheard_children():
            for found in reading:
                if isinstance(found, TrainingError):
                    raise found
                yield found
            del reading  # which ends them
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that reads images has ended: {in_words(error)}; fewer workers may help"
        ) from error


@contextmanager
def unheard_children() -> Iterator[None]:
    """Within it, processes that end raise nothing by themselves: whoever waits for what they read is told.

    The handler that torch has set raises wherever this process is, such as while it keeps what it has made: what ends a
    run often ends all of its processes at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


@dataclass(frozen=True, eq=False)
class Readable(Dataset[Any]):
    """Batches for other processes: what they raise would arrive with their traceback in its words."""

    batches: Batches

    def __getitem__(self, step: int) -> Any:
        try:
            return self.batches[step]
        except TrainingError as error:
            return error
