"""csrc/python/modules.cpp: the walk over a model and the snapshot of it, on objects that look like modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st


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


def named(module: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """The parameters of a tree of modules, by the definition."""
    found = [(prefix + name, parameter) for name, parameter in module._parameters.items()]
    return found + [pair for name, child in module._modules.items() for pair in named(child, f"{prefix}{name}.")]


NAMES = st.one_of(st.sampled_from(["0", "1", "a", "weight", "", "."]), st.text(max_size=3), st.just("long" * 99))
MODULES = st.recursive(
    st.builds(lambda names: Fake(_parameters={name: object() for name in names}), st.sets(NAMES, max_size=3)),
    lambda children: st.builds(
        lambda names, own: Fake(_parameters={name: object() for name in names}, _modules=own),
        st.sets(NAMES, max_size=2),
        st.dictionaries(NAMES, children, max_size=3),
    ),
)


@given(model=MODULES)
def test_names_are_joined_as_torch_joins_them(core: ModuleType, model: Any) -> None:
    for _ in range(2):  # put together, and known
        _, names, parameters, _ = core.walk_modules(model)
        assert list(zip(names, parameters, strict=True)) == named(model)


def test_more_names_than_are_kept(core: ModuleType) -> None:
    for turn in range(3):
        model = Fake(_modules={str(i): Fake(_parameters={f"{turn}.{i}": object()}) for i in range(9000)})
        assert core.walk_modules(model)[1] == [f"{i}.{turn}.{i}" for i in range(9000)]


def test_names_that_are_no_plain_strings(core: ModuleType) -> None:
    class Same(str):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("known")

    assert core.walk_modules(Fake(_parameters={"known": object()}))[1] == ["known"]
    assert core.walk_modules(Fake(_parameters={Same("other"): object()}))[1] == ["other"]
    with pytest.raises(TypeError):
        core.walk_modules(Fake(_parameters={1: object()}))


def test_attributes_that_classes_share(core: ModuleType) -> None:
    class Base:
        def first(self) -> None: ...

        def second(self) -> None: ...

    class Same(Base):
        def third(self) -> None: ...

    class Other(Same):
        def second(self) -> None: ...

    names = ("first", "second")
    assert core.share_attributes([], Base, names)
    assert core.share_attributes([Base(), Same(), Same()], Base, names)
    assert not core.share_attributes([Same(), Other()], Base, names)
    assert core.share_attributes([Same(), Other()], Base, ("first",))
    other = Same()
    other.first = other.second  # type: ignore[method-assign]
    assert core.share_attributes([other], Base, names)  # its class's is meant
    with pytest.raises(AttributeError):
        core.share_attributes([Same()], Base, ("fourth",))
    with pytest.raises(AttributeError):
        core.share_attributes([object()], Base, names)


@pytest.mark.parametrize("name", ["_parameters", "_buffers", "_modules"])
def test_module_that_keeps_members_elsewhere_is_not_walked(core: ModuleType, name: str) -> None:
    class Own(dict):
        pass

    assert core.walk_modules(Fake(_modules={"a": Fake(**{name: Own()})})) is None


CHANGES: dict[str, Callable[[Any], Any]] = {
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
    assert core.open_attributes([model, Fake(a=1), Fake(last=held)]) == [*held, held]


HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def test_bare_modules_have_nothing_that_a_call_would_run_besides(core: ModuleType) -> None:
    def with_hooks(**attributes: Any) -> Fake:
        return Fake(**{name: OrderedDict() for name in HOOKS}, **{"_modules": {}, **attributes})

    bare = [with_hooks(), with_hooks(_compiled_call_impl=None, other=3)]
    others = [with_hooks(_modules={"a": Fake()}), with_hooks(forward=None), with_hooks(_compiled_call_impl=print)]
    for name in HOOKS:
        hooked, without = with_hooks(), with_hooks()
        hooked.__dict__[name][0] = print
        del without.__dict__[name]
        others += [hooked, without]
    assert core.bare_modules([*bare, *others]) == [True] * len(bare) + [False] * len(others)


def test_untouched_modules_are_of_known_types_and_have_no_hooks(core: ModuleType) -> None:
    def fake(**attributes: Any) -> Fake:
        return Fake(_forward_hooks=OrderedDict(), _forward_pre_hooks=OrderedDict(), **attributes)

    plain = [fake(), fake(other=3), fake(_backward_hooks={0: print})]
    assert core.are_untouched(plain, {Fake, int})
    assert core.are_untouched([], {Fake})
    assert not core.are_untouched(plain, {int})
    hooked = [fake(), fake()]
    hooked[0].__dict__["_forward_hooks"][0] = hooked[1].__dict__["_forward_pre_hooks"][0] = print
    for other in (*hooked, fake(forward=print), Fake(_forward_hooks={}), 3):
        assert not core.are_untouched([*plain, other], {Fake, int} if other != 3 else {Fake})


@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_copies_of_modules_have_each_other_as_children(core: ModuleType, kind: type) -> None:
    leaf, items = Fake(number=1), [1]
    block = Fake(_modules=kind([("none", None), ("b", leaf), ("a", leaf)]), items=items)
    model = Fake(_modules=kind(block=block))
    before = [dict(module.__dict__) for module in (model, block, leaf)]
    copies = core.copy_modules([model, block, leaf])
    assert [type(copy) for copy in copies] == [Fake] * 3
    assert copies[0]._modules == {"block": copies[1]}
    assert list(copies[1]._modules.items()) == [("none", None), ("b", copies[2]), ("a", copies[2])]
    assert type(copies[1]._modules) is kind
    assert copies[1].items is items
    copies[2].number = 2
    assert [module.__dict__ for module in (model, block, leaf)] == before


def test_copies_of_modules_need_all_children(core: ModuleType) -> None:
    with pytest.raises(IndexError):
        core.copy_modules([Fake(_modules={"a": Fake()})])
