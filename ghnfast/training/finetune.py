"""Fine-tuning from few images, or from all: how much a network that starts from predicted parameters is ahead.

Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 5.4 and appendix D.4.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import GhnfastError, TrainingError
from ..files import in_words
from ..postprocessing import postprocess as postprocessed
from ..progress import Progress
from ..randomness import CPU, drawing_from
from ..tracing import trace
from .accuracy import accuracies, check_batches, counted, number_of
from .cells import Cells
from .data import BIG, Batches, ImageData, Images, check_images
from .digests import Operations, digest_of_images, digest_of_network
from .evaluate import Json, fit, summary
from .inits import DEFAULT_GHN, Init, Source, init_of
from .networks import device_of, learning, main_logits
from .recipe import RUNNING, Recipe
from .shots import Chosen, shots_of

Build = Callable[[], nn.Module]
CHUNK = 64  # images that are evaluated at once


@dataclass(frozen=True, eq=False)
class Parts:
    """The images of fine-tuning: trained on, held out, without augmentation for statistics, and tested on."""

    train: Images
    held_out: Images
    calibration: Images
    test: Images

    @classmethod
    def of(cls, data: ImageData, recipe: Recipe) -> Parts:
        with CPU:
            chosen, held = shots_of(data.train.all_labels(), recipe.shots, recipe.held_out)
        plain, there = data.calibration, len(data.test)
        if recipe.test_images is not None and recipe.test_images > there:
            raise TrainingError(f"test_images is {recipe.test_images}; at most {there}, all of them, are accepted")
        return cls(Chosen(data.train, chosen), Chosen(plain, held), Chosen(plain, chosen), data.test)


@learning
def finetune(
    build: Build,
    data: ImageData,
    init: Source = DEFAULT_GHN,
    *,
    out: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    **options: Any,
) -> Json:
    """Fine-tune a network from some initialization, at the best of several learning rates, with several seeds.

    The classification layer always keeps what its constructor draws with the seed.

    Args:
        build: makes the network, for `data.num_classes`; what it draws from torch's global generators comes from the
            seed, and they stay as they are.
        data: images; load them with `validation=False` to have all training images.
        init: see `ghnfast.training.inits.init_of`: "he", "own", "random", "default", a GHN, or a file.
        out: a .json file for the results, written after each training; those that it has already are not made again.
            Those of other images, or of a network that computes something else, are refused.
        device: where to train.
        progress: called with 1 after each training.
        options: see `Recipe`.

    Returns:
        rate: the best learning rate; at_edge, whether it is the lowest or highest of several. held_out: the accuracy on
        held-out images that chose it. n, mean, stderr, max, best and networks: top-1 accuracy on test images in percent
        at this rate, over seeds (`ghnfast.training.evaluate` has them for networks). curve: [[step, mean, stderr], ...]
        at this rate. seconds: of a training, on average. cells: each training. settings: what all of this is of.

    Raises:
        TrainingError: an option is out of range, there are too few images, or `out` is of something else.
        CheckpointError, ConfigError, PredictError, TraceError: of `init`, the model and postprocessing.
    """
    recipe = Recipe(**options)
    check_images(data)
    if isinstance(build, nn.Module) or not callable(build):
        raise TrainingError(f"build is a {type(build).__name__}; a function that makes the network is accepted")
    start, place = init_of(init), device_of(device)
    images = Parts.of(data, recipe)
    if len(images.train) < recipe.batch_size:
        raise TrainingError(f"batch_size is {recipe.batch_size}, of {len(images.train)} images; fewer are accepted")
    tested = number_of(images.test, recipe.test_images)
    check_batches(recipe.batch_statistics, held_out=recipe.held_out, test_images=tested)
    job = Job(build, data, start, recipe, images, place)
    if max(recipe.evaluate_at, default=0) > job.steps:
        raise TrainingError(f"evaluate_at is {recipe.evaluate_at}, of {job.steps} steps; no more are accepted")
    settings = {"data": data.name, "init": start.name, **job.identity(), **recipe.settings}
    with Cells.at(out, settings) as cells:
        return best_of(job, cells, progress)


def best_of(job: Job, cells: Cells, progress: Progress | None) -> Json:
    """The results at the best rate, of trainings that are made where they are not there yet."""
    recipe, told = job.recipe, set[tuple[int, float]]()

    def run(seed: int, rate: float) -> Json:
        known = cells.find(seed, rate)
        if known is None:
            known = job.run(seed, rate)
            cells.add(known)
        if progress is not None and (seed, rate) not in told:  # once: the best rate's are looked at again
            told.add((seed, rate))
            progress(1)
        return known

    searching = recipe.seeds[: recipe.search_seeds]
    found = {rate: statistics.fmean(run(seed, rate)["held_out"] for seed in searching) for rate in recipe.rates}
    best = max(recipe.rates, key=lambda rate: (found[rate], -rate))
    return cells.finish(results_at(best, found, [run(seed, best) for seed in recipe.seeds]))


def results_at(rate: float, found: Mapping[float, float], cells: Sequence[Json]) -> Json:
    curve = []
    for points in zip(*(cell["curve"] for cell in cells), strict=True):
        at = summary([accuracy for _, accuracy in points])
        curve.append([points[0][0], at["mean"], at["stderr"]])
    return {
        "rate": rate,
        "at_edge": len(found) > 1 and rate in (min(found), max(found)),
        "held_out": found[rate],
        **summary([cell["test"] for cell in cells]),
        "curve": curve,
        "seconds": statistics.fmean(cell["seconds"] for cell in cells),
    }


@dataclass(frozen=True, eq=False)
class Job:
    """What all trainings of a call have in common."""

    build: Build
    data: ImageData
    init: Init
    recipe: Recipe
    images: Parts
    device: torch.device

    @property
    def steps(self) -> int:
        return self.recipe.steps or self.recipe.epochs * (len(self.images.train) // self.recipe.batch_size)

    def identity(self) -> Json:
        """What a result depends on beside the recipe."""
        model = self.built(0)
        operations = Operations()
        self.check(model, operations)
        tested = self.recipe.test_images or len(self.images.test)
        return {  # the first that differs is named: what a network computes depends on the shape
            "shape": self.data.input_shape,
            "model": digest_of_network(model, operations.lines, self.data.input_shape),
            "weights": self.init.digest,
            "images": [len(self.images.train), len(self.images.held_out), tested],
            "images_digest": digest_of_images(self.data.train, self.data.test),
        }

    def check(self, model: nn.Module, operations: Operations) -> None:
        shape, classes = (2, *self.data.input_shape), self.data.num_classes
        try:
            with torch.no_grad(), operations:
                found = tuple(main_logits(model.eval()(torch.zeros(shape, device=CPU))).shape)
        except Exception as error:  # whatever the model raises
            raise TrainingError(f"the model fails on images of shape {shape}: {in_words(error)}") from error
        if len(found) != 2 or found[0] != shape[0] or found[1] < classes:
            raise TrainingError(
                f"the model gives {found} for images of shape {shape}; (2, classes) with {classes} or more classes, as "
                f"{self.data.name} has, is accepted"
            )

    def built(self, seed: int) -> nn.Module:
        try:
            with drawing_from(seed):
                network = self.build()
        except GhnfastError:
            raise
        except Exception as error:  # whatever the caller's function raises
            raise TrainingError(f"build fails: {type(error).__name__}: {in_words(error)}") from error
        if not isinstance(network, nn.Module):
            raise TrainingError(f"build gives a {type(network).__name__}; a torch.nn.Module is accepted")
        return network

    def network(self, seed: int) -> nn.Module:
        """The network that a training starts from."""
        network = self.built(seed * BIG)
        graph = trace(network, input_shape=self.data.input_shape)
        self.init.apply(network, graph, seed)
        if self.recipe.postprocess:
            postprocessed(network, orth=self.recipe.orth, beta=self.recipe.beta, seed=seed)
        for parameter in network.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return network.to(self.device)

    def run(self, seed: int, rate: float) -> Json:
        """One training, and what it comes to."""
        recipe, start = self.recipe, time.perf_counter()
        network = self.network(seed)
        batches = Batches(self.images.train, recipe.batch_size, seed)
        curve: list[tuple[int, float]] = []

        def after(step: int) -> None:
            if step in recipe.evaluate_at:
                curve.append((step, self.accuracy(network, self.images.test, recipe.test_images)))

        if not all(parameter.isfinite().all() for parameter in network.parameters()):
            raise TrainingError(f"init {self.init.name!r} gives parameters that are not finite")
        try:
            fit(network, batches, self.steps, lr=rate, weight_decay=recipe.weight_decay, after=after)
        except GhnfastError:
            raise
        except Exception as error:  # whatever the model raises
            raise TrainingError(f"the model fails when it is trained: {in_words(error)}") from error
        return {
            "seed": seed,
            "rate": rate,
            "held_out": self.accuracy(network, self.images.held_out),
            "test": self.accuracy(network, self.images.test, recipe.test_images),
            "curve": curve,
            "steps": self.steps,
            "seconds": time.perf_counter() - start,
        }

    def accuracy(self, network: nn.Module, images: Images, limit: int | None = None) -> float:
        """Top-1, in percent."""
        if self.recipe.batch_statistics == RUNNING:
            return counted(network.eval(), images, CHUNK, self.device, limit)[0]
        kind, size = self.recipe.batch_statistics, min(CHUNK, len(self.images.calibration))
        size = max(size, 2) if kind == "batch" else size
        return accuracies(network, images, self.images.calibration, kind, size, self.device, limit)[0]


def format_finetuning(rows: Mapping[str, Json]) -> str:
    """A table: a row for each result of `finetune`, by name."""
    lines = [["start", "rate", "held out", "test", "n", "seconds"]]
    for name, row in rows.items():
        edge = " (edge)" if row["at_edge"] else ""
        accuracy = f"{row['mean']:.1f} +- {row['stderr']:.1f}"
        numbers = [f"{row['rate']:g}{edge}", f"{row['held_out']:.1f}", accuracy, str(row["n"]), f"{row['seconds']:.0f}"]
        lines.append([name, *numbers])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines)
