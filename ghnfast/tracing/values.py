"""Where a tensor of a trace comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .chance import Site
from .parts import Region

# How a tensor was made of parameters: entries were picked by index; a layer was applied to a constant. Sums of these.
LOOKUP, LAYER = 1, 2


class Call(NamedTuple):
    """A call of a torch function, and which of the tensors that it returns is meant."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    position: int = 0


class Value:
    """Where a tensor comes from.

    operation: the traced operation that produced it, or -1 for a tensor that does not depend on the input.
    channel: the dimension that holds the channels, or None where it is unknown.
    shared: whether another tensor may look at the same memory.

    What else there is to know of some tensors is in an `Origin`; these are its values for all others.
    """

    __slots__ = ("channel", "operation", "shared")

    parameters: tuple[int, ...] = ()
    buffer: bool = False
    made: int = 0
    known: bool = False
    sites: tuple[Site, ...] = ()
    recipe: Call | None = None
    base: int | Region | None = None

    def __init__(self, operation: int = -1, channel: int | None = None, shared: bool = False) -> None:
        self.operation = operation
        self.channel = channel
        self.shared = shared


class Origin(Value):
    """Where a tensor comes from that does not depend on features, but on something that is known.

    parameters: indices of the parameters it is computed from.
    buffer: whether it is computed from a buffer of the model.
    made: how it was made of parameters, of `LOOKUP` and `LAYER`.
    known: whether the tensor is real although it depends on the input: it comes from integers alone.
    sites: where the random numbers that it depends on were drawn (only for constants).
    recipe: the call that gives its values (only for meta tensors that are computed from parameters).
    base: the parameter, or the part of one, that the tensor is a rearrangement or a rescaling of (likewise).
    """

    __slots__ = ("base", "buffer", "known", "made", "parameters", "recipe", "sites")

    def __init__(
        self,
        operation: int = -1,
        channel: int | None = None,
        parameters: tuple[int, ...] = (),
        buffer: bool = False,
        made: int = 0,
        shared: bool = False,
        known: bool = False,
        sites: tuple[Site, ...] = (),
        recipe: Call | None = None,
        base: int | Region | None = None,
    ) -> None:
        super().__init__(operation, channel, shared)
        self.parameters = parameters
        self.buffer = buffer
        self.made = made
        self.known = known
        self.sites = sites
        self.recipe = recipe
        self.base = base


CONSTANT = Value()
BUFFER = Origin(buffer=True)


def merged(values: Sequence[Value]) -> Value:
    """Where a real tensor comes from that is made of such: integers among the inputs, buffers, random numbers."""
    known = next((value.operation for value in values if value.known), None)
    if known is not None:
        return Origin(known, known=True)
    buffer = any(value.buffer for value in values)
    sites = tuple(dict.fromkeys([site for value in values for site in value.sites]))
    return Origin(buffer=buffer, sites=sites) if sites else BUFFER if buffer else CONSTANT
