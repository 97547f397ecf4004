"""Files of `torch.save`, as published code writes them: weights, configuration and epoch, or a whole training."""

from __future__ import annotations

import argparse
import io
import pickle
import pickletools
import re
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import _weights_only_unpickler

from ..errors import CheckpointError
from ..files import in_words
from ..memory import is_out_of_memory
from ..refusals import verdict
from .contents import ACCEPTED
from .space import Room
from .wording import shape_of

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of files that torch.save wrote before it wrote zip archives
LEGACY_PICKLES = 4  # magic number, protocol, system, the object; the tensors' bytes follow
# What training scripts save beside tensors: the arguments they were called with, which are plain values.
ALLOWED: list[Any] = [argparse.Namespace]
ONE_AT_A_TIME = threading.Lock()  # what is allowed is the process's: of two that allow and restore it, one would fail


def read_torch(path: Path, dtype: torch.dtype | None) -> object:
    """What a file of `torch.save` holds: tensors on the CPU, and plain values.

    Args:
        dtype: that floating-point tensors are going to have, for the memory that this takes; None: that of the file.

    Raises:
        CheckpointError: anything else is in it, it is damaged or cut off, or too large for the memory that there is.
    """
    room = Room(str(path))
    room.take(path.stat().st_size)
    try:
        # For this file alone: what a process allows stays allowed for all that it loads.
        with ONE_AT_A_TIME, torch.serialization.safe_globals(ALLOWED):
            if zipfile.is_zipfile(path):
                room.take(check_archive(path, dtype))
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        refuse_pickle(path, error)
    except Exception as error:  # a damaged file raises nearly anything: KeyError, struct.error, UnicodeDecodeError, ...
        if is_out_of_memory(error):
            raise room.refusal() from None
        raise CheckpointError(
            f"the checkpoint {path} {verdict(error, 'is damaged, cut off or of another format')} ({in_words(error)}); "
            f"{ACCEPTED}"
        ) from None  # torch's own text recommends weights_only=False


def check_archive(path: Path, dtype: torch.dtype | None) -> int:
    """Look at a zip archive's members, and at its pickle without the tensors' numbers, before any memory is taken.

    torch.load takes the sizes of storages and tensors from the pickle: it reads beyond a member that is shorter, and
    grows a storage that is smaller than its tensor. This runs the same restricted unpickler on the meta device, which
    has sizes and no memory.

    Returns:
        How many bytes its floating-point numbers take more in a dtype than in the file.

    Raises:
        CheckpointError: a member is compressed, or a storage or tensor is larger than what the file has of it.
        pickle.UnpicklingError, and anything that damaged bytes make of unpickling.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise CheckpointError(f"the checkpoint {path} is compressed, or of another format; {ACCEPTED}")
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise CheckpointError(f"the members of the archive {path} are larger than itself; {ACCEPTED}")
        sizes = {member.filename: member.file_size for member in members}
        folder = members[0].filename.partition("/")[0] if members else ""
        if len(sizes) < len(members) or f"{folder}/data.pkl" not in sizes:
            raise CheckpointError(f"the archive {path} is damaged or of another format; {ACCEPTED}")
        content = archive.read(f"{folder}/data.pkl")
    storages: dict[str, tuple[torch.UntypedStorage, int]] = {}
    more: dict[str, int] = {}

    def storage_of(found: tuple[Any, ...]) -> torch.TypedStorage:
        _, kind, key, _, count = found
        stored = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        claimed, there = count * stored.itemsize, sizes.get(f"{folder}/data/{key}", -1)
        if not 0 <= claimed <= there:
            raise CheckpointError(
                f"a tensor in the checkpoint {path} claims {claimed} bytes of memory, and the file has "
                f"{max(there, 0)} of them: it is damaged, cut off or of another format; {ACCEPTED}"
            )
        if key not in storages:
            storages[key] = torch.UntypedStorage(there, device="meta"), there
        if dtype is not None and stored.is_floating_point:
            more[key] = max(0, dtype.itemsize - stored.itemsize) * count
        return torch.TypedStorage(wrap_storage=storages[key][0], dtype=stored, _internal=True)

    unpickler = _weights_only_unpickler.Unpickler(io.BytesIO(content), encoding="utf-8")
    unpickler.persistent_load = storage_of  # type: ignore[method-assign]
    unpickler.load()
    grown = next(((now.nbytes(), before) for now, before in storages.values() if now.nbytes() > before), None)
    if grown is not None:
        raise CheckpointError(
            f"a tensor in the checkpoint {path} claims {grown[0]} bytes of a memory of {grown[1]}; {ACCEPTED}"
        )
    return sum(more.values())


def check_sizes(tensors: Mapping[str, torch.Tensor], path: Path, most: int) -> None:
    """Tensors whose elements share memory (expanded ones, views of one storage) are small in a file and large in use.

    Raises:
        CheckpointError: a tensor has more elements than its memory, or all of them have more than the file's `most`
            bytes.
    """
    for name, tensor in tensors.items():
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{name} in the checkpoint {path} has the shape {shape_of(tensor)}, {tensor.nbytes} bytes, in "
                f"{tensor.untyped_storage().nbytes()} bytes of memory; tensors with memory of their own are accepted"
            )
    total = sum(tensor.nbytes for tensor in tensors.values())
    if total > most:
        raise CheckpointError(
            f"the tensors in the checkpoint {path} have {total} bytes, and the file has {most}: they share memory; "
            "tensors with memory of their own are accepted"
        )


def refuse_pickle(path: Path, error: pickle.UnpicklingError) -> NoReturn:
    """Say why torch's restricted unpickler stopped: at something it does not build, or at bytes that are no pickle."""
    if not is_whole_pickle(path):
        raise CheckpointError(f"the checkpoint {path} is damaged, cut off or of another format; {ACCEPTED}") from None
    raise dangerous(path, global_in(error)) from None  # torch's own text recommends weights_only=False


def global_in(error: pickle.UnpicklingError) -> str:
    """The name that torch's restricted unpickler stopped at, in quotes; empty where it was something else."""
    found = re.search(r"\bGLOBAL ([\w.]+)", str(error))
    return f"'{found[1]}'" if found else ""


def dangerous(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} contains something other than tensors and plain values{f' ({what})' if what else ''} "
        f"and was not loaded: such a file can run any program when it is loaded; {ACCEPTED}"
    )


def is_whole_pickle(path: Path) -> bool:
    """Whether the object in a file is a complete pickle. Reads its instructions and runs none."""
    if zipfile.is_zipfile(path):
        return True  # the directory of a zip archive is at its end, so nothing is cut off
    try:
        with open(path, "rb") as file:
            legacy = LEGACY_MAGIC in [argument for _, argument, _ in pickletools.genops(file)]
            for _ in range(LEGACY_PICKLES - 1 if legacy else 0):
                for _ in pickletools.genops(file):
                    pass  # genops raises where the pickle ends early
    except (ValueError, MemoryError, OverflowError):  # the last two: a damaged length
        return False
    return True
