"""What is predicted for a tensor that a layer uses as its weight or bias."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .members import Members
from .parts import Part, Region, region_part, reparametrizations_of
from .provenance import Provenance
from .tensors import tensors_in
from .values import Value


class Predicted(Provenance):
    """The parameters, and the parts that are predicted as one although they are no parameters, by number."""

    # Functions that move or copy the elements of their first argument, and those that shift, scale, limit or drop them;
    # of these, those of several factors, one of which may be a mask.
    rearranging: frozenset[Callable[..., Any]] = frozenset()
    rescaling: frozenset[Callable[..., Any]] = frozenset()
    masking: frozenset[Callable[..., Any]] = frozenset()

    def __init__(self, members: Members) -> None:
        super().__init__(members)
        # Parts are numbered after the parameters.
        self.parts: list[Part] = []
        self.part_numbers: dict[str, int] = {}
        self.reparametrized = reparametrizations_of(members)

    def parameter_behind(self, tensor: Tensor | None, how: str = "") -> int | None:
        """What is to be predicted for `tensor`: its parameter, or a part that stands for it; None if there is none.

        It is the parameter that `tensor` is, or is a rearrangement or rescaling of; the part of a parameter that it
        looks at; or a weight that torch computes from several, and can compute those from.
        `how`, where given, is noted (see `note_use`) for the parameters that `tensor` is computed from.
        """
        if tensor is None:
            return None
        if (index := self.index_of(tensor)) is not None:
            return index
        value = self.value(tensor)
        if not value.parameters:
            return None
        if len(value.parameters) == 1 and self.parameters[value.parameters[0]] is tensor:
            return value.parameters[0]
        group = self.reparametrized.get(value.parameters[0])
        if group is not None and set(value.parameters) <= set(group.originals):
            if not group.reason:
                return self.part(group.part(self.names, tuple(tensor.shape)))
            if value.base is None:
                self.note_use(tensor, group.reason)
                return None
        if how:
            self.note_use(tensor, how)
        if isinstance(value.base, Region):
            region = region_part(value.base, self.names, self.parameters)
            return None if region is None or value.made else self.part(region)
        return value.base

    def part(self, part: Part) -> int:
        """The number of a part."""
        if part.name not in self.part_numbers:
            self.part_numbers[part.name] = len(self.parameters) + len(self.parts)
            self.parts.append(part)
        return self.part_numbers[part.name]

    def part_of(self, index: int) -> Part | None:
        """The part of this number; None for a parameter."""
        return self.parts[index - len(self.parameters)] if index >= len(self.parameters) else None

    def shape_of(self, index: int) -> tuple[int, ...]:
        """The shape of a parameter or part."""
        part = self.part_of(index)
        return tuple(self.parameters[index].shape) if part is None else part.shape

    def base_of(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor
    ) -> int | Region | None:
        """The parameter, or part of one, that the result of a function of parameters is but for order and scale."""
        values = [(tensor, self.value(tensor)) for tensor in tensors_in(args, kwargs)]
        sources = [(tensor, value) for tensor, value in values if value.parameters]
        alone = sources[0][1].parameters if len(sources) == 1 else ()
        if len(alone) == 1 and result.is_meta and (region := self.region_seen(alone[0], result)) is not None:
            return region
        numbers = [(tensor, value) for tensor, value in sources if tensor.dtype is not torch.bool]  # others are masks
        whole = [value for tensor, value in numbers if tensor.numel() == result.numel()]
        if func in self.rearranging and whole:
            base = whole[0].base
            moved = isinstance(base, Region) and sources[0][0].shape != result.shape
            return None if moved else base
        if func not in self.rescaling:
            return None
        known = [value for value in whole if value.base is not None]
        if len(known) > 1 and func in self.masking:
            known = self.masked(known)
        if len(known) != 1:
            return None
        base = known[0].base
        index = parameter_of(base)
        return None if any(index in value.parameters for value in whole if value is not known[0]) else base

    def masked(self, factors: list[Value]) -> list[Value]:
        """Those of several factors that are masked by the others: their numbers are not just 0, 1 or -1.

        Of those that begin with such numbers, it is what is trained.
        """
        parameters = [self.parameters[parameter_of(factor.base)] for factor in factors]
        masks = [not each.is_meta and bool(((each == 0) | (each.abs() == 1)).all()) for each in parameters]
        if all(masks) or any(each.is_meta for each in parameters):
            masks = [not each.requires_grad for each in parameters]
        return [factor for factor, mask in zip(factors, masks, strict=True) if not mask]

    def region_seen(self, index: int, view: Tensor) -> int | Region | None:
        """What of a parameter a meta tensor looks at, if it lies in the memory of the parameter's twin."""
        parameter = self.parameters[index]
        twin = self.twins.get(id(parameter))
        if twin is None or view.untyped_storage()._cdata != twin[1].untyped_storage()._cdata:
            return None
        if view.numel() == parameter.numel():
            return index
        return Region(index, tuple(view.shape), view.stride(), int(view.storage_offset()))


def parameter_of(base: int | Region | None) -> int:
    """The parameter that a base is, or is a part of."""
    if base is None:
        raise AssertionError("what has no base is asked for its parameter")
    return base.parameter if isinstance(base, Region) else base
