"""How good predicted parameters are: the accuracy of networks that a GHN has never seen, beside trained ones.

Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 5 and appendix D.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..deepnets import DeepNets1M
from ..deepnets.dataset import PREDEFINED, SPLITS, is_whole
from ..errors import DomainWarning, TrainingError
from ..families import HELD_OUT, TRAINED, Families, FamilyNet
from ..nn import GHN
from ..plain import make_plain, with_plain_numbers
from ..progress import Progress
from ..randomness import CPU, drawing_from
from . import optimizers
from .accuracy import BATCH_SIZE, accuracies, check_batches, check_statistics, number_of
from .config import MOST_SEED
from .data import BIG, Batches, ImageData, Images, check_images
from .drawing import calls_drawing_from
from .layouts import gradients_whole
from .networks import Net, Nets, device_of, for_large_images, learning, main_logits, placed
from .shots import Chosen

RATES = {"sgd": 0.025, "adam": 1e-3}
MOST_RATE = 1e30  # that is a number in float32, times a gradient
# Members of families that no GHN was trained on; of the families of training, and of others.
FAMILY_SPLITS = {"families": TRAINED, "unseen": HELD_OUT}
MEMBERS = 10  # of each family, by default
Json = dict[str, Any]
Parameters = Callable[[Net, nn.Module], None]


@dataclass(frozen=True)
class Evaluation:
    """Which networks are evaluated on which images, and how.

    Attributes:
        data: the images.
        splits: of networks: test, wide, deep, dense, bnfree, val, or predefined (ResNet-50 and a ViT); "families",
            test members of the families of training (`ghnfast.families.TRAINED`), or "unseen", of `HELD_OUT`.
        limit: the first so many networks of each split; all by default.
        networks: the numbers of the networks of each split, rather than the first ones.
        validation: use the validation images rather than the test images.
        images: so many of them, the same for every network; all by default.
        in_turn: other images for every network, the next so many: a mean over networks is one over all images, then.
        batch_statistics: of batch normalization: "batch", those of each batch of images, as in the paper, or
            "recalibrated", estimated on training images.
        batch_size: images at once; two or more with the statistics of batches. A single last image joins others.
        root: the folder of the published networks; sampled ones by default.
        seed: of sampled networks, and of initialization.
        progress: called with 1 after each network.

    Raises:
        TrainingError: a split does not exist or is empty, or there are no such images.
    """

    data: ImageData
    splits: Sequence[str] = ("test",)
    limit: int | None = None
    networks: Sequence[int] | None = None
    validation: bool = False
    images: int | None = None
    in_turn: bool = False
    batch_statistics: str = "batch"
    batch_size: int = BATCH_SIZE
    root: str | None = None
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        check_images(self.data)
        accepted = [name for name in (*SPLITS, *FAMILY_SPLITS) if name != "train"]
        if isinstance(self.splits, str) or not isinstance(self.splits, Sequence) or not self.splits:
            raise TrainingError(f"splits is {self.splits!r:.80}; a list of {', '.join(accepted)} is accepted")
        for split in self.splits:
            if split not in accepted:
                raise TrainingError(f"the split is {split!r}; {', '.join(accepted)} are accepted")
        for name in ("limit", "images", "batch_size", "seed"):
            value = getattr(self, name)
            if not is_whole(value) and not (value is None and name in ("limit", "images")):
                raise TrainingError(f"{name} is {value!r:.80}; a whole number is accepted")
        if self.networks is not None and not (
            isinstance(self.networks, Sequence) and all(isinstance(number, Integral) for number in self.networks)
        ):
            raise TrainingError(f"networks is {self.networks!r:.80}; a list of whole numbers is accepted")
        if not isinstance(self.in_turn, bool):
            raise TrainingError(f"in_turn is {self.in_turn!r:.80}; True or False is accepted")
        if self.in_turn and self.images is None:
            raise TrainingError("images in turn have to be so many; the number of images is accepted with in_turn")
        if self.limit is not None and self.limit < 1:
            raise TrainingError(f"limit is {self.limit}: the splits would be empty; 1 or more is accepted")
        if self.validation and self.data.val is None:
            raise TrainingError(f"{self.data.name} was loaded without validation images; it has to be loaded with them")
        if self.batch_size < 1:
            raise TrainingError(f"batch_size is {self.batch_size}; 1 or more is accepted")
        there = len(self.tested)
        if self.images is not None and not 1 <= self.images <= there:
            raise TrainingError(f"images is {self.images}; 1 to {there}, all that there are, is accepted")
        if not 0 <= self.seed <= MOST_SEED:
            raise TrainingError(f"seed is {self.seed}; 0 to 2^64 - 1 are accepted")
        check_statistics(self.batch_statistics)
        images = number_of(self.tested, self.images)
        check_batches(self.batch_statistics, batch_size=self.batch_size, images=images)
        if self.networks is not None and (self.limit is not None or not self.networks):
            raise TrainingError("networks are numbers of networks, one or more, without a limit beside them")

    @property
    def tested(self) -> Images:
        return self.data.val if self.validation and self.data.val is not None else self.data.test

    def seen_by(self, net: Net) -> Images:
        """The images of which a network sees the first so many, in the order of `accuracies`."""
        if not self.in_turn or self.images is None:
            return self.tested
        count = len(self.tested)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0), device=CPU)
        return Chosen(self.tested, order[(net.index * self.images + torch.arange(self.images, device=CPU)) % count])

    def run(self, parameters: Parameters, device: torch.device) -> dict[str, Json]:
        """The results of networks that `parameters` gives parameters to."""
        return {split: self.measure(self.items_of(split), parameters, device) for split in self.splits}

    def nets_of(self, split: str) -> Nets:
        classes, size = self.data.num_classes, self.data.input_shape[1]
        if split in FAMILY_SPLITS:
            names = FAMILY_SPLITS[split]
            count = MEMBERS * len(names)
            return Families("test", size=count, seed=self.seed, families=names, num_classes=classes, image_size=size)
        return DeepNets1M(
            split, self.root, seed=self.seed, large_images=for_large_images(self.data), num_classes=classes
        )

    def items_of(self, split: str) -> list[Net]:
        dataset = self.nets_of(split)
        count = len(dataset) if self.limit is None else min(self.limit, len(dataset))
        chosen = range(count) if self.networks is None else self.networks
        wrong = [index for index in chosen if not 0 <= index < len(dataset)]
        if wrong:
            raise TrainingError(f"networks has {wrong[0]}; 0 to {len(dataset) - 1} are accepted ({split})")
        return [dataset[index] for index in chosen]

    def measure(self, items: Sequence[Net], parameters: Parameters, device: torch.device) -> Json:
        top1, top5, seconds = [], [], 0.0
        for item in items:
            with CPU, drawing_from(self.seed * BIG + item.index):
                network = item.build(self.data.num_classes).to(device)
            start = time.perf_counter()
            parameters(item, network)
            seconds += time.perf_counter() - start
            found = accuracies(
                network, self.seen_by(item), self.data.calibration, self.batch_statistics, self.batch_size, device,
                self.images,
            )  # fmt: skip
            top1.append(found[0])
            top5.append(found[1])
            if self.progress is not None:
                self.progress(1)
        more = {"mean_top5": statistics.fmean(top5), "seconds": seconds / len(top1)}
        return {**summary(top1), **more, **by_family(items, top1)}


def by_family(items: Sequence[Net], top1: Sequence[float]) -> Json:
    """{"families": {family: mean accuracy}}, where there are any."""
    found: dict[str, list[float]] = {}
    for item, accuracy in zip(items, top1, strict=True):
        if isinstance(item, FamilyNet):
            found.setdefault(item.family, []).append(accuracy)
    return {"families": {name: statistics.fmean(values) for name, values in found.items()}} if found else {}


def summary(top1: Sequence[float]) -> Json:
    """Mean, standard error of the mean and best of the accuracies of networks, and these."""
    best = max(range(len(top1)), key=top1.__getitem__)
    return {
        "n": len(top1),
        "mean": statistics.fmean(top1),
        "stderr": statistics.stdev(top1) / len(top1) ** 0.5 if len(top1) > 1 else 0.0,
        "max": top1[best],
        "best": best,
        "networks": list(top1),
    }


def evaluate(ghn: GHN, data: ImageData, splits: Sequence[str] = ("test",), **options: Any) -> dict[str, Json]:
    """Predict every network of DeepNets-1M's splits, and measure its accuracy on images.

    Args:
        splits, options: see `Evaluation`.

    Returns:
        For each split: n, mean, stderr (of the mean), max and best (the index of the best network) of top-1 accuracy in
        percent; mean_top5; networks, the top-1 accuracy of each; seconds to predict one, on average.

    Warns:
        DomainWarning: the GHN was trained on other images.

    Raises:
        TrainingError: the GHN is for another number of classes; or see `Evaluation`.
    """
    evaluation = Evaluation(data, splits, **options)
    if not isinstance(ghn, GHN):
        raise TrainingError(f"ghn is {ghn!r:.80}; a GHN, as ghnfast.load gives, is accepted")
    notice = other_images(ghn, data)
    if notice is not None:
        warnings.warn(notice, DomainWarning, stacklevel=2)
    if ghn.num_classes != data.num_classes:
        raise TrainingError(
            f"the GHN is for {ghn.num_classes} classes, and {data.name} has {data.num_classes}; the same is accepted"
        )

    def parameters(item: Net, network: nn.Module) -> None:
        ghn.predict(network, graph=item.graph)

    return evaluation.run(parameters, ghn.primitive_embedding.weight.device)


def other_images(ghn: GHN, data: ImageData) -> str | None:
    """What is to be said where a GHN was trained on other images than those it is measured on; None where not."""
    known = ghn.trained_on
    if known is None or (known.data, known.input_shape) == (data.name, data.input_shape):
        return None
    if known.data == data.name:
        shapes = [" x ".join(map(str, shape)) for shape in (known.input_shape, data.input_shape)]
        return (
            f"{ghn.name} was trained on images of {data.name} of the shape {shapes[0]}, and these are of {shapes[1]}: "
            "lower accuracies are to be expected"
        )
    return (
        f"{ghn.name} was trained on {known.data}, and these images are of {data.name}: accuracies near chance "
        "are to be expected"
    )


@learning
@with_plain_numbers
def baseline(
    data: ImageData,
    splits: Sequence[str] = ("test",),
    *,
    optimizer: str = "sgd",
    steps: int = 0,
    epochs: int = 0,
    lr: float | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> dict[str, Json]:
    """What `evaluate` measures, of the same networks trained from random initialization.

    Args:
        splits, options: see `Evaluation`.
        optimizer: "sgd" (momentum 0.9) or "adam"; its rate falls to zero with a cosine.
        lr: the first rate; 0.025 or 0.001 by default.
        steps, epochs: how long, in batches of images or in passes over the training images.

    Raises:
        TrainingError: not exactly one of `steps` and `epochs` is given; or see `Evaluation`.
    """
    evaluation = Evaluation(data, splits, **options)
    if not isinstance(optimizer, str) or optimizer not in RATES:
        raise TrainingError(f"the optimizer is {optimizer!r:.80}; 'sgd' and 'adam' are accepted")
    if lr is not None and not (isinstance(lr, (int, float)) and 0 <= lr < MOST_RATE):
        raise TrainingError(f"lr is {lr!r:.80}; 0 or more, or None for {RATES[optimizer]}, is accepted")
    if not (is_whole(steps) and is_whole(epochs)) or (steps > 0) == (epochs > 0) or min(steps, epochs) < 0:
        raise TrainingError(f"steps is {steps!r:.80} and epochs is {epochs!r:.80}; one positive number is accepted")
    if evaluation.batch_size == 1:
        raise TrainingError(
            "batch_size is 1, and one image has no batch statistics to train with; 2 or more are accepted"
        )
    batches, place = Batches(data.train, evaluation.batch_size, evaluation.seed), device_of(device)

    def parameters(item: Net, network: nn.Module) -> None:
        fit(network, batches, steps or epochs * batches.per_epoch, optimizer, lr)

    return evaluation.run(parameters, place)


def fit(
    network: nn.Module,
    batches: Batches,
    steps: int,
    optimizer: str = "sgd",
    lr: float | None = None,
    weight_decay: float = 3e-4,
    after: Callable[[int], object] | None = None,
    recognized: list[float] | None = None,
) -> None:
    """Train a network for some steps: the baseline; see there.

    Args:
        weight_decay: of "sgd".
        after: is called after each step with how many there were; may put the network into evaluation mode.
        recognized: is given the share of each step's images that the network recognized.
    """
    device = next(network.parameters()).device
    rate = RATES[optimizer] if lr is None else lr
    if optimizer == "sgd":
        made: torch.optim.Optimizer = optimizers.SGD(
            network.parameters(), rate, momentum=0.9, weight_decay=weight_decay
        )
    else:
        made = optimizers.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(made, steps)
    for step in range(steps):
        network.train()
        images, labels = batches[step]
        seen = placed(images, device)
        with calls_drawing_from(batches.seed * BIG + step, network), gradients_whole(seen):  # dropout
            logits = main_logits(network(seen))
        targets = labels.to(device)
        loss = F.cross_entropy(logits, targets)
        made.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        made.step()
        schedule.step()
        if recognized is not None:
            right = (logits.detach().argmax(dim=1) == targets) & ~logits.isnan().any(1)
            recognized.append(float(right.float().mean()))
        if after is not None:
            after(step + 1)


def fit_epochs(network: nn.Module, batches: Batches, epochs: int) -> list[float]:
    """Train a network by SGD; the share of training images that it recognized in each epoch, while it learned."""
    found: list[float] = []
    fit(network, batches, epochs * batches.per_epoch, recognized=found)
    return [statistics.fmean(found[at : at + batches.per_epoch]) for at in range(0, len(found), batches.per_epoch)]


def format_results(rows: Mapping[str, Mapping[str, Json]]) -> str:
    """A table as in the paper (tables 3 and 4): a row for each method, top-1 accuracy in percent.

    Below it stands the mean of each family, where families were evaluated.
    """
    head = ["method"]
    found = {split for results in rows.values() for split in results}
    splits = [split for split in (*SPLITS, *FAMILY_SPLITS) if split in found]
    for split in splits:
        head += {"test": ["test, mean", "test, max"], "predefined": list(PREDEFINED)}.get(split, [split])
    lines = [head]
    for method, results in rows.items():
        line = [method]
        for split in splits:
            entry = results.get(split)
            mean = "-" if entry is None else f"{entry['mean']:.1f} +- {entry['stderr']:.1f}"
            if split == "test":
                line += [mean, "-" if entry is None else f"{entry['max']:.1f}"]
            elif split == "predefined":
                numbers = [f"{value:.1f}" for value in entry["networks"]] if entry is not None else []
                line += (numbers + ["-"] * len(PREDEFINED))[: len(PREDEFINED)]
            else:
                line.append(mean)
        lines.append(line)
    return "\n\n".join(map(aligned, [lines, *family_tables(rows)]))


def family_tables(rows: Mapping[str, Mapping[str, Json]]) -> list[list[list[str]]]:
    """For each split of families its families, and what the methods reach."""
    tables = []
    for split, names in FAMILY_SPLITS.items():
        means = {method: results[split]["families"] for method, results in rows.items() if split in results}
        if means:
            known = [name for name in names if any(name in found for found in means.values())]
            cells = [
                [name, *(f"{found[name]:.1f}" if name in found else "-" for found in means.values())] for name in known
            ]
            tables.append([[split, *means], *cells])
    return tables


def aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) if column == 0 else text.rjust(width) for column, (text, width) in
                  enumerate(zip(line, widths, strict=True)))
        for line in lines
    )  # fmt: skip
