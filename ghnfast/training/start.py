"""Where training starts: a GHN whose networks pass their channels on.

What a GHN predicts at random initialization are kernels that are nearly constant over their cells, the same in every
layer: its networks see little but the mean of an image. Larger random weights do not help, for they mix channels in
another way in every architecture, and the gradients of different networks then have nothing in common. With the
identity in every convolution (Dirac initialization; Zagoruyko and Komodakis, DiracNets, 2017), channel c means
the same wherever it arrives, in every network: what one of them teaches helps the others.
"""

from __future__ import annotations

import copy
import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TrainingError
from ..nn import GHN
from .networks import MetaBatches, Nets

GAIN = 0.7  # the norm of the kernel of a channel; larger ones change their direction more slowly
RATE, WARMUP, GRAD_CLIP = 2e-3, 20, 1.0
NETWORKS, MAX_NODES = 4, 2200
FIRST_CHANNELS = 3  # a kernel with so many inputs reads the image


def start_from_identity(ghn: GHN, dataset: Nets, steps: int, seed: int) -> float:
    """Teach a GHN, by regression, to add to what it predicts the identity in kernels of convolutions.

    The same is added to the hidden layers of classifiers. Kernels that read images become smooth filters that are
    drawn once. Everything else stays near what the GHN predicts as it is. No network is run: a step is a forward and
    a backward pass of the GHN for a few graphs.

    Args:
        ghn: changed in place.
        dataset: whose networks' graphs.
        steps: a few hundred are enough.
        seed: of the networks' order and the filters.

    Returns:
        What is left of the distance to the identities in the last step, squared, relative to their norm.

    Raises:
        TrainingError: the error is not finite in the end.
    """
    first = copy.deepcopy(ghn)
    networks = MetaBatches(dataset, NETWORKS, MAX_NODES, seed)
    optimizer = torch.optim.Adam(ghn.parameters(), RATE)
    device, tile = ghn.primitive_embedding.weight.device, ghn.settings.max_shape[:2]
    left = 1.0
    for step in range(steps):
        rate = RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        graphs = [dataset[index].graph for index in networks.chosen(step)]
        with torch.no_grad():
            before = first(graphs)
        distances, changes = [], []
        for predicted, own in zip(ghn(graphs), before, strict=True):
            for name, value in predicted.items():
                target = identity_for(name, tuple(value.shape), tile, ghn.num_classes, seed)
                if target is None:
                    changes.append((value - own[name]).square().mean() / own[name].square().mean().clamp(min=1e-3))
                else:
                    target = target.to(device)
                    distances.append((value - own[name] - target).square().sum() / target.square().sum())
        distance = torch.stack(distances).mean()
        optimizer.zero_grad(set_to_none=True)
        (distance + torch.stack(changes).mean()).backward()
        torch.nn.utils.clip_grad_norm_(ghn.parameters(), GRAD_CLIP)
        optimizer.step()
        left = float(distance.detach())
    if not math.isfinite(left):
        raise TrainingError(f"identity_steps is {steps}, and the GHN's error is {left} after them")
    return left


@functools.lru_cache(maxsize=4096)
def identity_for(
    name: str, shape: tuple[int, ...], tile: tuple[int, int], num_classes: int, seed: int
) -> Tensor | None:
    """What is added to a parameter of this name and shape; None for what stays as it is.

    Channels beyond `tile`, which the GHN repeats, are those that they repeat.
    """
    is_kernel = len(shape) == 4 and shape[0] > 1  # one row of channels: an encoding of positions
    is_hidden_layer = len(shape) == 2 and name.startswith("classifier.") and shape[0] != num_classes
    if not is_kernel and not is_hidden_layer:
        return None
    rows, columns, height, width = (*shape, 1, 1)[:4]
    if is_kernel and columns == FIRST_CHANNELS:
        filters = smooth_filters(height, width, tile[0], seed)
        return GAIN * filters[torch.arange(rows) % tile[0]][:, None].expand(shape) / FIRST_CHANNELS**0.5
    count = min(rows, columns, *tile)
    outputs, inputs = torch.arange(rows) % tile[0] % count, torch.arange(columns) % tile[1] % count
    matrix = (outputs[:, None] == inputs[None]).float()
    target = torch.zeros(rows, columns, height, width)
    target[:, :, height // 2, width // 2] = GAIN * F.normalize(matrix, dim=1)
    return target.view(shape)


def smooth_filters(height: int, width: int, count: int, seed: int) -> Tensor:
    """(count, height, width): random filters of norm 1, each a random field that is averaged over 3 x 3 cells.

    Most of their mean is taken away, so that they see edges more than brightness.
    """
    size = max(height, width, 11)
    noise = torch.randn(count, 1, size + 2, size + 2, generator=torch.Generator().manual_seed(seed))
    field = F.avg_pool2d(noise, 3, 1)[:, 0]
    down, right = (size - height) // 2, (size - width) // 2
    filters = field[:, down : down + height, right : right + width]
    filters = filters - 0.7 * filters.mean((1, 2), keepdim=True)
    return F.normalize(filters.flatten(1), dim=1).view_as(filters)
