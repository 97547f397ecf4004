"""What makes predicted parameters better to start training from: a little noise, and orthogonal weights.

Source: Pretraining a Neural Network before Knowing Its Architecture (Knyazev, 2022).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .errors import ConfigError, PredictError
from .files import in_words
from .graph import PREDICTED_DTYPES, Reparametrization
from .memory import has_common_elements, is_distributed, is_same_memory, keeps_no_elements, unwritable
from .ops.decode import copy_all
from .prediction.inversion import Inversion, reason_to_keep
from .tracing.members import members_of
from .tracing.parts import Group, reparametrizations_of

Model = TypeVar("Model", bound=nn.Module)
MOST_SEED = (1 << 64) - 1
BIG = 1_000_003  # a prime: seeds and the numbers of weights are mixed with it
BLOCK = 1 << 22  # numbers of a weight that are looked at at once, in float64
LAYERS, CONTAINERS = "torch.nn.modules.", "torch.nn.modules.container"


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
        PredictError: a weight is not finite, has no memory that can be written, or shares a part of it with another.
            The model is as it was.
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
    return model


def check_arguments(model: Any, orth: Any, beta: Any, layer: Any, seed: Any) -> None:
    if not isinstance(model, nn.Module):
        raise ConfigError(f"the model is a {type(model).__name__}; a torch.nn.Module is accepted")
    if not isinstance(orth, bool):
        raise ConfigError(f"orth is {orth!r:.80}; True or False is accepted")
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < math.inf:
        raise ConfigError(f"beta is {beta!r:.80}; 0 or more is accepted")
    if isinstance(layer, bool) or not isinstance(layer, int) or layer < 1:
        raise ConfigError(f"layer is {layer!r:.80}; 1, for all weights, or more is accepted")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MOST_SEED:
        raise ConfigError(f"seed is {seed!r:.80}; 0 to 2^64 - 1 are accepted")


# Which weights --------------------------------------------------------------------------------------------------------


class Weight(NamedTuple):
    """A weight of a model.

    originals: the parameter that it is, or those that it is computed from as `group` says, by name.
    is_kept: it is counted, and stays as it is.
    """

    originals: Mapping[str, Tensor]
    group: Group | None = None
    is_kept: bool = False

    @property
    def name(self) -> str:
        return next(iter(self.originals))

    @property
    def tensor(self) -> Tensor:
        return self.originals[self.name]


def weights_of(model: nn.Module) -> list[Weight]:
    """The weights of a model in order, each once; the classifier is not among them.

    Raises:
        PredictError: two weights share a part of their memory.
    """
    members = members_of(model)
    groups = reparametrizations_of(members)
    found: list[Weight] = []
    by_parameter: dict[int, Weight] = {}  # which weight each parameter belongs to
    for index, (name, parameter) in enumerate(zip(members.names, members.parameters, strict=True)):
        group = groups.get(index)
        if group is not None and index != min(group.originals):
            continue
        if not is_weight(model, name, parameter, group):
            continue
        weight = tied_to(found, name, parameter) if group is None else None
        if weight is None:
            numbers = (index,) if group is None else group.originals
            originals = {members.names[each]: members.parameters[each] for each in numbers}
            weight = Weight(originals, group, group is not None and is_kept(model, group))
            found.append(weight)
        by_parameter.update((id(each), weight) for each in (parameter, *weight.originals.values()))
    named = model.named_parameters(remove_duplicate=False)  # a tied weight's last place is what counts here
    places = [by_parameter[id(parameter)] for _, parameter in named if id(parameter) in by_parameter]
    return [weight for weight in found if not places or weight is not places[-1]]


def is_weight(model: nn.Module, name: str, parameter: Tensor, group: Group | None) -> bool:
    """Whether a parameter, or what is computed from its group, is a matrix that a layer multiplies with."""
    if torch.nn.parameter.is_lazy(parameter):
        raise PredictError(f"the parameter {name} has no shape yet: it is lazy; a model that has run once is accepted")
    if parameter.dtype not in PREDICTED_DTYPES or parameter.layout is not torch.strided:
        return False
    if group is not None:
        return computed(model, group).ndim >= 2
    path, _, own = name.rpartition(".")
    if parameter.ndim < 2 or parameter.numel() == 0 or keeps_no_elements(parameter) or "bias" in own:
        return False
    layer = model.get_submodule(path)
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        return False
    rows, columns = len(parameter), parameter.numel() // len(parameter)
    return (rows > 1 and columns > 1) or is_of_torch(layer)


def is_of_torch(layer: nn.Module) -> bool:
    """Whether a module is a layer of torch, or of a class derived from one."""
    bases = {base.__module__ for base in type(layer).__mro__ if base is not nn.Module}
    return any(base.startswith(LAYERS) and base != CONTAINERS for base in bases)


def tied_to(weights: Sequence[Weight], name: str, parameter: Tensor) -> Weight | None:
    """The weight whose memory is that of a parameter, too.

    Raises:
        PredictError: a weight shares a part of it.
    """
    storage = storage_of(parameter)
    for weight in weights:
        if storage is None or storage_of(weight.tensor) != storage:
            continue
        if is_same_memory(weight.tensor, parameter):
            return weight
        if has_common_elements([weight.tensor, parameter]):
            raise PredictError(
                f"the parameters {weight.name} and {name} share a part of their memory; parameters that share all of "
                "it or nothing are accepted"
            )
    return None


def storage_of(tensor: Tensor) -> int | None:
    """Where the memory of a tensor begins; None where it has none of its own."""
    if tensor.is_meta or is_distributed(tensor):
        return None
    return tensor.untyped_storage().data_ptr()


def is_kept(model: nn.Module, group: Group) -> bool:
    """Whether a weight cannot be brought back to what it is computed from."""
    if group.reason:
        return True
    shape = tuple(computed(model, group).shape)
    return reason_to_keep(model.get_submodule(group.module), group.tensor, shape) is not None


def computed(model: nn.Module, group: Group) -> Tensor:
    """The weight that a module computes, which changes nothing in it."""
    owner: Any = model.get_submodule(group.module)
    parametrizations: Any = getattr(owner, "parametrizations", {})
    if group.tensor in parametrizations:
        return copy.deepcopy(parametrizations[group.tensor]).eval()()
    hook: Any = next(hook for hook in owner._forward_pre_hooks.values() if getattr(hook, "name", None) == group.tensor)
    if hasattr(owner, f"{group.tensor}_g"):
        return hook.compute_weight(owner)
    return hook.compute_weight(owner, do_power_iteration=False)


# What becomes of them -------------------------------------------------------------------------------------------------


def processed(
    model: nn.Module, weight: Weight, orth: bool, beta: float, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """The tensors of the model that a weight consists of, and what they become.

    Raises:
        PredictError: see `postprocess`.
    """
    group = weight.group
    for name, parameter in weight.originals.items():
        if is_distributed(parameter):
            raise PredictError(f"the parameter {name} is spread over several processes (DTensor)")
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
    owner = model.get_submodule(group.module)
    return Inversion(owner, Reparametrization(group.module, group.tensor, tuple(weight.originals)), after).writes()


def transformed(weight: Tensor, orth: bool, beta: float, generator: torch.Generator) -> Tensor:
    """A weight with noise, and orthogonal, in new memory; see `postprocess`."""
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    rows = weight.reshape(len(weight), -1)
    is_wide = rows.shape[0] < rows.shape[1]
    matrix = (rows.T if is_wide else rows).to(dtype, copy=True, memory_format=torch.contiguous_format)
    if beta > 0:
        noise = torch.randn(matrix.shape, generator=generator, dtype=dtype, device="cpu").to(matrix.device)
        matrix.add_(noise.mul_(beta * correlation_deviation(matrix)))
        del noise
    if orth:
        matrix = orthogonal(matrix)
    return (matrix.T if is_wide else matrix).reshape(weight.shape)


def correlation_deviation(matrix: Tensor) -> float:
    """The standard deviation of `corrcoef` of the rows of a matrix (n, m), without making that (n, n).

    With rows z of mean 0 and norm 1, the correlations are Z Z'. Their sum is the squared norm of the sum of the rows,
    and the sum of their squares that of the squares of the Gram matrix Z' Z, which is (m, m).
    """
    columns = matrix.shape[1]
    total = torch.zeros(columns, dtype=torch.float64, device=matrix.device)
    gram = torch.zeros(columns, columns, dtype=torch.float64, device=matrix.device)
    rows = 0
    for block in matrix.split(max(1, BLOCK // columns)):
        block = block[block.amax(1) != block.amin(1)].double()
        block /= block.abs().amax(1, keepdim=True)
        block -= block.mean(1, keepdim=True)
        block /= block.abs().amax(1, keepdim=True)  # the squares of small numbers would be zero
        block /= torch.linalg.vector_norm(block, dim=1, keepdim=True)
        gram.addmm_(block.T, block)
        total += block.sum(0)
        rows += len(block)
    count = rows**2
    if count < 2:
        return 0.0
    squares = gram.square_().sum() - total.dot(total).square() / count
    return math.sqrt(max(float(squares), 0.0) / (count - 1))


def orthogonal(matrix: Tensor) -> Tensor:
    """Orthonormal columns, from the first to the last column of a matrix (n, m), n >= m: Q times the signs of R."""
    q, r = torch.linalg.qr(matrix)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    return q.mul_(signs)
