"""torch's cache of computed weights (`torch.nn.utils.parametrize.cached`) and traces.

The cache is everybody's: in a trace it would give weights whose making is not seen, and keep tensors without data. So a
thread that traces has a cache of its own. What is there of a model's weights goes when a prediction writes the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn
from torch.nn.utils import parametrize

Entries = dict[tuple[int, str], Tensor | None]


class ThreadsCache(Entries):
    """What stands for torch's cache while threads trace: theirs for them, and itself for all others."""

    def __init__(self, entries: Entries, own: Callable[[], Entries | None]) -> None:
        """`own` gives the cache of the thread that calls it, where that is tracing."""
        super().__init__(entries)
        self.own = own

    def get(self, key, default=None):  # type: ignore[no-untyped-def]  # overloads, of which torch calls one
        own = self.own()
        return super().get(key, default) if own is None else own.get(key, default)

    def __setitem__(self, key: tuple[int, str], weight: Tensor | None) -> None:
        own = self.own()
        if own is None:
            super().__setitem__(key, weight)
        else:
            own[key] = weight


def replace_cache(own: Callable[[], Entries | None]) -> None:
    """Let threads that trace have a cache of their own; also again, for torch makes a new one whenever it likes."""
    if not isinstance(parametrize._cache, ThreadsCache):
        parametrize._cache = ThreadsCache(parametrize._cache, own)


def put_cache_back() -> None:
    if isinstance(parametrize._cache, ThreadsCache):
        parametrize._cache = dict(parametrize._cache)


def forget_weights(modules: Iterable[nn.Module]) -> None:
    """Drop what torch has cached of the weights of these modules, which were written to."""
    if parametrize._cache:
        written = set(map(id, modules))
        for key in [key for key in list(parametrize._cache) if key[0] in written]:
            parametrize._cache.pop(key, None)
