"""Which parameters of a model are weights, and which weight is the classifier's; see `postprocess`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import PredictError
from ..graph import PREDICTED_DTYPES
from ..memory import has_common_elements, is_same_memory, keeps_no_elements
from ..prediction.inversion import reason_to_keep
from ..tracing.alone import spread
from ..tracing.members import members_of
from ..tracing.parts import Group, reparametrizations_of

LAYERS, CONTAINERS = "torch.nn.modules.", "torch.nn.modules.container"


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
        PredictError: two weights share a part of their memory, or are spread over several processes.
    """
    members = members_of(model)
    if (reason := spread(model, members)) is not None:
        raise PredictError(f"{reason}; the model before it is wrapped for them is accepted")
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
    if tensor.is_meta:
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
