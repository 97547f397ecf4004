"""Writing files so that a failure leaves nothing behind, and saying in words why one failed."""

from __future__ import annotations

import contextlib
import os
import secrets
import urllib.error
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` at the end of the block, whole; on any error nothing is left of it.

    The temporary name is unique, so threads and processes may write the same path at once: the last one stays. It is
    opened here rather than by `tempfile`, whose files only their owner may read.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def in_words(error: Exception) -> str:
    """An error in words, without its traceback and without advice that does not apply here."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()  # it holds the connection
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"the server cannot be reached ({error.reason})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
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
