"""Reading checkpoints of all formats, and none of the ways in which a file can do harm."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..files import in_words
from .contents import ACCEPTED, FORMAT, SAFETENSORS_SUFFIX, Checkpoint, as_types, checkpoint_of, suffix_of
from .inferring import inferred_config, is_state_of_ghn3
from .joblib_files import read_dump
from .safetensors_files import read_safetensors
from .streams import LZ4, is_compressed
from .torch_files import LEGACY_MAGIC, check_sizes, read_torch
from .wording import listed

HEAD_BYTES = 64
LEGACY_HEAD = 24  # the magic number is the first thing in such a file, after the marks of protocol and frame


def read(
    path: str | os.PathLike[str], config: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None
) -> Checkpoint:
    """Read a checkpoint: .pt or .pth in a published layout or of a run of training, or .safetensors written by `write`.

    Nothing in the file is run. Lists in the configuration become tuples, and `max_shape` is a tuple of 4 ints.

    Args:
        path: of the file.
        config: the configuration of a file that has none. That of a GHN-3 follows from its weights.
        dtype: of the weights; None: as in the file. The memory that reading takes is little more than that of the
            weights.

    Raises:
        CheckpointError: no such file, another format, a damaged or cut off file, anything in it but tensors and plain
            values, parts that are missing or of the wrong type, or more weights than there is memory.
    """
    path = Path(path)
    suffix = suffix_of(path, "read")
    try:
        check_regular(path)
        empty = path.stat().st_size == 0
        with open(path, "rb") as file:  # the readers below wrap such errors in their own
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {in_words(error)}") from error
    if empty:
        raise CheckpointError(f"the checkpoint {path} is empty (0 bytes); {ACCEPTED}")
    if suffix == SAFETENSORS_SUFFIX:
        return read_own(path, config, dtype)
    if head.startswith(LZ4):
        known = "zlib, gzip, bz2, xz and lzma are accepted"
        raise CheckpointError(f"the checkpoint {path} is compressed with lz4; {known}")
    if is_dump(head):
        data, most = read_dump(path, head, dtype)
        most *= 1 if dtype is None else dtype.itemsize  # of numbers that had a byte at least
    else:
        data, most = read_torch(path, dtype), path.stat().st_size
    return published(data, path, most, config, dtype)


def check_regular(path: Path) -> None:
    """A pipe would be waited for, and a device has no end.

    Raises:
        CheckpointError: it is there, and is neither a file nor a folder, which the system refuses in its own words.
        OSError: it is not there.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise CheckpointError(f"{path} is a pipe, a device or a socket; a regular file is accepted")


def is_dump(head: bytes) -> bool:
    """Whether a file that begins so is joblib's, not torch's: compressed, or a pickle of a protocol with frames."""
    if LEGACY_MAGIC.to_bytes(10, "little") in head[:LEGACY_HEAD]:
        return False  # torch writes the protocol that it is asked for
    return is_compressed(head) or head[:2] in (b"\x80\x04", b"\x80\x05")


def published(
    data: object, path: Path, most: int, config: Mapping[str, Any] | None, dtype: torch.dtype | None
) -> Checkpoint:
    """The checkpoint in what a published file holds: weights beside their configuration, or those of a GHN-3 alone."""
    if not isinstance(data, dict):
        raise CheckpointError(f"the checkpoint {path} holds a {type(data).__name__}, not a dict; {ACCEPTED}")
    if "state_dict" not in data and is_state_of_ghn3(data):
        data = {"state_dict": data}
    elif "state_dict" not in data and {"ghn", "ghn_config"} <= data.keys():  # its `config` is that of the run
        data.update(state_dict=data["ghn"], config=data["ghn_config"])
    if "config" not in data and config is not None:
        data["config"] = dict(config)
    elif "config" not in data and is_state_of_ghn3(data.get("state_dict")):
        data["config"] = inferred_config(data["state_dict"], str(path))
    missing = [key for key in ("state_dict", "config") if key not in data]
    if missing:
        raise CheckpointError(
            f"the checkpoint {path} has no {listed(missing)} (it has {listed(data) or 'no keys'}); {ACCEPTED}"
        )
    parts = {key: data.get(key) for key in ("config", "state_dict", "epoch", "trained_on")}
    data.clear()  # the state of an optimizer is twice as large as the weights
    checkpoint = checkpoint_of(parts["config"], parts["state_dict"], str(path), parts["epoch"], parts["trained_on"])
    parts.clear()
    check_sizes(checkpoint.state_dict, path, most)
    as_types(checkpoint.state_dict, dtype)
    return checkpoint


def read_own(path: Path, config: Mapping[str, Any] | None, dtype: torch.dtype | None) -> Checkpoint:
    metadata, tensors = read_safetensors(path, dtype)
    if config is not None and not any(key.startswith("ghnfast_") for key in metadata):
        return checkpoint_of(dict(config), tensors, str(path), None, None)
    if is_state_of_ghn3(tensors) and not any(key.startswith("ghnfast_") for key in metadata):
        return checkpoint_of(inferred_config(tensors, str(path)), tensors, str(path), None, None)
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
