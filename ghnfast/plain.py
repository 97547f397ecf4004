"""Numbers of numpy, which loops over arrays and rows of tables give, as Python's own."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")
LEVELS = 6  # of lists in lists: a genotype has four, and a list may be within itself


def plain(value: Any, levels: int = LEVELS) -> Any:
    """A scalar of numpy as Python's, an array of one dimension as a tuple; in lists, tuples and dictionaries, too.

    Anything else as it is.
    """
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = tuple(value)
    elif isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, np.longdouble):
        return float(value)
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple) and levels:
        return type(value)(plain(item, levels - 1) for item in value)
    if type(value) is dict and levels:
        return {key: plain(item, levels - 1) for key, item in value.items()}
    return value


def make_plain(settings: Any) -> None:
    """The same for the fields of a dataclass, also of a frozen one."""
    for field in dataclasses.fields(settings):
        object.__setattr__(settings, field.name, plain(getattr(settings, field.name)))


def with_plain_numbers(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose arguments are settings: it is called with them as `plain` has them."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*map(plain, args), **{name: plain(value) for name, value in kwargs.items()})

    return call
