"""The main job: `predict`, and where its GHN comes from: `load`."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import nn

from . import checkpoints
from .checkpoints import DEFAULT
from .errors import PredictError
from .files import in_words
from .graph import ArchGraph
from .nn import GHN, from_checkpoint
from .nn.ghn import M, S
from .nn.loading import check_dtype
from .prediction import Options, Report, run
from .surroundings import check_surroundings

if TYPE_CHECKING:
    from typing_extensions import Unpack

Source = str | os.PathLike[str]


def load(source: Source, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> GHN:
    """A GHN by name or from a file, in evaluation mode.

    Loading takes little more memory than the weights; whether they fit is known before they are read.

    Args:
        source: `ghn2-fashion` or `ghn2-mnist5k`, which come with the package; a published name (`ghn2-cifar10`,
            `ghn1-cifar10`, `mlp-cifar10`, `ghn2-imagenet`, `ghn1-imagenet`; with huggingface_hub `ghn3-t`, `ghn3-s`,
            `ghn3-l`, `ghn3-xl`), which is downloaded on first use; or the path of a .pt file in a published layout, of
            the checkpoint.pt of a run of training, or of a .safetensors file.
        device: where to put it; the CPU by default.
        dtype: of its weights: torch.float32, torch.float64, torch.float16 or torch.bfloat16; torch's default dtype by
            default. Half-precision weights take half the memory and stay as they are; what is predicted is computed in
            float32, from rounded weights. Against others, the relative error of a parameter was below 2e-2 with
            bfloat16, 2e-3 with float16, of the GHNs in the tests (tests/nn/test_halves.py).

    Raises:
        CheckpointError: the name or file is not known, cannot be had, is broken, does not fit its configuration, or
            needs more memory than there is.
        ConfigError: the dtype is another one.
        PredictError: the device cannot be used.
    """
    check_dtype(dtype)
    with torch.inference_mode(False):
        ghn = from_checkpoint(checkpoints.load(source, dtype or torch.get_default_dtype()), dtype)
    if checkpoints.is_included(source):
        ghn.name = source
    try:
        return ghn if device is None else ghn.to(device)
    except (RuntimeError, AssertionError) as error:  # torch raises either, by what is missing
        raise PredictError(f"the device {device!r} cannot be used: {in_words(error)}") from error


def default_ghn() -> GHN:
    """Loaded once for each default dtype of torch: that of another one may be rounded."""
    return default_ghn_in(torch.get_default_dtype())


@functools.lru_cache(maxsize=4)
def default_ghn_in(dtype: torch.dtype) -> GHN:
    return load(DEFAULT)


@overload
def predict(
    model: M, ghn: GHN | Source | None = None, *, report: Literal[False] = False, **options: Unpack[Options]
) -> M: ...
@overload
def predict(
    model: S, ghn: GHN | Source | None = None, *, report: Literal[False] = False, **options: Unpack[Options]
) -> S: ...
@overload
def predict(
    model: M, ghn: GHN | Source | None = None, *, report: Literal[True], **options: Unpack[Options]
) -> tuple[M, Report]: ...
@overload
def predict(
    model: S, ghn: GHN | Source | None = None, *, report: Literal[True], **options: Unpack[Options]
) -> tuple[S, list[Report]]: ...
@overload
def predict(
    model: M, ghn: GHN | Source | None = None, *, report: bool, **options: Unpack[Options]
) -> M | tuple[M, Report]: ...
@overload
def predict(
    model: S, ghn: GHN | Source | None = None, *, report: bool, **options: Unpack[Options]
) -> S | tuple[S, list[Report]]: ...
def predict(
    model: nn.Module | Sequence[nn.Module],
    ghn: GHN | Source | None = None,
    *,
    graph: ArchGraph | Sequence[ArchGraph] | None = None,
    input_shape: Sequence[int] | None = None,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    classifier: bool = True,
    report: bool = False,
) -> Any:
    """Predict all parameters of a model in one forward pass of a GHN, and write them into the model.

    Source: Parameter Prediction for Unseen Deep Architectures (Knyazev et al., NeurIPS 2021).

    Args:
        model: the model, or a list of models, which is one batch. On any device; parameters in float32, float64,
            float16 or bfloat16, frozen ones included.
        ghn: a GHN, or what `ghnfast.load` takes. By default `ghn2-fashion`, which knows 32x32 images of ten kinds of
            clothes: other input sizes and class counts get a `DomainWarning`.
        graph: what `ghnfast.trace(model)` returned, for models that were traced before; one per model.
        input_shape, example_inputs: see `ghnfast.trace`.
        classifier: whether the classification layer is predicted too; `False` leaves it as it is.
        report: also return which parameters were predicted, and why the others were not.

    Returns:
        What was given as `model`; with `report=True` the pair of it and a `Report` (a list of them for a list).

    Raises:
        TraceError: the model cannot be traced.
        CheckpointError: the GHN cannot be loaded.
        PredictError: the prediction failed. In every case the models are as they were before.
    """
    check_surroundings("predict", PredictError)  # before a GHN without numbers is kept as the default one
    if ghn is None:
        ghn = default_ghn()
    elif not isinstance(ghn, GHN):
        if not isinstance(ghn, (str, os.PathLike)):
            raise PredictError(f"ghn is a {type(ghn).__name__}; a ghnfast.GHN, a name or a path is accepted")
        ghn = load(ghn)
    return run(ghn, model, graph, input_shape, example_inputs, classifier, report, stacklevel=3)
