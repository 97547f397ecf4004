"""Reading checkpoints of both formats, and none of the ways in which a file can do harm."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import re
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import safetensors
import torch
from torch import _weights_only_unpickler

from ..errors import CheckpointError
from ..files import in_words
from .contents import ACCEPTED, FORMAT, SAFETENSORS_SUFFIX, Checkpoint, checkpoint_of, suffix_of
from .wording import listed, shape_of

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of files that torch.save wrote before it wrote zip archives
LEGACY_PICKLES = 4  # magic number, protocol, system, the object; the tensors' bytes follow


def read(path: str | os.PathLike[str], config: Mapping[str, Any] | None = None) -> Checkpoint:
    """Read a checkpoint: .pt or .pth in the published layout, or .safetensors written by `write`.

    Nothing in the file is run. Lists in the configuration become tuples, and `max_shape` is a tuple of 4 ints.

    Args:
        path: of the file.
        config: the configuration of a file that has none.

    Raises:
        CheckpointError: no such file, another format, a damaged or cut off file, anything in it but tensors and plain
            values, or parts that are missing or of the wrong type.
    """
    path = Path(path)
    suffix = suffix_of(path, "read")
    try:
        check_regular(path)
        empty = path.stat().st_size == 0
        with open(path, "rb"):
            pass  # only to know now that it may be opened: the readers below wrap such errors in their own
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {in_words(error)}") from error
    if empty:
        raise CheckpointError(f"the checkpoint {path} is empty (0 bytes); {ACCEPTED}")
    return (read_safetensors if suffix == SAFETENSORS_SUFFIX else read_published)(path, config)


def check_regular(path: Path) -> None:
    """A pipe would be waited for, and a device has no end.

    Raises:
        CheckpointError: it is there, and is neither a file nor a folder, which the system refuses in its own words.
        OSError: it is not there.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise CheckpointError(f"{path} is a pipe, a device or a socket; a regular file is accepted")


def read_published(path: Path, config: Mapping[str, Any] | None) -> Checkpoint:
    try:
        if zipfile.is_zipfile(path):
            check_archive(path)
        data = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        refuse_pickle(path, error)
    except Exception as error:  # a damaged file raises nearly anything: KeyError, struct.error, UnicodeDecodeError, ...
        raise CheckpointError(
            f"the checkpoint {path} is damaged, cut off or of another format ({in_words(error)}); {ACCEPTED}"
        ) from None  # torch's own text recommends weights_only=False
    if not isinstance(data, dict):
        raise CheckpointError(f"the checkpoint {path} holds a {type(data).__name__}, not a dict; {ACCEPTED}")
    if config is not None:
        data.setdefault("config", dict(config))
    missing = [key for key in ("state_dict", "config") if key not in data]
    if missing:
        raise CheckpointError(
            f"the checkpoint {path} has no {listed(missing)} (it has {listed(data) or 'no keys'}); {ACCEPTED}"
        )
    checkpoint = checkpoint_of(data["config"], data["state_dict"], str(path), data.get("epoch"), data.get("trained_on"))
    check_sizes(checkpoint.state_dict, path)
    return checkpoint


def check_archive(path: Path) -> None:
    """Look at a zip archive's members, and at its pickle without the tensors' numbers, before any memory is taken.

    torch.load takes the sizes of storages and tensors from the pickle: it reads beyond a member that is shorter, and
    grows a storage that is smaller than its tensor. This runs the same restricted unpickler on the meta device, which
    has sizes and no memory.

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

    def storage_of(found: tuple[Any, ...]) -> torch.TypedStorage:
        _, kind, key, _, count = found
        dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
        claimed, there = count * dtype.itemsize, sizes.get(f"{folder}/data/{key}", -1)
        if not 0 <= claimed <= there:
            raise CheckpointError(
                f"a tensor in the checkpoint {path} claims {claimed} bytes of memory, and the file has "
                f"{max(there, 0)} of them: it is damaged, cut off or of another format; {ACCEPTED}"
            )
        if key not in storages:
            storages[key] = torch.UntypedStorage(there, device="meta"), there
        return torch.TypedStorage(wrap_storage=storages[key][0], dtype=dtype, _internal=True)

    unpickler = _weights_only_unpickler.Unpickler(io.BytesIO(content), encoding="utf-8")
    unpickler.persistent_load = storage_of  # type: ignore[method-assign]
    unpickler.load()
    grown = next(((now.nbytes(), before) for now, before in storages.values() if now.nbytes() > before), None)
    if grown is not None:
        raise CheckpointError(
            f"a tensor in the checkpoint {path} claims {grown[0]} bytes of a memory of {grown[1]}; {ACCEPTED}"
        )


def check_sizes(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Tensors whose elements share memory (expanded ones, views of one storage) are small in a file and large in use.

    Raises:
        CheckpointError: a tensor has more elements than its memory, or all of them have more than the file.
    """
    for name, tensor in tensors.items():
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{name} in the checkpoint {path} has the shape {shape_of(tensor)}, {tensor.nbytes} bytes, in "
                f"{tensor.untyped_storage().nbytes()} bytes of memory; tensors with memory of their own are accepted"
            )
    total, most = sum(tensor.nbytes for tensor in tensors.values()), path.stat().st_size
    if total > most:
        raise CheckpointError(
            f"the tensors in the checkpoint {path} have {total} bytes, and the file has {most}: they share memory; "
            "tensors with memory of their own are accepted"
        )


def refuse_pickle(path: Path, error: pickle.UnpicklingError) -> NoReturn:
    """Say why torch's restricted unpickler stopped: at something it does not build, or at bytes that are no pickle."""
    if not is_whole_pickle(path):
        raise CheckpointError(f"the checkpoint {path} is damaged, cut off or of another format; {ACCEPTED}") from None
    found = re.search(r"\bGLOBAL ([\w.]+)", str(error))
    what = f" ('{found[1]}')" if found else ""
    raise CheckpointError(
        f"the checkpoint {path} contains something other than tensors and plain values{what} and was not loaded: such "
        f"a file can run any program when it is loaded; {ACCEPTED}"
    ) from None  # torch's own text recommends weights_only=False


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


def read_safetensors(path: Path, config: Mapping[str, Any] | None) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies, for the tensors of safe_open are the file itself, which may be replaced while they live.
            names = file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint {path} is damaged, cut off or of another format ({in_words(error)}); {ACCEPTED}"
        ) from error
    if config is not None and not any(key.startswith("ghnfast_") for key in metadata):
        return checkpoint_of(dict(config), tensors, str(path), None, None)
    if metadata.get("ghnfast_format") != FORMAT or "ghnfast_config" not in metadata:
        found = listed(f"{key}={value[:40]}" for key, value in metadata.items())
        raise CheckpointError(
            f"the checkpoint {path} is not one that this version of ghnfast writes: its metadata has "
            f"{found or 'nothing'}; accepted: 'ghnfast_format' = '{FORMAT}' beside 'ghnfast_config'"
        )
    epoch = metadata.get("ghnfast_epoch")
    trained_on = metadata.get("ghnfast_trained_on")
    try:
        own = json.loads(metadata["ghnfast_config"])
        number = None if epoch is None else int(epoch)
        images = None if trained_on is None else json.loads(trained_on)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"the metadata of the checkpoint {path} is damaged ({in_words(error)}); accepted: a JSON object in "
            "'ghnfast_config', an integer in 'ghnfast_epoch', a JSON list in 'ghnfast_trained_on'"
        ) from error
    return checkpoint_of(own, tensors, str(path), number, images)
