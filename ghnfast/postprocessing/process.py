"""`postprocess`: its arguments, and writing all weights or none."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError, PredictError
from ..files import in_words
from ..graph import Reparametrization
from ..memory import unwritable
from ..ops.decode import copy_all
from ..plain import with_plain_numbers
from ..prediction.inversion import inversions_for
from ..tracing.cached import forget_weights
from ..tracing.members import members_of
from .matrices import transformed
from .weights import Weight, computed, weights_of

Model = TypeVar("Model", bound=nn.Module)
MOST_SEED = (1 << 64) - 1
BIG = 1_000_003  # a prime: seeds and the numbers of weights are mixed with it


@with_plain_numbers
def postprocess(model: Model, orth: bool = True, beta: float = 3e-5, layer: int = 1, seed: int = 0) -> Model:
    """Add a little noise to the weights of a model, and make them orthogonal, in place: before fine-tuning.

    A GHN repeats blocks of 64 x 64 channels in wide layers, so predicted weights have few independent rows. Noise tells
    the copies apart, and orthogonal rows or columns keep the scale of what passes through. Each weight is a matrix M
    (first dimension, all others), transposed where it is wider than tall. First

        M += beta * std(corrcoef(M)) * N(0, 1),

    the standard deviation of all correlations of two rows (unbiased, as `torch.std`); then QR = M, and M becomes Q,
    each column times the sign of R's diagonal, in the shape that the weight had.

    **Which weights.** Parameters of two or more dimensions, in the order of `model.named_parameters()`, frozen ones
    included, tied ones once and at their first place. A weight that torch computes from parameters (parametrizations,
    weight and spectral normalization) counts as one; where it has no right inverse, it is kept. Not counted are
    parameters that are no matrices for all their dimensions: weights of normalization layers; biases and tables called
    so; and, outside of torch's own layers, what has one row or one column (class tokens, encodings of positions, scales
    of layers). In convolutions with groups the matrix is (out, in / groups * cells).

    **Not the classifier**: the last weight in this order, whatever layer it is of (a convolution in SqueezeNet), also
    where it is tied to an earlier one (an embedding). Of several heads only the last is known to be one: others, and
    auxiliary ones, are weights like all.

    **What has no correlations.** Rows of equal numbers have none (numpy's corrcoef makes them NaN): they are left out
    of the standard deviation. Where fewer than two correlations are left, there is no noise. Weights without full rank,
    all zeros included, become orthogonal, too: a zero on R's diagonal has the sign +1.

    Computed in float32, in float64 for float64 weights and for the standard deviation. The correlations of an (n, m)
    matrix, n >= m, are not made: their sums follow from an (m, m) matrix. Memory: the processed weights once more;
    beside them, for one weight at a time, three times its numbers in float32, an (m, m) matrix of float64 and 128 MiB.

    Args:
        model: on any device; its weights in float32, float64, float16 or bfloat16.
        orth: whether weights become orthogonal.
        beta: the scale of the noise; 0 for none.
        layer: the first weight that is processed, counted from 1; past the last one, nothing is.
        seed: of the noise, which is the same on every device and does not depend on the other weights. Global
            generators are neither read nor changed.

    Returns:
        The model that was given.

    Raises:
        ConfigError: an argument is out of range.
        PredictError: a weight is not finite, has no memory that can be written, or shares a part of it with another;
            or is in TorchScript. The model is as it was.
    """
    check_arguments(model, orth, beta, layer, seed)
    if not orth and beta == 0:
        return model
    places: list[Tensor] = []
    values: list[Tensor] = []
    with torch.no_grad(), torch.autocast("cuda", enabled=False), torch.autocast("cpu", enabled=False):
        weights = weights_of(model)
        for number, weight in enumerate(weights, start=1):
            if number < layer or weight.is_kept:
                continue
            generator = torch.Generator().manual_seed((seed * BIG + number) % (1 << 62))
            for place, value in processed(model, weight, orth, beta, generator):
                places.append(place)
                values.append(value)
        copy_all(places, values)
    forget_weights(model.modules())
    return model


def check_arguments(model: Any, orth: Any, beta: Any, layer: Any, seed: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the model is a {type(model).__name__}; a torch.nn.Module is accepted")
    if not isinstance(orth, bool):
        raise ConfigError(f"orth is {orth!r:.80}; True or False is accepted")
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < math.inf:
        raise ConfigError(f"beta is {beta!r:.80}; 0 or more is accepted")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and next(module.parameters(), None) is not None:
            raise PredictError(f"the module {name!r} is TorchScript; the model before it was compiled is accepted")
    if isinstance(layer, bool) or not isinstance(layer, int) or layer < 1:
        raise ConfigError(f"layer is {layer!r:.80}; 1, for all weights, or more is accepted")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MOST_SEED:
        raise ConfigError(f"seed is {seed!r:.80}; 0 to 2^64 - 1 are accepted")


def processed(
    model: nn.Module, weight: Weight, orth: bool, beta: float, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """The tensors of the model that a weight consists of, and what they become.

    Raises:
        PredictError: see `postprocess`.
    """
    group = weight.group
    for name, parameter in weight.originals.items():
        if (reason := unwritable(parameter)) is not None:
            raise PredictError(f"the parameter {name} {reason}")
    try:
        before = weight.tensor.detach() if group is None else computed(model, group)
        if not before.isfinite().all():
            raise PredictError(f"the weight {weight.name} is not finite; finite ones are accepted")
        after = transformed(before, orth, beta, generator).to(before.dtype)
        if not after.isfinite().all():
            raise PredictError(f"beta is {beta}, with which the weight {weight.name} is not finite")
    except RuntimeError as error:
        if isinstance(error, PredictError):
            raise
        raise PredictError(f"the weight {weight.name} cannot be processed: {in_words(error)}") from error
    if group is None:
        return [(weight.tensor.detach(), after)]
    own = Reparametrization(group.module, group.tensor, tuple(weight.originals))
    inversions = inversions_for(model, members_of(model), own, after)
    return [pair for inversion in inversions for pair in inversion.writes()]
