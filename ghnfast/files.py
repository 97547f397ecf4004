"""Writing files so that a failure leaves nothing behind, and saying in words why one failed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import urllib.error
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` at the end of the block, whole; on any error nothing is left of it.

    The temporary name is unique, so threads and processes may write the same path at once: the last one stays. It is
    opened here rather than by `tempfile`, whose files only their owner may read. A writer that is killed leaves its
    temporary file; the next one of the same path removes it. Every writer holds a lock on its own, which ends with the
    process: a file that can be locked belongs to nobody.

    A symbolic link stays one: the file that it leads to is replaced.
    """
    path = behind_links(path)
    remove_abandoned(path)
    temporary, file = open_temporary(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)  # before the lock ends
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: Path) -> None:
    """Make and remove what `replacing` would write to.

    Raises:
        OSError: `path` cannot be written. ValueError: it is no path.
    """
    path = behind_links(path)
    with contextlib.suppress(FileNotFoundError):
        path.lstat()  # a name that is too long is none, and that of the temporary file is cut
    temporary, file = open_temporary(path)
    file.close()
    temporary.unlink(missing_ok=True)


def behind_links(path: Path) -> Path:
    """What a symbolic link leads to, whether that is there or not; any other path as it is."""
    return Path(os.path.realpath(path)) if os.path.islink(path) else path


def is_text(name: str) -> bool:
    """Whether UTF-8 has it. Python's names of files that are not UTF-8 are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def temporary_prefix(path: Path) -> str:
    # As a file's name may have 255 bytes, long ones are cut: the lock, not the name, says whose a file is.
    name = path.name
    with contextlib.suppress(UnicodeEncodeError):  # whoever opens it is told
        name = os.fsdecode(os.fsencode(name)[:200])
    return f".{name}."


def open_temporary(path: Path) -> tuple[Path, BinaryIO]:
    """A new locked file beside a path."""
    while True:
        temporary = path.with_name(f"{temporary_prefix(path)}{secrets.token_hex(8)}.tmp")
        file = open(temporary, "x+b")  # noqa: SIM115
        locked = lock(file.fileno())
        if locked is False or (locked and is_at(file.fileno(), temporary)):
            return temporary, file
        file.close()  # another writer took it for abandoned before it was locked, and removes it


def lock(descriptor: int) -> bool | None:
    """Whether a file is now locked; None where another has locked it, False where its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def remove_abandoned(path: Path) -> None:
    """Remove the temporary files of killed writers of a path. Those that cannot be removed are no reason to fail."""
    name = re.compile(re.escape(temporary_prefix(path)) + r"[0-9a-f]{16}\.tmp")
    with contextlib.suppress(OSError, ValueError):
        for entry in os.scandir(path.parent):
            if not name.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError), open(entry.path, "rb") as file:
                if lock(file.fileno()):
                    os.unlink(entry.path)


def in_words(error: Exception) -> str:
    """An error in words, without its traceback and without advice that does not apply here."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"the server cannot be reached ({error.reason})"
    # When a write fails, torch.save raises a RuntimeError about its archive; the reason is in the error before it.
    if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
        error = error.__context__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnicodeDecodeError):
        return f"it is no text in {error.encoding.upper()} (it has the byte 0x{error.object[error.start]:02x})"
    # torch's messages open with what went wrong and go on with how to load the file unsafely.
    first = str(error).partition("\n")[0].partition(". ")[0].strip().rstrip(".")
    return first[:200] or type(error).__name__


def compact_copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same values on the CPU, each with memory of its own and no more of it than it needs.

    torch.save would write the whole memory that a view looks at, and safetensors refuses shared memory.
    """
    compact: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        compact[name] = tensor
    return compact
