"""Inputs may come in containers of many kinds."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers.models import Net
from torch import Tensor, nn

import ghnfast

X = torch.randn(2, 8)


@dataclass
class Batch:
    x: Tensor
    size: int = 2


@dataclass(frozen=True)
class Frozen:
    x: Tensor


@dataclass
class Slotted:
    __slots__ = ("x",)
    x: Tensor


class Attributes(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        return self[name]


class Named(NamedTuple):
    x: Tensor


CONTAINERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Tensor]]] = {
    "dataclass": (lambda: Batch(X), lambda batch: batch.x * batch.size),
    "frozen": (lambda: Frozen(X), lambda batch: batch.x),
    "slots": (lambda: Slotted(X), lambda batch: batch.x),
    "namespace": (lambda: SimpleNamespace(x=X, n=2), lambda batch: batch.x * batch.n),
    "attributes": (lambda: Attributes(x=X), lambda batch: batch.x),
    "ordered": (lambda: OrderedDict(x=X), lambda batch: next(iter(batch.values()))),
    "user's dict": (lambda: UserDict(x=X), lambda batch: batch["x"]),
    "proxy": (lambda: MappingProxyType({"x": X}), lambda batch: batch["x"]),
    "named tuple": (lambda: Named(X), lambda batch: batch.x),
    "old named tuple": (lambda: namedtuple("Old", "x")(X), lambda batch: batch.x),
    "nested": (lambda: [{"a": (Batch(X), None)}], lambda batch: batch[0]["a"][0].x),
}


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("name", CONTAINERS)
def test_containers(name: str, reads: bool) -> None:
    make, get = CONTAINERS[name]
    model = Net(lambda m, batch: m.a(get(batch) * (2 if reads and get(batch).sum() > 0 else 1)), a=nn.Linear(8, 4))
    model(make())
    given = make()
    for arguments in ((given,), {"batch": given}):
        assert ghnfast.trace(model, example_inputs=arguments).ops == ["input", "conv", "bias"]
    assert get(given) is not None


@pytest.mark.parametrize("given", [(), (np.zeros((2, 8)),), (3, "text"), {"x": [1, 2]}, (object(),)])
def test_inputs_without_tensors(given: Any) -> None:
    model = Net(lambda m, *args, **kwargs: m.a(X), a=nn.Linear(8, 4))
    with pytest.raises(ghnfast.TraceError, match="there is no tensor among the example_inputs"):
        ghnfast.trace(model, example_inputs=given)
