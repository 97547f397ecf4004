"""A disk that becomes full, and files that can no longer be opened, for as long as a test needs it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Within it, this process's files can have no more bytes: a write beyond them fails as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Within it, this process can have so many more files open at once."""
    used = [os.open(os.devnull, os.O_RDONLY)]
    while used[-1] >= len(os.listdir("/proc/self/fd")):  # which has one of its own; below the last there are free ones
        used.append(os.open(os.devnull, os.O_RDONLY))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used[-1] + 1 + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in used:
            os.close(descriptor)
