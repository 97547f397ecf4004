"""What a model consists of, and putting it back as it was."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
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
    "modules named_modules children named_children parameters named_parameters buffers named_buffers _named_members"
).split()


def members_of(model: nn.Module) -> Members:
    """One walk in C++ where torch's own would find the same, for those take a millisecond."""
    found = _C.walk_modules(model)
    if found is not None:
        members = Members(*found)
        if all(getattr(kind, name) is getattr(nn.Module, name) for kind in set(map(type, found[0])) for name in WALKS):
            return members
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
    """Puts back every attribute of every module, and the random state."""
    snapshot = _C.Snapshot(modules)
    random_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        for container, content in snapshot.changed():
            restore(container, content)
        # Only what the forward moved: other threads may draw from the same generators.
        if random.getstate() != random_state:
            random.setstate(random_state)
        if numpy_moved(numpy_state):
            np.random.set_state(numpy_state)
        if not torch.equal(torch.get_rng_state(), torch_state):
            torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


def numpy_moved(before: Any) -> bool:
    """Whether the state of numpy's generator is another than `before`: a name, the key and three numbers.

    `get_state` copies the key number by number. Where no half of a pair of normal numbers was left over, the key and
    the position in it, which is what lies in the generator's memory, say enough.
    """
    generator = np.random.mtrand.get_bit_generator()
    if type(generator) is np.random.MT19937 and not before[3]:
        memory = before[1].tobytes() + before[2].to_bytes(4, sys.byteorder)
        if ctypes.string_at(generator.ctypes.state_address, len(memory)) == memory:
            return False
    now: Any = np.random.get_state()
    return now[0] != before[0] or now[2:] != before[2:] or not np.array_equal(now[1], before[1])


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
