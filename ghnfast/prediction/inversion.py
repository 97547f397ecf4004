"""Weights that a model computes from parameters: from the predicted weight to these parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.weight_norm import WeightNorm

from ..errors import PredictError
from ..files import in_words
from ..graph import Reparametrization
from ..randomness import SEED, PrivateRandom
from ..tracing.members import Members
from ..tracing.parts import groups_of


class Inversion(NamedTuple):
    """A weight that is predicted in memory of its own.

    owner: the module that has the weight. values: what is predicted, in the weight's shape.
    """

    owner: nn.Module
    weight: Reparametrization
    values: Tensor

    def writes(self) -> list[tuple[Tensor, Tensor]]:
        """The model's own tensors, and what they have to be for the module's weight to be the predicted one.

        Where a weight is constrained (to be orthogonal, say), it is what torch's right inverse makes of the prediction.

        Raises:
            PredictError: it cannot be computed.
        """
        try:
            with torch.no_grad(), PrivateRandom(torch.Generator(self.values.device).manual_seed(SEED)):
                return self.inverted()
        except Exception as error:
            raise PredictError(
                f"{', '.join(self.weight.originals)} cannot be computed from the predicted {self.weight.tensor}: "
                f"{in_words(error)}. No parameter was changed."
            ) from error

    def inverted(self) -> list[tuple[Tensor, Tensor]]:
        parametrizations: Any = getattr(self.owner, "parametrizations", {})
        if self.weight.tensor not in parametrizations:
            return self.inverted_hook()
        own = parametrizations[self.weight.tensor]
        tried = copy.deepcopy(own).train()
        tried.right_inverse(self.values.clone())
        settle(tried, tried)
        return differences(own, tried)

    def inverted_hook(self) -> list[tuple[Tensor, Tensor]]:
        """Of torch's older weight normalization, w = g v / |v|, and spectral normalization."""
        name = self.weight.tensor
        hook: Any = next(hook for hook in self.owner._forward_pre_hooks.values() if getattr(hook, "name", None) == name)
        own: Any = self.owner
        tried = nn.Module()
        for suffix in ("_g", "_v", "_u", "_orig"):
            if isinstance(tensor := getattr(own, name + suffix, None), Tensor):
                tried.register_buffer(name + suffix, tensor.detach().clone())
        if isinstance(hook, WeightNorm):
            getattr(tried, f"{name}_g").copy_(torch.norm_except_dim(self.values, 2, hook.dim))
            getattr(tried, f"{name}_v").copy_(self.values)
            made = hook.compute_weight(tried)
        else:
            getattr(tried, f"{name}_orig").copy_(self.values)
            settle(tried, lambda: hook.compute_weight(tried, do_power_iteration=True))
            made = hook.compute_weight(tried, do_power_iteration=False)
        pairs = [(getattr(own, key).detach(), tensor) for key, tensor in tried.named_buffers()]
        # What the hook made before the last forward, and will make again before the next. Before the first, spectral
        # normalization has what it computes from there.
        current = getattr(own, name, None)
        if not isinstance(current, Tensor) or any(is_in_one_memory(current, place) for place, _ in pairs):
            return pairs
        return [*pairs, (current.detach(), made)]


def inversions_for(
    model: nn.Module, members: Members, weight: Reparametrization, values: Tensor
) -> Iterator[Inversion]:
    """The inversion of a weight, and those of others that are computed from the same parameter: of tied weights."""
    yield Inversion(model.get_submodule(weight.module), weight, values)
    for group in groups_of(members) if len(weight.originals) == 1 else ():
        names = tuple(members.names[index] for index in group.originals)
        other = Reparametrization(group.module, group.tensor, names)
        # What the others compute from becomes the same; they keep estimates of its norm.
        if group.is_plain and names == weight.originals and other != weight:
            yield Inversion(model.get_submodule(other.module), other, values)


def is_in_one_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def reason_to_keep(owner: nn.Module, tensor: str, shape: tuple[int, ...]) -> str | None:
    """Why what a weight is computed from cannot be computed from it, as it says itself; None where it can."""
    parametrizations: Any = getattr(owner, "parametrizations", {})
    if tensor not in parametrizations:
        return None
    own = parametrizations[tensor]
    like = next(iter(own.parameters()))
    generator = torch.Generator(like.device).manual_seed(SEED)
    try:
        with torch.no_grad(), PrivateRandom(generator):
            copy.deepcopy(own).right_inverse(torch.randn(shape, dtype=like.dtype, device=like.device))
    except NotImplementedError as error:
        return f"its layer uses a function of it, whose right_inverse says: {in_words(error)}"
    except Exception:
        # Whatever it says of these values, that it has an inverse is not denied. What it says of the predicted ones is
        # an error of the prediction (`Inversion.writes`).
        return None
    return None


# Of the power method: torch takes 15 where it has no estimate yet, after which one in 24 random matrices of 10 rows is
# off by a hundredth or more. Where vectors change by less than this in a step, the norm that they estimate is right to
# its square, about.
MOST_STEPS, SETTLED = 200, 1e-4


def settle(module: nn.Module, compute: Callable[[], Any]) -> None:
    """Compute a weight until what a module keeps for that (vectors of a power method) hardly changes."""
    for _ in range(MOST_STEPS):
        before = [buffer.clone() for buffer in module.buffers()]
        compute()
        if all(map(is_settled, before, module.buffers())):
            return


def is_settled(before: Tensor, after: Tensor) -> bool:
    if not after.is_floating_point():
        return torch.equal(before, after)
    return bool((after - before).norm() <= SETTLED * after.norm())


def differences(own: nn.Module, tried: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The tensors of a module, and what a copy of it has in their places."""
    before = dict([*own.named_parameters(), *own.named_buffers()])
    after = dict([*tried.named_parameters(), *tried.named_buffers()])
    if {name: tensor.shape for name, tensor in before.items()} != {
        name: tensor.shape for name, tensor in after.items()
    }:
        raise PredictError("its right_inverse gives tensors of other shapes")
    broken = [name for name, tensor in after.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise PredictError(f"its right_inverse gives values that are not finite ({broken[0]})")
    return [(tensor.detach(), after[name].detach()) for name, tensor in before.items()]
