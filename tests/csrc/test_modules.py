"""csrc/modules.cpp: the walk over a model and the snapshot of it, on objects that look like modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


class Fake:
    """Holds its members as torch's `Module` does."""

    def __init__(self, **attributes: Any) -> None:
        self._parameters: dict[str, Any] = {}
        self._buffers: dict[str, Any] = {}
        self._modules: dict[str, Any] = OrderedDict()
        self.__dict__.update(attributes)


def test_walk_visits_a_module_before_its_children_and_each_object_once(core: ModuleType) -> None:
    weight, bias, mean = object(), object(), object()
    leaf = Fake(_parameters={"weight": weight, "bias": bias, "none": None}, _buffers={"mean": mean, "none": None})
    block = Fake(_modules={"leaf": leaf, "none": None, "again": leaf})
    model = Fake(_parameters={"scale": bias}, _modules={"block": block, "last": Fake(_parameters={"w": weight})})
    modules, names, parameters, buffers = core.walk_modules(model)
    assert modules == [model, block, leaf, model._modules["last"]]
    assert dict(zip(names, parameters, strict=True)) == {"scale": bias, "block.leaf.weight": weight}
    assert buffers == [mean]


def test_walk_of_a_deep_model_does_not_recurse(core: ModuleType) -> None:
    model = Fake(_parameters={"w": object()})
    for _ in range(5000):
        model = Fake(_modules={"m": model})
    assert core.walk_modules(model)[1] == ["m." * 5000 + "w"]


@pytest.mark.parametrize("name", ["_parameters", "_buffers", "_modules"])
def test_module_that_keeps_members_elsewhere_is_not_walked(core: ModuleType, name: str) -> None:
    class Own(dict):  # type: ignore[type-arg]
        pass

    assert core.walk_modules(Fake(_modules={"a": Fake(**{name: Own()})})) is None


CHANGES: dict[str, Callable[[Fake], Any]] = {
    "attribute": lambda m: setattr(m, "number", 1000),
    "new attribute": lambda m: setattr(m, "other", None),
    "lost attribute": lambda m: delattr(m, "number"),
    "dict": lambda m: m.table.update(a=3),
    "ordered dict": lambda m: m.order.clear(),
    "list": lambda m: m.items.append(1),
    "equal item": lambda m: m.items.__setitem__(0, [1]),
    "set": lambda m: m.names.discard("a"),
    "empty list": lambda m: m.nothing.append(None),
}


@pytest.mark.parametrize("name", CHANGES)
def test_snapshot_tells_what_changed_and_what_it_held(core: ModuleType, name: str) -> None:
    model = Fake(number=5, table={"a": 1}, order=OrderedDict(b=2), items=[[1], 2], names={"a"}, nothing=[])
    snapshot = core.Snapshot([model])
    assert snapshot.changed() == []
    containers = {id(item): item for item in (model.__dict__, *model.__dict__.values())}
    before = {key: list(item.items() if isinstance(item, dict) else item) for key, item in containers.items()
              if isinstance(item, (dict, list, set))}  # fmt: skip
    CHANGES[name](model)
    ((container, content),) = snapshot.changed()
    held = list(content.items()) if isinstance(content, dict) else content
    assert held == before[id(container)]
    assert list(container.items() if isinstance(container, dict) else container) != held or name == "equal item"


def test_attributes_that_may_lead_to_a_module(core: ModuleType) -> None:
    class Number(int):
        pass

    held = [Number(), (1,), [None], {"a": 1}, object()]
    numbered = {f"held{i}": item for i, item in enumerate(held)}
    model = Fake(a=1, b=True, c=0.5, d="text", e=None, f=[], g={}, h=set(), _buffers={"x": 1}, **numbered)
    assert core.open_attributes(model.__dict__) == held
