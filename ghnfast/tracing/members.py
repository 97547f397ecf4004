"""What a model consists of, and putting it back as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from .. import _C


class Members(NamedTuple):
    """The modules, parameters and buffers of a model, each once, and the names of the parameters.

    plain: whether they are just what torch's `Module` keeps.
    """

    modules: list[nn.Module]
    names: list[str]
    parameters: list[nn.Parameter]
    buffers: list[Tensor]
    plain: bool = True


# What a class may override to have other members than its attributes say.
WALKS = (
    *"modules named_modules children named_children parameters named_parameters buffers named_buffers".split(),
    "_named_members",
)


def members_of(model: nn.Module) -> Members:
    """One walk in C++ where torch's own would find the same, for those take a millisecond."""
    found = _C.walk_modules(model)
    if found is not None and _C.share_attributes(found[0], nn.Module, WALKS):
        return Members(*found)
    named = list(model.named_parameters())
    names, parameters = [name for name, _ in named], [parameter for _, parameter in named]
    return Members(list(model.modules()), names, parameters, list(model.buffers()), plain=False)


# Hooks of all modules. Torch's own question for any of them is younger than torch 2.6.
GLOBAL_HOOKS: tuple[Mapping[int, Any], ...] = (
    torch_module._global_forward_pre_hooks,
    torch_module._global_forward_hooks,
    torch_module._global_backward_pre_hooks,
    torch_module._global_backward_hooks,
)


def has_global_hooks() -> bool:
    """Whether a call of any module does more than that module says."""
    return any(GLOBAL_HOOKS)


@contextmanager
def unchanged(modules: list[nn.Module]) -> Iterator[None]:
    """Puts back every attribute of every module."""
    snapshot = _C.Snapshot(modules)
    try:
        yield
    finally:
        to_the_end(lambda: put_back(snapshot))


def put_back(snapshot: Any) -> None:
    for container, content in snapshot.changed():
        restore(container, content)


def to_the_end(step: Callable[[], object]) -> None:
    """Call what puts things back, again where an interrupt from the keyboard has kept it from coming to its end.

    Raises:
        KeyboardInterrupt: the one that came.
    """
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            step()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def restore(container: Any, content: Any) -> None:
    """Give a list, dict or set the content it had: caches that the forward filled hold tensors without data."""
    if isinstance(container, dict):
        for key in container.keys() - content.keys():
            del container[key]
        container.update(content)
    elif isinstance(container, list):
        container[:] = content
    else:
        container.intersection_update(content)
        container.update(content)
