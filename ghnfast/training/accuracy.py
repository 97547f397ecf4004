"""The accuracy of a network on images, and whose statistics its batch normalization has meanwhile.

Source: Parameter Prediction for Unseen Deep Architectures (NeurIPS 2021), section 5 and appendix D.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..calibration import gather, in_memory
from ..errors import TrainingError
from ..files import in_words
from ..randomness import CPU
from ..tallies import write
from .data import Batches, Images, check_count
from .networks import device_of, main_logits, placed

STATISTICS = ("batch", "recalibrated")
BATCH_SIZE = 64
CALIBRATION_BATCHES = 16
TOP = 5


@torch.no_grad()
def accuracies(
    network: nn.Module,
    images: Images,
    calibration: Images,
    batch_statistics: str = "batch",
    batch_size: int = BATCH_SIZE,
    device: torch.device | str = "cpu",
    limit: int | None = None,
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy in percent on the first `limit` images, in an order that is always the same.

    The network is evaluated in evaluation mode, and left in the modes, and with the statistics, that it had.

    Args:
        network: gives (images, classes) for images, alone or first; in one dtype, which images become.
        images, calibration: such as `test` and `calibration` of what `load_data` gives; the second is read for
            "recalibrated" alone.

    Raises:
        TrainingError: an argument is something else; there are no images, or no such batch statistics; or a network
            with batch normalization is to have the statistics of batches of a single image; or the network fails.
        CalibrationError: it fails on the images for "recalibrated".
    """
    check_statistics(batch_statistics)
    check_count("batch_size", batch_size)
    check_count("limit", 1 if limit is None else limit)
    check_network(network)
    check_images("images", images)
    device = device_of(device)
    if not len(images):
        raise TrainingError("there are no images to measure accuracy on; one or more is accepted")
    if batch_norms(network):
        check_batches(batch_statistics, batch_size=batch_size, images=number_of(images, limit))
    with evaluated(network):
        if batch_statistics == "recalibrated":
            check_images("calibration", calibration)
            network = recalibrated(network, Batches(calibration, batch_size, 0), device)
        with statistics_of_batches(network) if batch_statistics == "batch" else no_change():
            return counted(network, images, batch_size, device, limit)


@torch.no_grad()
def counted(
    network: nn.Module, images: Images, batch_size: int, device: torch.device | str, limit: int | None = None
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy in percent, of a network as it is; see `accuracies`."""
    right, count = torch.zeros(2, dtype=torch.float64, device=CPU), number_of(images, limit)
    for chosen, labels in batches_in_order(images, batch_size, count):
        logits = logits_of(network, placed(chosen, device)).cpu()
        chosen_classes = logits.nan_to_num(-torch.inf).topk(min(TOP, logits.shape[1])).indices
        # Where all logits are no numbers, the classes that come first would be right now and then.
        ranked = (chosen_classes == labels[:, None]) & ~logits.isnan().gather(1, chosen_classes)
        right += torch.stack([ranked[:, 0].sum(), ranked.any(1).sum()]).double()
    top1, top5 = (100 * right / count).tolist()
    return top1, top5


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """(images, classes), of images in the dtype of the network.

    Raises:
        TrainingError: the network fails, or gives something else.
    """
    dtypes = {parameter.dtype for parameter in network.parameters() if parameter.is_floating_point()}
    shape = tuple(images.shape)
    try:
        logits = main_logits(network(images.to(dtypes.pop()) if len(dtypes) == 1 else images))
    except Exception as error:  # whatever the network raises
        raise TrainingError(f"the network fails on images of shape {shape}: {in_words(error)}") from error
    found = (tuple(logits.shape), logits.dtype) if isinstance(logits, Tensor) else type(logits).__name__
    is_number = isinstance(logits, Tensor) and logits.dtype != torch.bool and not logits.is_complex()
    if not is_number or logits.ndim != 2 or len(logits) != len(images) or not logits.shape[1]:
        raise TrainingError(
            f"the network gives {found} for images of shape {shape}; numbers ({len(images)}, classes) are accepted"
        )
    return logits


def check_network(network: object) -> None:
    if not isinstance(network, nn.Module):
        raise TrainingError(f"the network is {network!r:.80}; a torch.nn.Module is accepted")


def check_images(what: str, images: object) -> None:
    if not isinstance(images, Images):
        raise TrainingError(
            f"{what} is a {type(images).__name__}; images are accepted, such as train, val, test and calibration of "
            "what ghnfast.training.load_data gives"
        )


def check_statistics(name: str) -> None:
    if name not in STATISTICS:
        names = " and ".join(map(repr, STATISTICS))
        raise TrainingError(f"batch_statistics is {name!r}; {names} are accepted")


def check_batches(batch_statistics: str, **counts: int) -> None:
    """One image may be one value for a channel, which has no variance."""
    for name, value in counts.items():
        if batch_statistics == "batch" and value == 1:
            raise TrainingError(
                f"{name} is 1, and one image has no batch statistics; 2 or more, or the batch statistics "
                "'recalibrated', are accepted"
            )


def number_of(images: Images, limit: int | None) -> int:
    return len(images) if limit is None else min(limit, len(images))


def batches_in_order(images: Images, size: int, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many images; in an order that is the same every time, so that batches hold all classes.

    A single image that is left in the end is in the batch before it: it has no batch statistics.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0), device=CPU)[:count].tolist()
    starts = list(range(0, count, size))
    if size > 1 and len(starts) > 1 and count % size == 1:
        del starts[-1]
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        yield images.batch(order[start:stop], 0)


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def no_change() -> Iterator[None]:
    yield


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Within it, a network is in evaluation mode; afterwards each of its modules is in the mode that it had."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def statistics_of_batches(network: nn.Module) -> Iterator[None]:
    """Within it, batch normalization uses the statistics of each batch, and leaves its running ones as they are."""
    layers = batch_norms(network)
    kept = [(layer.track_running_stats, layer.running_mean, layer.running_var) for layer in layers]
    for layer in layers:
        layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    try:
        yield
    finally:
        for layer, (tracks, mean, variance) in zip(layers, kept, strict=True):
            layer.track_running_stats, layer.running_mean, layer.running_var = tracks, mean, variance


def recalibrated(
    network: nn.Module, batches: Batches, device: torch.device | str = "cpu", count: int = CALIBRATION_BATCHES
) -> nn.Module:
    """A copy of a network whose batch statistics are those of some batches of training images, in evaluation mode.

    Layers without running statistics get some. Those that are not finite are written, too: what such a network says is
    wrong, as it is with the statistics of batches.

    Raises:
        TrainingError: an argument is something else.
        CalibrationError: the network fails on the images.
    """
    check_network(network)
    if not isinstance(batches, Batches):
        raise TrainingError(f"batches is a {type(batches).__name__}; ghnfast.training.data.Batches are accepted")
    check_count("count", count)
    device = device_of(device)
    network = copy.deepcopy(network)
    for layer in batch_norms(network):
        if layer.running_mean is None:
            layer.track_running_stats = True
            for name, value in (("running_mean", 0.0), ("running_var", 1.0)):
                setattr(layer, name, torch.full((layer.num_features,), value, device=device))
            layer.num_batches_tracked = torch.zeros((), dtype=torch.long, device=device)
    images = (placed(batches[number][0], device) for number in range(min(count, batches.per_epoch)))
    with in_memory():
        write(gather(network, images))
    return network.eval()
