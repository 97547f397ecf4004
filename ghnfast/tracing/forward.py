"""Runs a model's forward under a tracer, with its real control flow, and leaves the model exactly as it was.

Mostly it computes nothing; it runs on real numbers where it reads values of features.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import TraceError
from ..randomness import SEED
from .alone import in_this_process
from .calls import ShapeError
from .chance import Chance
from .containers import map_inputs
from .failures import reason as reason_of
from .leaves import private_copy
from .members import Members, to_the_end, unchanged
from .numbers import HiddenOperations, NumbersTracer, private_model
from .private import forget_own_weights, private_draws
from .rules import RULES
from .state import deep_state, draw_privately, namespaces_of
from .tensors import CPU, META, MemoryLost, copy_of
from .tracer import Tracer
from .values import Origin, Value

Recording = tuple[Tracer, Any, str | None]
Say = Callable[[Exception], str]


def run_forward(
    model: nn.Module, members: Members, args: tuple[Any, ...], kwargs: dict[str, Any], say: Say, chance: Chance
) -> Recording:
    """The trace of a forward, what it returned, and why it was run on real numbers, or None where shapes were enough.

    Raises:
        TraceError: the forward failed on shapes, and on numbers.
    """
    # A call of its own: Python leaves a block with all that it has to do where a call in it is interrupted, and not
    # where one of its own lines is that begins to handle an error.
    with private_draws(chance, namespaces_of(members.modules)):
        return run_somehow(model, members, args, kwargs, say, chance)


def run_somehow(
    model: nn.Module, members: Members, args: tuple[Any, ...], kwargs: dict[str, Any], say: Say, chance: Chance
) -> Recording:
    """On shapes, on those of the model itself, or on numbers."""
    try:
        return *record(model, members, args, kwargs, chance, copied=True), None
    except Exception:  # the model itself has the last word, and says what is wrong in its own terms
        reason, wrong = why_not_on_shapes(model, members, args, kwargs, say, chance)
        if isinstance(reason, tuple):
            return reason
    for number, fill in enumerate(FILLS):
        try:
            return *record_on_numbers(model, args, kwargs, chance, fill), reason
        except MemoryLost:
            raise
        except Exception as error:
            if wrong is not None:
                raise TraceError(say(wrong)) from wrong
            if number + 1 == len(FILLS) or isinstance(error, TraceError):
                raise TraceError(say(error)) from error
    raise AssertionError("there is a last kind of numbers")


def why_not_on_shapes(
    model: nn.Module, members: Members, args: tuple[Any, ...], kwargs: dict[str, Any], say: Say, chance: Chance
) -> tuple[str | Recording, ShapeError | None]:
    """Why the forward of the model itself cannot run on shapes, or what it gave; and what a rule says of the shapes."""
    try:
        return (*record(model, members, args, kwargs, chance, copied=False), None), None
    except MemoryLost:
        raise
    except ShapeError as error:  # a rule may know the function's shapes worse than torch does
        return reason_of(error), error
    except Exception as error:
        if any(isinstance(module, torch.jit.ScriptModule) for module in members.modules):
            raise TraceError(say(error)) from error
        return reason_of(error), None


def record(
    model: nn.Module, members: Members, args: tuple[Any, ...], kwargs: dict[str, Any], chance: Chance, copied: bool
) -> tuple[Tracer, Any]:
    """Run the forward, of a private copy of the model if there can be one; the trace of it, and what it returned."""
    forget_own_weights(chance)
    tracer = Tracer(members, RULES, chance)
    args, kwargs = (map_inputs(lambda tensor: as_input(tracer, tensor), given) for given in (args, kwargs))
    with modes_put_back(), unchanged(members.modules), deep_state(members.modules):
        draw_privately(members.modules, chance)
        in_this_process(members.modules)
        runner = private_copy(model, members, tracer) if copied else nullcontext(model)
        with runner as run, torch.no_grad(), eager(), tracer:
            return tracer, run(*args, **kwargs)


# What inputs are filled with where the forward runs on numbers, given its own: in the range of standardized images, in
# that of plain ones, and what was given.
Fill = Callable[[Tensor, Tensor, torch.Generator], Tensor]
FILLS: tuple[Fill, ...] = (
    lambda tensor, given, generator: tensor.normal_(generator=generator),
    lambda tensor, given, generator: tensor.uniform_(generator=generator),
    lambda tensor, given, generator: tensor if given.is_meta else tensor.copy_(copy_of(given)),
)


def record_on_numbers(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    chance: Chance,
    fill: Fill,
) -> tuple[Tracer, Any]:
    """Run the forward of a copy of the model on random numbers; the trace of it, and what it returned."""
    generator = torch.Generator().manual_seed(SEED)
    copied, members = private_model(model, generator)
    forget_own_weights(chance)
    tracer = NumbersTracer(members, RULES, chance)
    draw_privately(members.modules, chance)
    in_this_process(members.modules)

    def real_input(tensor: Tensor) -> Tensor:
        twin = as_input(tracer, tensor)
        if not twin.is_meta:
            return twin
        made = torch.zeros(tensor.shape, dtype=tensor.dtype, device=CPU)
        if tensor.is_floating_point():
            made = fill(made, tensor, generator)
        elif not tensor.is_meta:
            made.copy_(copy_of(tensor))
        return tracer.pair(made, twin)

    args, kwargs = (map_inputs(real_input, given) for given in (args, kwargs))
    try:
        with modes_put_back(), torch.no_grad(), eager(), HiddenOperations(tracer), tracer:
            return tracer, copied(*args, **kwargs)
    except Exception as error:
        if tracer.hidden is None:
            raise
        raise tracer.hidden from error


def as_input(tracer: Tracer, tensor: Tensor) -> Tensor:
    """What stands for an input: integers (tokens, masks) are known, of others and of images of bytes the shape."""
    image = tensor.dtype is torch.uint8 and tensor.ndim == 4
    if not tensor.is_floating_point() and not tensor.is_complex() and not tensor.is_meta and not image:
        tracer.has_known = True
        return tracer.set_value(copy_of(tensor), Origin(0, known=True))
    made = torch.empty(tensor.shape, dtype=tensor.dtype, device=META)
    return tracer.set_value(made, Value(0, 1 if tensor.ndim == 4 else None))


class modes_put_back:
    """Within it, modes of torch, and `no_grad`, may stay that an interrupt kept from ending: they end with it."""

    def __enter__(self) -> None:
        self.grad = torch.is_grad_enabled()
        self.functions, self.operators = torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()

    def __exit__(self, *error: object) -> None:
        while torch._C._len_torch_function_stack() > self.functions:
            torch._C._pop_torch_function_stack()
        while torch._C._len_torch_dispatch_stack() > self.operators:
            torch._C._pop_torch_dispatch_stack(None)
        torch._C._set_grad_enabled(self.grad)


def eager() -> AbstractContextManager[object]:
    """Compiled models run as written: a trace inside a compiler's own trace would see nothing."""
    return Eager() if "torch._dynamo" in sys.modules else nullcontext()


class Eager:
    """The stance of torch's compiler is one for all threads: the first that wants it sets it, the last puts it back.

    No lock is held, which an interrupt could leave behind: every step may be repeated, and come at any time. Whoever is
    interrupted on the way in or out has left when this object is gone, at the latest.
    """

    inside: ClassVar[set[object]] = set()
    before: ClassVar[Any] = None  # knows the stance that others want, where it is another one

    def __init__(self) -> None:
        self.mark = object()
        self.gone = weakref.finalize(self, to_the_end, partial(Eager.left, self.mark))
        Eager.inside.add(self.mark)
        Eager.begin()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        to_the_end(lambda: Eager.left(self.mark))
        self.gone.detach()  # an interrupt that comes while an object goes is lost

    @staticmethod
    def begin() -> None:
        # One line, which an interrupt comes before or after.
        Eager.before = new if (new := torch.compiler.set_stance("force_eager")).prev != new.stance else Eager.before

    @staticmethod
    def left(mark: object) -> None:
        Eager.inside.discard(mark)
        before = Eager.before
        if Eager.inside or before is None:
            return
        before.__exit__(None, None, None)
        if Eager.before is before:
            Eager.before = None
        if Eager.inside:  # another thread has come meanwhile
            Eager.begin()

    @staticmethod
    def forget_other_threads() -> None:
        """They are not in the child of a fork."""
        Eager.inside.clear()
        Eager.left(None)


os.register_at_fork(after_in_child=Eager.forget_other_threads)
