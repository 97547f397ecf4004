"""A disk that becomes full, and files that can no longer be opened, for as long as a test needs it."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager


@contextmanager
def limited(what: int, most: int) -> Iterator[None]:
    """Within it, this process can have no more than so much of a resource."""
    before = resource.getrlimit(what)
    resource.setrlimit(what, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(what, before)


def files_of_at_most(size: int) -> AbstractContextManager[None]:
    """Within it, this process's files can have no more bytes: a write beyond them fails as on a full disk."""
    return limited(resource.RLIMIT_FSIZE, size)


def descriptors_left(count: int) -> AbstractContextManager[None]:
    """Within it, this process can have so many more files open at once."""
    free = itertools.filterfalse(is_open, itertools.count())
    limit = next(itertools.islice(free, count, None))  # new files get the lowest numbers, below the limit alone
    return limited(resource.RLIMIT_NOFILE, limit)


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
