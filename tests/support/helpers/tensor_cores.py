"""Triton's interpreter multiplies in float32 where a GPU's tensor cores do not: sums of TF32 as those make them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

# How many products are added up at once, and the bits of an operand that are not looked at.
STEP, CUT = 8, 0x1FFF


def without_low_bits(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return (np.ascontiguousarray(x).view(np.int32) & ~CUT).view(np.float32)


def cut_off(x: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rounded towards zero."""
    rounded = x.astype(np.float32)
    beyond = np.isfinite(rounded) & (np.abs(rounded.astype(np.float64)) > np.abs(x))
    return np.where(beyond, np.nextafter(rounded, np.float32(0)), rounded)


def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands are cut to the 10 bits of TensorFloat-32, and so is each sum, to those of float32, after 8 products."""
    plain = InterpreterBuilder.create_dot

    def create_dot(builder: Any, a: Any, b: Any, total: Any, precision: Any, *others: Any) -> Any:
        if not str(precision).upper().endswith("TF32"):
            return plain(builder, a, b, total, precision, *others)
        left, right = without_low_bits(a.data).astype(np.float64), without_low_bits(b.data).astype(np.float64)
        found = total.data.astype(np.float32)
        for start in range(0, left.shape[1], STEP):
            part = slice(start, start + STEP)
            found = cut_off(found.astype(np.float64) + left[:, part] @ right[part])
        return TensorHandle(found, total.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
