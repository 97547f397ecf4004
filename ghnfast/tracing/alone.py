"""Models in several processes: what of them asks the others for something as it runs, which here nobody answers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..memory import is_distributed
from .members import Members


def has_processes() -> bool:
    """Whether this is one of several processes, or the only one of what may be several."""
    return distributed.is_available() and distributed.is_initialized()


def spread(model: nn.Module, members: Members) -> str | None:
    """What of a model is in parts, one in each process, in words that end with the kind of them; None for nothing."""
    kinds = {type(model), *(map(type, members.modules) if has_processes() else ())}
    wrapped = any(base.__name__ == "FullyShardedDataParallel" for each in kinds for base in each.__mro__)
    if wrapped or any(name.endswith("_flat_param") for name in members.names):
        return f"the parameters of {type(model).__name__} are spread over several processes (FSDP)"
    if set(map(type, members.parameters)) == {nn.Parameter}:
        return None
    named = zip(members.names, members.parameters, strict=True)
    found = next((name for name, parameter in named if is_distributed(parameter)), None)
    return found and f"the parameter {found} is spread over several processes (DTensor)"


def without_broadcasts(modules: Iterable[nn.Module]) -> None:
    """Let forwards of `DistributedDataParallel` take no buffers from the first process: it may not run one now.

    The attributes are not put back here.
    """
    for module in modules if has_processes() else ():
        if isinstance(module, DistributedDataParallel):
            vars(module)["require_forward_param_sync"] = False


def in_this_process(modules: list[nn.Module]) -> None:
    """The same, and let `SyncBatchNorm` not ask the others for their statistics, nor want a GPU for that.

    In evaluation the operation, and where its statistics come from in the graph, are the same.
    """
    without_broadcasts(modules)
    for module in modules if has_processes() else ():
        if isinstance(module, nn.SyncBatchNorm):
            vars(module)["training"] = False
