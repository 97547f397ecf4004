"""Ground truth of our own: networks of DeepNets-1M, trained, and four properties of each, in a CSV that grows.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, Section 5.2: accuracy on
clean and on noisy images, inference time, and speed of convergence.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..deepnets import DeepNet, DeepNets1M
from ..errors import PropertyError
from ..locks import alone, lock_beside
from ..progress import Progress
from ..randomness import drawing_from
from ..training import ImageData, accuracies
from ..training.data import BIG, Batches, Images
from ..training.evaluate import fit_epochs
from ..training.networks import for_large_images, learning
from .table import PROPERTIES, Training, append, format_value, how_of, known_networks

NOISE = 0.08  # standard deviation, of pixels from 0 to 1
SHARE = 0.93  # of the last training accuracy: where a network has converged
IMAGES_AT_ONCE = 64
REPEATS = 15  # of the forward pass that is timed


@learning
def measure(item: DeepNet, data: ImageData, training: Training) -> dict[str, float]:
    """Train a network, and measure its properties.

    Returns:
        accuracy, noisy_accuracy: top-1 in percent on the test images, and on these with Gaussian noise of 0.08.
        seconds: the median time of a forward pass of 64 images, in evaluation mode, on as many threads as torch has.
        convergence: the first epoch whose training accuracy is above 93 % of the last one's, as a share of all epochs.
    """
    with drawing_from(training.seed * BIG + item.index):
        network = training.network(item).build(data.num_classes)
    reached = fit_epochs(network, Batches(data.train, IMAGES_AT_ONCE, training.seed), training.epochs)
    first = next(epoch for epoch, accuracy in enumerate(reached, 1) if accuracy >= SHARE * reached[-1])
    noisy = NoisyImages(data.test, training.seed)
    return {
        "accuracy": accuracies(network, data.test, data.calibration)[0],
        "noisy_accuracy": accuracies(network, noisy, data.calibration)[0],
        "seconds": forward_seconds(network, data),
        "convergence": first / training.epochs,
    }


@dataclass(frozen=True, eq=False)
class NoisyImages(Images):
    """Images with Gaussian noise, which is the same for every network."""

    images: Images
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistics", self.images.statistics)

    def __len__(self) -> int:
        return len(self.images)

    def all_labels(self) -> Tensor:
        return self.images.all_labels()

    def batch(self, indices: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
        images, labels = self.images.batch(indices, seed)
        generator = torch.Generator().manual_seed((self.seed * BIG + indices[0]) % (1 << 62))
        deviation = torch.tensor(self.statistics[1]).view(1, 3, 1, 1)
        return images + torch.randn(images.shape, generator=generator) * NOISE / deviation, labels


@torch.no_grad()
def forward_seconds(network: nn.Module, data: ImageData) -> float:
    images, _ = data.test.batch(range(min(IMAGES_AT_ONCE, len(data.test))), 0)
    network.eval()
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        network(images)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def measure_into(
    path: str | os.PathLike[str],
    data: ImageData,
    splits: dict[str, int],
    training: Training,
    progress: Progress = lambda count: None,
) -> int:
    """Measure networks, and add a line for each to a CSV file; those that it has are not measured again.

    Each line is on the disk before the next network begins: a run that is interrupted goes on when it is repeated.

    Args:
        splits: how many networks of each split.
        progress: is told of each network that was measured, or found.

    Returns:
        How many networks were measured.

    Raises:
        PropertyError: the file is of networks that were trained in another way, is no such file, or cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise PropertyError(f"the file is {path!r:.80}; the path of a CSV file is accepted")
    target = Path(path)
    with alone(lock_beside(target), os.fspath(path), "measured", "another file", PropertyError):
        return measure_missing(target, data, splits, training, progress)


def measure_missing(
    target: Path, data: ImageData, splits: dict[str, int], training: Training, progress: Progress
) -> int:
    how = how_of(data, training)
    done = known_networks(target, how) if os.path.exists(target) else set()
    measured = 0
    for split, count in splits.items():
        for item in DeepNets1M(split, size=count, large_images=for_large_images(data), num_classes=data.num_classes):
            if (split, item.index) not in done:
                found = measure(item, data, training)
                row = {"split": split, "index": item.index, **how}
                append(target, {**row, **{name: format_value(found[name]) for name in PROPERTIES}})
                measured += 1
            progress(1)
    return measured
