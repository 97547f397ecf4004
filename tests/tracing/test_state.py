"""What modules keep in objects of their own is as it was after a trace, and their random numbers decide nothing."""

from __future__ import annotations

import copy
import pickle
import random
import threading
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import Net
from torch import Tensor, nn

import ghnfast

X = (torch.randn(2, 8),)


@dataclass
class Kept:
    values: list[Any] = field(default_factory=list)
    step: int = 0


class Own:
    def __init__(self) -> None:
        self.values: list[Any] = []
        self.step = 0


class Caching(nn.Module):
    """Keeps its features where `places` finds a list."""

    def __init__(self, cache: Any, place: Callable[[Any], Any], fails: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)
        self.cache, self.place, self.fails = cache, place, fails

    def forward(self, x: Tensor) -> Tensor:
        hidden, kept = self.a(x), self.place(self.cache)
        if len(kept):
            hidden = hidden + kept[-1]
        kept.append(hidden.detach())
        if hasattr(self.cache, "step"):
            self.cache.step += 1
        if self.fails:
            raise ValueError("no")
        return self.b(hidden)


CACHES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "list": (list, lambda cache: cache),
    "lists": (lambda: [[], []], lambda cache: cache[1]),
    "tuple": (lambda: ([], 1), lambda cache: cache[0]),
    "dict": (lambda: {"layer": {"a": []}}, lambda cache: cache["layer"]["a"]),
    "ordered": (lambda: OrderedDict(a=[]), lambda cache: cache["a"]),
    "default": (lambda: defaultdict(list), lambda cache: cache["new"]),
    "deque": (lambda: deque(maxlen=2), lambda cache: cache),
    "namespace": (lambda: SimpleNamespace(values=[], step=0), lambda cache: cache.values),
    "dataclass": (Kept, lambda cache: cache.values),
    "object": (Own, lambda cache: cache.values),
    "objects": (lambda: {"a": [Own()]}, lambda cache: cache["a"][0].values),
}


def shown(cache: Any) -> str:
    """The content of a cache, and which tensors are in it."""
    if isinstance(cache, (Kept, Own, SimpleNamespace)):
        return shown(vars(cache))
    if isinstance(cache, dict):
        return str([(key, shown(value)) for key, value in cache.items()])
    if isinstance(cache, (list, tuple, deque)):
        return str([shown(value) for value in cache])
    return str(id(cache)) if isinstance(cache, Tensor) else repr(cache)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("name", CACHES)
def test_caches(name: str, used: bool, fails: bool) -> None:
    make, place = CACHES[name]
    model = Caching(make(), place)
    if used:
        model(*X)
    model.fails = fails
    before, cache = shown(model.cache), model.cache
    try:
        found = ghnfast.trace(model, example_inputs=X)
        assert found.ops == ["input", "conv", "bias", "conv", "bias"]
    except ghnfast.TraceError:
        assert fails
    assert model.cache is cache
    assert shown(cache) == before
    model.fails = False
    model(*X)


@pytest.mark.parametrize(
    "draw",
    [
        lambda own: random.Random(1) if own is None else own.random(),
        lambda own: random.Random(1) if own is None else own.uniform(0, 1),
        lambda own: np.random.default_rng(1) if own is None else own.random(),
        lambda own: np.random.default_rng(1) if own is None else own.integers(0, 2) - 0.0,
        lambda own: np.random.RandomState(1) if own is None else own.rand(),
        lambda own: np.random.RandomState(1) if own is None else own.random_sample(),
        lambda own: random.SystemRandom() if own is None else own.random(),
    ],
)
@pytest.mark.parametrize("reads", [False, True])
def test_generators_of_modules(draw: Callable[[Any], Any], reads: bool) -> None:
    """Layers that are dropped by their chance are all there, and they are not moved."""

    def forward(m: Net, x: Tensor) -> Tensor:
        if reads and x.sum() > 1e9:
            return x
        for layer in (m.a, m.b, m.c):
            if draw(m.own) >= 0.5:
                x = x + layer(x)
        return m.d(x)

    model = Net(forward, **{name: nn.Linear(8, 8) for name in "abcd"})
    model.own = own = draw(None)
    before = None if isinstance(own, random.SystemRandom) else pickle.dumps(own)
    for _ in range(2):
        assert not ghnfast.trace(model, example_inputs=X).skipped
    assert model.own is own
    assert before is None or pickle.dumps(own) == before


@pytest.mark.parametrize("name", ["weight norm", "kept", "lock", "nested"])
def test_models_that_cannot_be_deep_copied_whole(name: str) -> None:
    """Their forwards read features."""

    def forward(m: Net, x: Tensor) -> Tensor:
        x = m.a(x)
        m.last = x
        return m.b(x * 2 if x.sum() > 0 else x)

    model = Net(forward, a=nn.Linear(8, 8), b=nn.Linear(8, 3))
    if name == "weight norm":
        with pytest.warns(FutureWarning):
            model.a = nn.utils.weight_norm(nn.Linear(8, 8))
    elif name != "kept":
        model.__dict__["lock"] = (
            threading.Lock() if name == "lock" else {"a": [threading.Lock()], "b": (i for i in range(3))}
        )
    model(*X)
    with pytest.raises((RuntimeError, TypeError)):
        copy.deepcopy(model)
    last = model.last
    found = ghnfast.trace(model, example_inputs=X)
    assert found.ops == ["input", "conv", "bias", "conv", "bias"]
    assert model.last is last
