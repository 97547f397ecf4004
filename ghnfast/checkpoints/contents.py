"""What a checkpoint consists of, in whichever format, and what is accepted as its parts."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import CheckpointError
from .wording import kind_of, some

PICKLE_SUFFIXES = (".pt", ".pth")
SAFETENSORS_SUFFIX = ".safetensors"
FORMAT = "1"

ACCEPTED = (
    'accepted: .pt or .pth in the published layout, torch.save({"state_dict": ..., "config": ..., "epoch": ...}), '
    "the checkpoint.pt of a run of training, or the weights of a GHN-3 as joblib writes them, and .safetensors "
    "written by ghnfast"
)


class TrainedOn(NamedTuple):
    """The images that a GHN was trained on: their name, and the shape (channels, height, width) of one."""

    data: str
    input_shape: tuple[int, int, int]


def plain_images(images: TrainedOn | None) -> tuple[str, list[int]] | None:
    """As files have it."""
    return images and (images.data, list(images.input_shape))


def of_a_run(config: dict[str, Any], images: TrainedOn | None) -> dict[str, Any]:
    """What the checkpoint of a run of training has beside its weights, `ghn`: it can be loaded as a GHN."""
    return {"ghn_config": config, "trained_on": plain_images(images)}


def images_in_words(known: TrainedOn | None) -> str:
    """What a GHN was trained on, as the beginning of more; nothing where it is not known."""
    return "" if known is None else f"trained on {known.data}, {'x'.join(map(str, known.input_shape))}, "


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A GHN as a file holds it.

    Attributes:
        config: constructor arguments of `ghnfast.GHN`: numbers, booleans, strings, None, and tuples of them.
        state_dict: the weights by name, on the CPU when they were read from a file.
        source: where it was read from, for messages.
        epoch: the epoch it was saved after, counted from 0, where it is known.
        trained_on: what it was trained on, where it is known.
    """

    config: dict[str, Any]
    state_dict: dict[str, torch.Tensor] = field(repr=False)
    source: str
    epoch: int | None = None
    trained_on: TrainedOn | None = None


def suffix_of(path: Path, verb: str) -> str:
    suffix = path.suffix.lower()
    if suffix not in (*PICKLE_SUFFIXES, SAFETENSORS_SUFFIX):
        raise CheckpointError(f"cannot {verb} the checkpoint {path}: its suffix is '{path.suffix}'; {ACCEPTED}")
    return suffix


def checkpoint_of(config: object, state_dict: object, source: str, epoch: object, trained_on: object) -> Checkpoint:
    """A checkpoint of these parts, or a CheckpointError that says which of them is not what it should be."""
    if epoch is not None and type(epoch) is not int:
        raise CheckpointError(f"'epoch' in the checkpoint {source} is {kind_of(epoch)}; accepted: an int or None")
    images = None if trained_on is None else plain_trained_on(trained_on, source)
    return Checkpoint(plain_config(config, source), plain_tensors(state_dict, source), source, epoch, images)


def plain_trained_on(value: object, source: str) -> TrainedOn:
    match value:
        case [str(data), [int(channels), int(height), int(width)]] if min(channels, height, width) > 0:
            return TrainedOn(data, (channels, height, width))
    raise CheckpointError(
        f"'trained_on' in the checkpoint {source} is {reprlib.repr(value)}; accepted: the name of the images and "
        "(channels, height, width)"
    )


def plain_config(config: object, source: str) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise CheckpointError(
            f"'config' in the checkpoint {source} is {kind_of(config)}; accepted: a dict of the constructor arguments"
        )
    plain: dict[str, Any] = {}
    for key, value in config.items():
        value = tuple(value) if isinstance(value, (list, tuple)) else value
        # Exact types: a numpy.float64 is a float, but a file with one cannot be read back safely.
        wrong = [part for part in (value if type(value) is tuple else (value,)) if not is_plain_value(part)]
        if type(key) is not str or wrong:
            kind = kind_of(wrong[0] if wrong else key)
            raise CheckpointError(
                f"config[{reprlib.repr(key)}] in the checkpoint {source} is {kind}; accepted: names with an "
                "int, float, bool, str or None each, or a list or tuple of these"
            )
        plain[key] = value
    if "max_shape" in plain:
        shape = plain["max_shape"]
        if type(shape) is not tuple or len(shape) != 4 or any(type(n) is not int or n < 1 for n in shape):
            raise CheckpointError(
                f"config['max_shape'] in the checkpoint {source} is {shape!r}; accepted: 4 positive ints "
                "(out, in, height, width)"
            )
    return plain


def is_plain_value(value: object) -> bool:
    return value is None or type(value) in (bool, int, float, str)


def plain_tensors(state_dict: object, source: str) -> dict[str, torch.Tensor]:
    if not isinstance(state_dict, dict):
        raise CheckpointError(
            f"'state_dict' in the checkpoint {source} is {kind_of(state_dict)}; accepted: a dict of tensors by name"
        )
    wrong = [key for key, value in state_dict.items() if type(key) is not str or not is_plain_tensor(value)]
    if wrong:
        kinds = [f"{key!r} ({kind_of(state_dict[key])})" for key in wrong]
        raise CheckpointError(
            f"'state_dict' in the checkpoint {source} has {some(kinds)}; accepted: names with a dense tensor each"
        )
    return {name: tensor.detach() for name, tensor in state_dict.items()}


def is_plain_tensor(value: object) -> bool:
    """Dense numbers in memory: not sparse, nested, quantized, or on the meta device."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return False
    return not (value.is_nested or value.is_quantized or value.is_meta)


def as_type(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor, with its floating-point numbers in a dtype; None leaves them."""
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)


def as_types(tensors: dict[str, torch.Tensor], dtype: torch.dtype | None) -> None:
    """The same for each of a dictionary's, in it: one after the other, for both forms of all take twice the memory."""
    for name in list(tensors):
        tensors[name] = as_type(tensors[name], dtype)
