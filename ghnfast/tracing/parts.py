"""What is predicted as one although it is no parameter of its own.

A part of a parameter that a layer uses (networks that share weights), and a weight that torch computes from others
(`torch.nn.utils.parametrize`, weight normalization) and can compute those from: its right inverse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..graph import ParameterSlice, Reparametrization
from .members import Members


class Region(NamedTuple):
    """A part of a parameter: what a view of it sees."""

    parameter: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


class Part(NamedTuple):
    """What is predicted as one.

    name: of the part, as the graph has it. sources: the numbers of the parameters that it is in, or computed from.
    meaning: how it is written.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[int, ...]
    meaning: ParameterSlice | Reparametrization


class Group(NamedTuple):
    """The parameters that a weight is computed from.

    originals: their numbers. module, tensor: whose weight it is, and its name there.
    reason: why they are kept, or empty where they are not.
    is_plain: whether what the weight is computed from is to be the predicted weight itself.
    """

    originals: tuple[int, ...]
    sizes: tuple[int, ...]
    module: str
    tensor: str
    reason: str
    is_plain: bool

    def part(self, names: Sequence[str], shape: tuple[int, ...]) -> Part:
        """The weight, under the name of the largest parameter that it is computed from, the last of equals."""
        _, _, main = max(zip(self.sizes, range(len(self.sizes)), self.originals, strict=True))
        own = tuple(names[index] for index in self.originals)
        return Part(names[main], shape, self.originals, Reparametrization(self.module, self.tensor, own))


def reparametrizations_of(members: Members) -> dict[int, Group]:
    """The groups of a model, by each of their parameters.

    A parameter that the model has elsewhere, too (a tied weight, one side of which is parametrized), is an ordinary one
    unless its right inverse is itself: else what is right for one of its uses would be wrong for the other.
    """
    if not any(module._forward_pre_hooks or type(module) is ParametrizationList for module in members.modules):
        return {}
    numbers = {id(parameter): index for index, parameter in enumerate(members.parameters)}
    groups = groups_of(members)
    tensors = (tensor for module in members.modules for tensor in module._parameters.values())
    places = Counter(numbers[id(tensor)] for tensor in tensors if id(tensor) in numbers)
    own = Counter(index for group in groups for index in group.originals)
    found: dict[int, Group] = {}
    for group in groups:
        shared = any(places[index] > own[index] for index in group.originals)
        if (group.is_plain or not shared) and found.keys().isdisjoint(group.originals):
            found.update(dict.fromkeys(group.originals, group))
    return found


def groups_of(members: Members) -> list[Group]:
    """What each module computes its weights from: several may compute with one parameter."""
    numbers = {id(parameter): index for index, parameter in enumerate(members.parameters)}
    paths = {id(module): path for path, module in members.modules[0].named_modules()} if members.modules else {}
    groups: list[Group | None] = []
    for module in members.modules:
        if (path := paths.get(id(module))) is None:
            continue
        lists = module._modules.get("parametrizations")
        for tensor, steps in lists.items() if isinstance(lists, nn.ModuleDict) else ():
            if isinstance(steps, ParametrizationList):
                groups.append(parametrized(path, tensor, steps, members, numbers))
        for hook in module._forward_pre_hooks.values():  # the older way
            if isinstance(hook, tuple(HOOKS)):
                groups.append(hooked(path, module, hook, members, numbers))
    return [group for group in groups if group is not None]


def parametrized(
    path: str, tensor: str, steps: ParametrizationList, members: Members, numbers: dict[int, int]
) -> Group | None:
    """The group of `torch.nn.utils.parametrize`."""
    own = [numbers[id(original)] for original in steps._parameters.values() if id(original) in numbers]
    if not own:
        return None
    without = [type(step).__name__ for step in steps if not hasattr(step, "right_inverse")]
    reason = f"its layer uses a function of it, {without[0]}, which has no right_inverse" if without else ""
    sizes = tuple(members.parameters[index].numel() for index in own)
    is_plain = all(type(step) is parametrizations._SpectralNorm for step in steps)
    return Group(tuple(own), sizes, path, tensor, reason, is_plain)


# What torch's older ways of computing a weight add to its name, for the parameters that they compute it from.
HOOKS: dict[Any, tuple[str, ...]] = {WeightNorm: ("_g", "_v"), SpectralNorm: ("_orig",)}


def hooked(path: str, module: nn.Module, hook: Any, members: Members, numbers: dict[int, int]) -> Group | None:
    """The group of torch's older weight normalization (a length and a direction) or spectral normalization."""
    tensors = [module._parameters.get(f"{hook.name}{suffix}") for suffix in HOOKS[type(hook)]]
    own = [numbers[id(tensor)] for tensor in tensors if tensor is not None and id(tensor) in numbers]
    if len(own) != len(tensors):
        return None
    sizes = tuple(members.parameters[index].numel() for index in own)
    return Group(tuple(own), sizes, path, hook.name, "", isinstance(hook, SpectralNorm))


def region_part(region: Region, names: Sequence[str], parameters: Sequence[Tensor]) -> Part | None:
    """A part of a parameter that Python can name, by slices and indices and an order of dimensions; else None."""
    parameter, name = parameters[region.parameter], names[region.parameter]
    order = sorted(range(len(region.shape)), key=lambda at: -region.strides[at])
    shape, strides = [region.shape[at] for at in order], [region.strides[at] for at in order]
    kept = [(at, size, stride) for at, size, stride in zip(order, shape, strides, strict=True) if size > 1]
    dimensions = [-1] * len(shape)
    index = [slice(0, 1)] * parameter.ndim
    offset = region.offset - int(parameter.storage_offset())
    for at in sorted(range(parameter.ndim), key=lambda at: -int(parameter.stride()[at])):
        size, stride = parameter.shape[at], parameter.stride(at)
        if stride == 0 or size == 0:
            return None
        start, offset = divmod(offset, stride)
        if start >= size:
            return None
        index[at] = slice(start, start + 1)
        if kept and kept[0][2] and kept[0][2] % stride == 0:  # what repeats (a stride of 0) is no part
            count, step = kept[0][1], kept[0][2] // stride
            if start + (count - 1) * step < size:
                index[at] = slice(start, start + (count - 1) * step + 1, step)
                dimensions[kept.pop(0)[0]] = at
    if kept or offset:
        return None
    bounds = tuple((one.start, one.stop, one.step or 1) for one in index)
    meaning = ParameterSlice(name, tuple(parameter.shape), bounds, region.shape, tuple(dimensions))
    return Part(f"{name}[{meaning.label}]", region.shape, (region.parameter,), meaning)
