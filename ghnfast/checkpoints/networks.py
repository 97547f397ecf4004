"""Weights of networks, as `torch.save(model.state_dict(), path)` and safetensors write them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from .contents import SAFETENSORS_SUFFIX, plain_tensors, suffix_of
from .inferring import is_state_of_ghn3
from .reading import HEAD_BYTES, check_regular, is_dump
from .safetensors_files import read_safetensors
from .torch_files import check_sizes, read_torch


def network_weights(path: Path) -> dict[str, Tensor] | None:
    """The state dict of a network in a file, also under the name `state_dict`; None where it is a GHN's file.

    Raises:
        CheckpointError: see `ghnfast.checkpoints.read`.
        OSError: the file cannot be read.
    """
    suffix = suffix_of(path, "read")
    check_regular(path)
    if suffix == SAFETENSORS_SUFFIX:
        metadata, tensors = read_safetensors(path, None)
        is_ghn = any(key.startswith("ghnfast_") for key in metadata) or is_state_of_ghn3(tensors)
        return None if is_ghn else tensors
    with open(path, "rb") as file:
        if is_dump(file.read(HEAD_BYTES)):
            return None
    data = read_torch(path, None)
    if not isinstance(data, dict) or "config" in data:
        return None
    state = data.get("state_dict", data)
    if is_state_of_ghn3(state):
        return None
    weights = plain_tensors(state, str(path))
    for name, tensor in weights.items():  # tied ones share memory, so each by itself
        check_sizes({name: tensor}, path, path.stat().st_size)
    return weights
