"""Files of safetensors: their metadata and tensors, each read into memory of its own, and written from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import safetensors.torch
import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import in_words
from ..memory import is_out_of_memory
from ..refusals import verdict
from .contents import ACCEPTED
from .space import Room

CHUNK_ELEMENTS = 1 << 20
METADATA = "__metadata__"  # what the library calls them in the header
HEADER_AT, ALIGNMENT = 8, 8  # in bytes: the header comes after its length, and the numbers are aligned
FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_safetensors(path: Path, dtype: torch.dtype | None) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A file's metadata, and its tensors on the CPU.

    The library maps the file into memory, which counts as the process's beside the tensors, and may be replaced while
    they live. So floating-point tensors are read here, in pieces, from where the library has found them to be.

    Args:
        dtype: of floating-point tensors; None: as in the file.

    Raises:
        CheckpointError: the file is damaged or cut off, or too large for the memory that there is.
    """
    room = Room(str(path))
    try:
        with open(path, "rb"), open(path, "rb"), open(path, "rb"):
            pass  # as often as below, where the library says of a file that it could not open that it is not there
        with open(path, "rb") as data, safetensors.safe_open(path, framework="pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.offset_keys()}
            kinds = {name: FLOATS.get(file.get_slice(name).get_dtype()) for name in shapes}
            floats = {name: kind for name, kind in kinds.items() if kind is not None}
            room.take(sum(math.prod(shapes[name]) * (dtype or kind).itemsize for name, kind in floats.items()))
            others = {name: file.get_tensor(name).clone() for name in shapes if name not in floats}
            # Past the header, whose length comes first.
            data.seek(HEADER_AT + int.from_bytes(data.read(HEADER_AT), "little"))
            tensors: dict[str, Tensor] = {}
            for name in shapes:  # in the order of the file, which has no gaps
                if name in others:
                    tensors[name] = others[name]
                    data.seek(others[name].nbytes, 1)
                else:
                    tensors[name] = read_tensor(data, shapes[name], floats[name], dtype or floats[name])
            return file.metadata() or {}, tensors
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            room.taken = room.taken or path.stat().st_size  # the library could not even map the file
            raise room.refusal() from None
        raise CheckpointError(
            f"the checkpoint {path} {verdict(error, 'is damaged, cut off or of another format')} ({in_words(error)}); "
            f"{ACCEPTED}"
        ) from error


def read_tensor(data: BinaryIO, shape: list[int], stored: torch.dtype, dtype: torch.dtype) -> Tensor:
    """The next tensor of a file, of this shape and dtype."""
    tensor = torch.empty(shape, dtype=dtype, device="cpu")
    # One buffer for all pieces that are converted: of two, the next would be there before the last is gone.
    elements = 0 if dtype == stored else min(tensor.numel(), CHUNK_ELEMENTS)
    buffer = torch.empty(elements, dtype=stored, device="cpu")
    for part in tensor.view(-1).split(CHUNK_ELEMENTS):
        read = part if dtype == stored else buffer[: len(part)]
        if data.readinto(read.view(torch.uint8).numpy()) != read.nbytes:  # type: ignore[attr-defined]
            raise CheckpointError(f"the file became shorter while it was read; {ACCEPTED}")
        if read is not part:
            part.copy_(read)
    return tensor


def write_safetensors(file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write what the library's `save` makes, without a copy of all tensors in memory, and with metadata in their order:
    it writes them in another one each time, and the same weights would have other checksums.

    Its `save_file` would write beside the file, under a name of its own: what it leaves when it is killed, nobody could
    tell from other files, and it stays.

    Args:
        tensors: on the CPU, each with memory of its own (`compact_copies`).

    Raises:
        KeyError, ValueError, safetensors.SafetensorError: the library has no such type of numbers, or name.
        OSError: the file cannot be written.
    """
    # Of tensors without elements: the library says in which order they are, and what it calls their types.
    empty = {name: torch.empty(0, dtype=tensor.dtype, device="cpu") for name, tensor in tensors.items()}
    header = json.loads(safetensors.torch.save(empty, dict(metadata))[HEADER_AT:])
    header[METADATA] = dict(metadata)
    names = [name for name in header if name != METADATA]
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].nbytes
        header[name] |= {"shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    file.write(len(text).to_bytes(HEADER_AT, "little") + text)
    for name in names:
        storage = tensors[name].untyped_storage()
        file.write(torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).numpy())  # type: ignore[call-overload]
