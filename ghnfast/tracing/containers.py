"""What a forward may be given tensors in: tuples, lists, mappings, dataclasses and the like."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from ..errors import TraceError
from .tensors import SCALARS


def map_inputs(function: Callable[[Tensor], Tensor], item: Any) -> Any:
    """An input with every tensor replaced by `function(tensor)`; containers are copied, and keep their types."""
    if isinstance(item, Tensor):
        return function(item)
    if type(item) in SCALARS or isinstance(item, type):
        return item
    if isinstance(item, tuple):
        items = [map_inputs(function, part) for part in item]
        return type(item)(*items) if hasattr(item, "_fields") else tuple(items)
    if isinstance(item, list):
        made = copy.copy(item)
        made[:] = [map_inputs(function, part) for part in item]
        return made
    if isinstance(item, Mapping):
        changed = {key: map_inputs(function, part) for key, part in item.items()}
        if type(item) is dict or not isinstance(item, MutableMapping):
            return changed
        mapping = copy.copy(item)
        for key, part in changed.items():
            mapping[key] = part
        return mapping
    if is_dataclass(item) or isinstance(item, SimpleNamespace):
        names = list(vars(item)) if hasattr(item, "__dict__") else [each.name for each in fields(item)]  # type: ignore[arg-type]
        filled = copy.copy(item)
        for name in names:
            object.__setattr__(filled, name, map_inputs(function, getattr(item, name)))
        return filled
    return item


def check_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise an error where there is no tensor among the inputs, or one that has no shape."""
    found: list[Tensor] = []

    def remember(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_inputs(remember, (args, kwargs))
    if not found:
        kinds = ", ".join(dict.fromkeys(type(item).__name__ for item in (*args, *kwargs.values()))) or "nothing"
        raise TraceError(
            f"there is no tensor among the example_inputs ({kinds}); tensors, also in tuples, lists, mappings, "
            "dataclasses and namespaces, are accepted"
        )
    if any(tensor.is_nested for tensor in found):
        raise TraceError("a nested tensor is among the example_inputs; a padded one (to_padded_tensor) is accepted")
