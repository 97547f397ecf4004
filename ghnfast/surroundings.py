"""Where ghnfast is called: what of torch records, or replaces, operators around the call."""

from __future__ import annotations

import sys

import torch

from .errors import GhnfastError

KEYS = torch._C._TorchDispatchModeKey
FUNCTIONALIZE = torch._C._functorch.TransformType.Functionalize
# Modes of torch under which tensors have no numbers, or operators become parts of a program.
RECORDERS = (
    (KEYS.PROXY, "make_fx or torch.export, which make a program of what is computed"),
    (KEYS.FAKE, "FakeTensorMode (torch.export has it, too), in which tensors have no numbers"),
    (KEYS.FUNCTIONAL, "functionalization (of AOTAutograd), which replaces what is written to"),
)


def check_surroundings(what: str, error: type[GhnfastError], numbers: bool = True) -> None:
    """Whether there are numbers to compute with, and to write to, that nobody but the caller has.

    Args:
        what: the function that was called, for the message.
        numbers: whether it needs any.

    Raises:
        `error`: torch records or replaces operators.
    """
    if (found := recorder(numbers)) is not None:
        raise refusal(what, found, error)


def refusal(what: str, found: str, error: type[GhnfastError]) -> GhnfastError:
    return error(
        f"{what} was called within {found}; outside of it is accepted: call it first, and do the other with its "
        "result. Nothing was changed"
    )


def recorder(numbers: bool) -> str | None:
    """What of torch records or replaces this thread's operators, in words; None where nothing does."""
    if torch._C._is_tracing():
        return "torch.jit.trace (or an export that uses it), which makes a program of what is computed"
    if any(each.key() == FUNCTIONALIZE for each in torch._C._functorch.get_interpreter_stack() or ()):
        return "torch.func.functionalize, which replaces what is written to"
    if torch._C._len_torch_dispatch_stack():
        for key, name in RECORDERS:
            if (numbers or key is not KEYS.FAKE) and torch._C._get_dispatch_mode(key) is not None:
                return name
    # Set within make_fx, too.
    if getattr(sys.modules.get("torch.fx._symbolic_trace"), "_is_fx_tracing_flag", False):
        return "torch.fx.symbolic_trace, which makes a program of the modules that are called"
    if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
        return "the capture of a CUDA graph, which records kernels instead of running them"
    return None
