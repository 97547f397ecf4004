"""One process at a time goes on with what was interrupted: a run, a table of results, files in parts."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from .errors import GhnfastError
from .files import behind_links, in_words, is_at, lock, temporary_prefix

MOST_HOLDER = 1000  # bytes that are read of a lock
log = logging.getLogger("ghnfast")
held: set[int] = set()  # file descriptors of locks


def forget_locks() -> None:
    """In a process that was forked, which shares the locks, and would hold them after this one's end."""
    for descriptor in held:
        os.close(descriptor)
    held.clear()


os.register_at_fork(after_in_child=forget_locks)


def lock_beside(path: Path) -> Path:
    """The lock of a file that is not there yet, or is replaced; the same by whatever links it is named."""
    path = behind_links(path)
    return path.with_name(f"{temporary_prefix(path)}lock")


@contextlib.contextmanager
def alone(path: Path, what: str, doing: str, instead: str, error: type[GhnfastError]) -> Iterator[None]:
    """Holds the lock that a file is, until the end of the block or of the process; it is removed at the end.

    Args:
        what, doing, instead: what the lock is of, what its holder does, and what another may take, for messages.

    Raises:
        `error`: another process or thread holds the lock, or it cannot be made or written.
    """
    try:
        descriptor = opened(path)
    except HeldError as holder:
        held_by = error(f"{what} is being {doing} by {holder}; its end, or {instead}, is to be waited for")
        raise held_by from None
    except (OSError, ValueError) as found:
        not_written = error(f"{what} cannot be written: {in_words(found)}")
        raise not_written from found
    held.add(descriptor)
    try:
        with contextlib.suppress(OSError):  # a disk without space: the lock holds without a name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        if descriptor in held:  # else this is the block's end in a process that was forked within it
            held.discard(descriptor)
            with contextlib.suppress(OSError):
                os.unlink(path)  # before the lock ends: whoever opened it meanwhile sees that it is gone
            os.close(descriptor)


class HeldError(GhnfastError):
    """By whom, in words; `alone` makes its callers' errors of it."""


def opened(path: Path) -> int:
    """A descriptor of the lock's file, locked, and still that of the path."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        locked = lock(descriptor)
        if locked is None:
            holder = os.pread(descriptor, MOST_HOLDER, 0).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise HeldError(holder)
        if locked is False:  # some file systems of clusters have none
            log.warning("%s cannot be locked: start nothing else that writes there", path)
        if locked is False or is_at(descriptor, path):
            return descriptor
        os.close(descriptor)
