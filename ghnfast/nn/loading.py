"""GHNs from checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from .. import checkpoints
from ..errors import CheckpointError, ConfigError, PredictError
from ..files import compact_copies
from ..memory import unreadable
from ..randomness import CPU, SEED, drawing_from
from ..tracing.members import Members
from ..weightless import Uninitialized
from .config import GHNConfig, GHNSettings, is_count, names
from .names import with_published_names
from .registry import DECODERS, HYPERNETS

if TYPE_CHECKING:
    from .ghn import GHN

G = TypeVar("G", bound="GHN")

OURS = __name__.partition(".")[0]
REGISTRIES: tuple[tuple[str, Mapping[str, type]], ...] = (("hypernet", HYPERNETS), ("decoder", DECODERS))
WEIGHT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def made_of(kind: type[G], read: checkpoints.Checkpoint, dtype: torch.dtype | None = None) -> G:
    """A GHN of a class, with the configuration and weights of a checkpoint, in evaluation mode.

    The weights become the GHN's where they have the dtype already and memory of their own: they are no copies.

    Args:
        dtype: of the weights; None: torch's default.

    Raises:
        CheckpointError: the configuration has no meaning, or the weights do not fit it.
    """
    known, config = names(GHNConfig), settings_of(read.config)
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise CheckpointError(
            f"the configuration in {read.source} has {', '.join(unknown)}; accepted are {', '.join(known)}"
        )
    check_plausible(read)
    try:
        # Nothing is allocated before the weights are known to fit: a broken configuration could ask for any amount.
        # Parts of others may compute as they are made, and keep tensors that are in no file.
        own = is_our_own(kind, config)
        with torch.device("meta") if own else CPU, Uninitialized() if own else drawing_from(SEED):
            ghn = kind(**config)
    except (TypeError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
        raise CheckpointError(f"the configuration in {read.source} has no meaning: {error}") from error
    ghn = ghn if dtype is None else ghn.to(dtype)
    weights = checkpoints.fitted_weights(ghn, read, with_published_names)
    expected = with_published_names(ghn.state_dict())
    for name in list(weights):  # one after the other, for both forms of all take twice the memory
        weights[name] = checkpoints.as_type(weights[name], expected[name].dtype)
    ghn.load_state_dict(compact_copies(weights), assign=True)
    ghn.name, ghn.epoch, ghn.trained_on = read.source, read.epoch, read.trained_on
    return ghn.eval()


def is_our_own(kind: type[GHN], config: Mapping[str, Any]) -> bool:
    """Whether a GHN with this configuration is made of this package's parts alone."""
    given = [(config.get(name, getattr(GHNSettings, name)), known) for name, known in REGISTRIES]
    parts = [kind, *(known.get(name) if isinstance(name, str) else None for name, known in given)]
    return all(part is None or part.__module__.partition(".")[0] == OURS for part in parts)


def check_dtype(dtype: object) -> None:
    """Fail where weights cannot have this dtype; None is torch's default.

    Raises:
        ConfigError: it is another one.
    """
    if dtype is not None and dtype not in WEIGHT_DTYPES:
        accepted = ", ".join(map(str, WEIGHT_DTYPES))
        raise ConfigError(f"dtype is {dtype!r}; {accepted} are accepted for the weights of a GHN")


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's configuration in our terms.

    The code of GHN-3 writes a hypernet "gatedgnn" that it does not read, and `is_ghn2`; layers and heads are GHN-3's.
    """
    settings = dict(config)
    is_ghn2 = settings.pop("is_ghn2", None)
    if is_ghn2:
        settings.pop("layers", None)
        settings.pop("heads", None)
    elif {"layers", "heads"} <= set(settings) and settings.get("hypernet", "gatedgnn") == "gatedgnn":
        settings["hypernet"] = "graphormer"
    return settings


def check_plausible(read: checkpoints.Checkpoint) -> None:
    """Every number of a configuration is at most how many weights there are: there is a bias of this length.

    Even without memory for weights, making a GHN takes time and memory that grow with these numbers.

    Raises:
        CheckpointError: a number is larger.
    """
    elements = sum(weight.numel() for weight in read.state_dict.values() if isinstance(weight, Tensor))
    for name, value in read.config.items():
        sizes = [size for size in (value if isinstance(value, tuple) else (value,)) if is_count(size)]
        if math.prod(sizes[:2]) > elements or math.prod(sizes[2:]) > elements:
            raise CheckpointError(
                f"config['{name}'] in {read.source} is {value!r:.80}, and its weights have {elements} elements in all; "
                "the configuration of these weights is accepted"
            )


def check_readable(ghn: str, members: Members) -> None:
    """Raises an error that names a weight, and the GHN, where it cannot be read."""
    for name, weight in zip(members.names, members.parameters, strict=True):
        if (reason := unreadable(weight)) is not None:
            raise PredictError(f"the weight {name} of {ghn} {reason}")
