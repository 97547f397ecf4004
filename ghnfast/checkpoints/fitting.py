"""A checkpoint's weights as a module takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from ..errors import CheckpointError
from .contents import Checkpoint, plain_tensors
from .wording import shape_of, some

PIECE_ELEMENTS = 1 << 17


def fitted_weights(
    module: nn.Module,
    checkpoint: Checkpoint,
    rename: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]] = dict,
) -> dict[str, torch.Tensor]:
    """A checkpoint's weights as a module's `load_state_dict` takes them, all of them checked.

    `rename` gives the names that files have to the module's weights, and to those of a file that has the module's.
    The 1x1 convolution weights (out, in, 1, 1) may be given as (out, in), as the GHN-3 code base stores them. The
    module may be on the meta device: only its names, shapes and dtypes count.

    Raises:
        CheckpointError: missing or unexpected names, wrong shapes, values that are no floating-point numbers where the
            module has such (what it counts is in its own dtype), NaN or infinite values; it names the first few of
            each.
    """
    expected = rename({name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)})
    given = rename(plain_tensors(checkpoint.state_dict, checkpoint.source))
    faults: dict[str, list[str]] = {
        "missing keys": [f"{name} {shape_of(value)}" for name, value in expected.items() if name not in given],
        "unexpected keys": [f"{name} {shape_of(value)}" for name, value in given.items() if name not in expected],
    }
    fitted: dict[str, torch.Tensor] = {}
    for name in [name for name in expected if name in given]:
        fault, what = misfit(expected[name], given[name])
        if fault:
            faults.setdefault(fault, []).append(f"{name} {what}")
        else:
            fitted[name] = given[name].reshape(expected[name].shape)
    found = [f"{fault}: {some(names)}" for fault, names in faults.items() if names]
    if found:
        raise CheckpointError(
            f"the checkpoint {checkpoint.source} does not fit its configuration, and nothing was loaded; "
            f"{'; '.join(found)}. Accepted: finite floating-point weights with the names and shapes that the "
            "configuration asks for"
        )
    return fitted


def misfit(expected: torch.Tensor, given: torch.Tensor) -> tuple[str, str]:
    """What keeps a given tensor from taking an expected one's place: the kind of fault and its details, or ("", "")."""
    as_matrix = expected.shape[:2] if expected.dim() == 4 and expected.shape[2:] == (1, 1) else expected.shape
    if given.shape not in (expected.shape, as_matrix):
        return "wrong shapes", f"expected {shape_of(expected)}, given {shape_of(given)}"
    if expected.is_floating_point() != given.is_floating_point():
        fault = "no floating-point numbers" if expected.is_floating_point() else "no integers"
        return fault, f"expected {expected.dtype}, given {given.dtype}"
    if not expected.is_floating_point() and expected.dtype != given.dtype:
        return "other numbers", f"expected {expected.dtype}, given {given.dtype}"
    if not all_finite(given, expected.dtype):
        return "NaN or infinite values", f"{shape_of(given)} in {expected.dtype}"
    return "", ""


def all_finite(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether all numbers are finite once they are converted: 1e300 is infinite in float32. In pieces, for memory."""
    return all(bool(torch.isfinite(part.to(dtype)).all()) for part in tensor.reshape(-1).split(PIECE_ELEMENTS))
