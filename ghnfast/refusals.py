"""What the machine refuses for now, such as memory, descriptors, an answer of its disk: it says nothing of a file."""

from __future__ import annotations

import errno

from .memory import is_out_of_memory

# What is said of a path, or of what is there.
OF_THE_PATH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG)


def is_refused(error: BaseException | None) -> bool:
    """Whether the machine is at the bottom of an error, which others may have made theirs."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None and error.errno not in OF_THE_PATH:
            return True
        if is_out_of_memory(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def verdict(error: BaseException, otherwise: str) -> str:
    """What is said of a file that could not be read: `otherwise`, unless nothing is known of it."""
    return "cannot be read here and now, though it may be whole" if is_refused(error) else otherwise
