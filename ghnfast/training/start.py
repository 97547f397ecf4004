"""Where training starts: a GHN whose networks pass their channels on.

What a GHN predicts at random initialization are kernels that are nearly constant over their cells, the same in every
layer: its networks see little but the mean of an image. Larger random weights do not help, for they mix channels in
another way in every architecture, and the gradients of different networks then have nothing in common. With the
identity in every convolution (Dirac initialization; Zagoruyko and Komodakis, DiracNets, 2017) and every linear layer,
channel c means the same wherever it arrives, in every network: what one of them teaches helps the others.

In networks without normalization what the GHN predicts otherwise would drown the image or grow beyond all bounds: less
of it stays there, and each layer's target has the scale that gives its output the size 1 (Mishkin and Matas, "All you
need is a good init", 2016).
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TrainingError
from ..graph import PRIMITIVES
from ..nn import GHN
from ..progress import Progress
from ..randomness import drawing_from
from . import optimizers
from .data import BIG
from .networks import MetaBatches, Net, Nets, run_network

GAIN = 0.7  # the norm of the kernel of a channel; larger ones change their direction more slowly
KEPT = 0.3  # how much stays of what the GHN predicts otherwise, in networks without normalization
RATE, WARMUP, GRAD_CLIP = 2e-3, 20, 1.0
NETWORKS, MAX_NODES = 4, 2200
PLAIN, SEARCHED = 64, 4000  # networks without normalization: so many, among the first ones; one in each step
FIRST_CHANNELS = 3  # a kernel with so many inputs reads the image
LEAST_NORMS = 0.3  # for each kernel: a ConvNeXt has one for three
NORMS = [PRIMITIVES.index(name) for name in ("bn", "ln")]
IMAGES, LARGEST_SCALE = 2, 8.0


def start_from_identity(ghn: GHN, dataset: Nets, steps: int, seed: int, progress: Progress | None = None) -> float:
    """Teach a GHN, by regression, to add to what it predicts the identity in kernels of convolutions.

    The same is added to linear layers, but for those that end in classes. Kernels that read images become smooth
    filters that are drawn once. Everything else stays near what the GHN predicts as it is. A step is a forward and a
    backward pass of the GHN for a few graphs; networks are run only where they have no normalization, on noise.

    Args:
        ghn: changed in place.
        dataset: whose networks' graphs.
        steps: a few hundred are enough.
        seed: of the networks' order and the filters.
        progress: called with 1 after each step.

    Returns:
        What is left of the distance to the identities in the last step, squared, relative to their norm.

    Raises:
        TrainingError: the error is not finite in the end.
    """
    first = copy.deepcopy(ghn)
    networks = MetaBatches(dataset, NETWORKS, MAX_NODES, seed)
    optimizer = optimizers.Adam(ghn.parameters(), RATE)
    goal = Goal(ghn, seed)
    plain = itertools.cycle(goal.without_normalization(dataset)) if steps else iter(())
    left = 1.0
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        nets = [dataset[index] for index in networks.chosen(step)]
        nets[-1:] = [next(plain, nets[-1])]
        graphs = [net.graph for net in nets]
        with drawing_from(seed * BIG + step):  # parts of one's own may draw
            with torch.no_grad():
                before = first(graphs)
            after = ghn(graphs)
        distances, changes = [], []
        for net, predicted, own in zip(nets, after, before, strict=True):
            targets = goal.of(net, own)
            for name, value in predicted.items():
                if name in targets:
                    distances.append(distance_to(value, targets[name]))
                else:
                    changes.append((value - own[name]).square().mean() / own[name].square().mean().clamp(min=1e-3))
        distance = torch.stack(distances).mean()
        optimizer.zero_grad(set_to_none=True)
        (distance + torch.stack(changes).mean()).backward()
        torch.nn.utils.clip_grad_norm_(ghn.parameters(), GRAD_CLIP)
        optimizer.step()
        left = float(distance.detach())
        if progress is not None:
            progress(1)
    if not math.isfinite(left):
        raise TrainingError(f"identity_steps is {steps}, and the GHN's error is {left} after them")
    return left


class Goal:
    """What a GHN is taught to predict before training."""

    def __init__(self, ghn: GHN, seed: int) -> None:
        self.device, self.tile = ghn.primitive_embedding.weight.device, ghn.settings.max_shape[:2]
        self.num_classes, self.seed = ghn.num_classes, seed

    def of(self, net: Net, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """For each kernel and linear layer of a network, what is to be predicted.

        Args:
            own: what the GHN predicts as it is.
        """
        found = {}
        for name, value in own.items():
            target = identity_for(name, tuple(value.shape), self.tile, self.num_classes, self.seed)
            if target is not None:
                found[name] = target.to(value)
        if not is_plain(net):
            return {name: centred(own[name]) + target for name, target in found.items()}
        whole = {name: KEPT * centred(own[name]) + target / GAIN for name, target in found.items()}
        scales = self.scales(net, {**own, **whole}, list(whole))
        return {name: value * scales.get(name, 1.0) for name, value in whole.items()}

    def scales(self, net: Net, parameters: Mapping[str, Tensor], names: list[str]) -> dict[str, float]:
        """By which the weights of these names are multiplied, so that their layers' outputs have the size 1."""
        network = net.build(light=True).eval()
        scales: dict[str, float] = {}

        def watch(name: str) -> None:
            def rescale(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
                if name not in scales:
                    size = float(output.square().mean().sqrt())
                    scale = 1 / size if 0 < size < math.inf else 1.0
                    scales[name] = min(max(scale, 1 / LARGEST_SCALE), LARGEST_SCALE)
                return output * scales[name]

            network.get_submodule(name.removesuffix(".weight")).register_forward_hook(rescale)

        layers = {name for name, module in network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
        for name in names:
            if name.removesuffix(".weight") in layers:
                watch(name)
        with torch.no_grad(), drawing_from(self.seed):
            run_network(
                network, net.graph, parameters, noise(net.input_shape, self.seed).to(next(iter(parameters.values())))
            )
        return scales

    @staticmethod
    def without_normalization(dataset: Nets) -> Iterator[Net]:
        """The first networks of a data set that have no normalization."""
        found = (dataset[index] for index in range(min(SEARCHED, len(dataset))))
        return itertools.islice(filter(is_plain, found), PLAIN)


def centred(kernel: Tensor) -> Tensor:
    """Kernels without the mean of each: what passes on the mean of all channels grows from layer to layer."""
    inner = tuple(range(1, kernel.dim()))
    return kernel - kernel.mean(inner, keepdim=True)


def distance_to(value: Tensor, target: Tensor) -> Tensor:
    """Squared, relative to the target's size; errors of one sign weigh as much as they act, for they add up."""
    error = value - target
    return (error.square().sum() + error.flatten(1).sum(1).square().sum()) / target.square().sum()


def is_plain(net: Net) -> bool:
    """Whether a network has no normalization, or next to none: attention brings its own into any network."""
    graph = net.graph
    norms = int(np.isin(graph.primitives, NORMS).sum())
    kernels = int((graph.shape_table[:, 1:] > 1).any(1).sum())
    return norms < LEAST_NORMS * kernels


@functools.lru_cache(maxsize=4)
def noise(shape: tuple[int, int, int], seed: int) -> Tensor:
    """(IMAGES, *shape) float32: grey random fields of mean 0 and deviation 1, smooth as images are."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(IMAGES, 1, height + 4, width + 4, generator=generator, dtype=torch.float32)
    return (F.avg_pool2d(drawn, 5, 1) * 5).expand(-1, channels, -1, -1).contiguous()


@functools.lru_cache(maxsize=4096)
def identity_for(
    name: str, shape: tuple[int, ...], tile: tuple[int, int], num_classes: int, seed: int
) -> Tensor | None:
    """What is added to a parameter of this name and shape, in float32; None for what stays as it is.

    Channels beyond `tile`, which the GHN repeats, are those that they repeat.
    """
    is_kernel = len(shape) == 4 and shape[0] > 1  # one row of channels: an encoding of positions
    is_linear = len(shape) == 2 and name.endswith("weight") and shape[0] != num_classes
    if not is_kernel and not is_linear:
        return None
    rows, columns, height, width = (*shape, 1, 1)[:4]
    if is_kernel and columns == FIRST_CHANNELS:
        filters = smooth_filters(height, width, tile[0], seed)
        return GAIN * filters[torch.arange(rows) % tile[0]][:, None].expand(shape) / FIRST_CHANNELS**0.5
    count = min(rows, columns, *tile)
    outputs, inputs = torch.arange(rows) % tile[0] % count, torch.arange(columns) % tile[1] % count
    matrix = (outputs[:, None] == inputs[None]).float()
    target = torch.zeros(rows, columns, height, width, dtype=torch.float32)
    target[:, :, height // 2, width // 2] = GAIN * F.normalize(matrix, dim=1)
    return target.view(shape)


def smooth_filters(height: int, width: int, count: int, seed: int) -> Tensor:
    """(count, height, width): random filters of norm 1, each a random field that is averaged over 3 x 3 cells.

    Most of their mean is taken away, so that they see edges more than brightness.
    """
    size = max(height, width, 11)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 1, size + 2, size + 2, generator=generator, dtype=torch.float32)
    field = F.avg_pool2d(noise, 3, 1)[:, 0]
    down, right = (size - height) // 2, (size - width) // 2
    filters = field[:, down : down + height, right : right + width]
    filters = filters - 0.7 * filters.mean((1, 2), keepdim=True)
    return F.normalize(filters.flatten(1), dim=1).view_as(filters)
