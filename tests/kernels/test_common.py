"""kernels/common.py: products of float32 on tensor cores, of all numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from helpers import tensor_cores
from helpers.kernel_device import DEVICE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.kernels.common import add_exact, split_for_tf32

SIZE, CHUNK = 16, 16


@triton.jit
def product_kernel(a, b, product, width, SIZE: tl.constexpr, CHUNK: tl.constexpr):
    row, column = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    total = tl.zeros([SIZE, SIZE], dtype=tl.float32)
    for start in range(0, width, CHUNK):
        k = start + tl.arange(0, CHUNK)
        total = add_exact(total, tl.load(a + row * width + k[None, :]), tl.load(b + k[:, None] * SIZE + column))
    tl.store(product + row * SIZE + column, total)


@triton.jit
def split_kernel(x, parts, SIZE: tl.constexpr):
    own = tl.arange(0, SIZE)
    high, finite, low = split_for_tf32(tl.load(x + own))
    tl.store(parts + own, high)
    tl.store(parts + SIZE + own, finite)
    tl.store(parts + 2 * SIZE + own, low)


def product_of(a: Tensor, b: Tensor) -> Tensor:
    found = torch.empty(SIZE, SIZE, device=DEVICE)
    product_kernel[(1,)](a.contiguous().to(DEVICE), b.contiguous().to(DEVICE), found, a.shape[1], SIZE, CHUNK)
    return found.cpu()


@pytest.mark.parametrize("width", [16, 64, 512, 3072])
@pytest.mark.parametrize("are_positive", [True, False])
def test_products_are_those_of_float32(width: int, are_positive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as tensor cores add them up: within what torch's own products in float32 are wrong by, or a little more."""
    generator = torch.Generator().manual_seed(width)
    a, b = (torch.randn(shape, generator=generator) for shape in ((SIZE, width), (width, SIZE)))
    if are_positive:
        a, b = a.abs(), b.abs()
    if DEVICE == "cpu":
        tensor_cores.emulate(monkeypatch)
    wanted, most = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    assert ((product_of(a, b) - wanted).abs() <= 1e-6 * most).all()


@pytest.mark.skipif(DEVICE != "cpu", reason="of what is emulated")
def test_what_tf32_alone_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulated tensor cores are as coarse as real ones: the bound above is not met without the lesser parts."""
    tensor_cores.emulate(monkeypatch)
    monkeypatch.setitem(add_exact.fn.__globals__, "split_for_tf32", lambda x: (x, x, tl.zeros_like(x)))
    a, b = torch.rand(SIZE, 64), torch.rand(64, SIZE)
    assert ((product_of(a, b) - a.double() @ b.double()).abs() > 1e-5 * (a @ b)).any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, which interprets the kernels
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=SIZE, max_size=SIZE))
@settings(max_examples=60, deadline=None)
def test_parts_of_any_number(bits: list[int]) -> None:
    x = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    parts = torch.empty(3, SIZE, device=DEVICE)
    split_kernel[(1,)](x.to(DEVICE), parts, SIZE)
    high, finite, low = parts.cpu().numpy()
    numbers = x.numpy()
    assert np.array_equal(np.isnan(high), np.isnan(numbers))
    assert np.array_equal(high[np.isinf(numbers)], numbers[np.isinf(numbers)])
    ordinary = np.isfinite(numbers)
    assert np.isfinite(high[ordinary]).all()
    assert np.array_equal(finite, np.where(ordinary, high, 0))
    assert (low[~ordinary] == 0).all()
    for part in (finite, low):
        assert (part.view(np.int32) & tensor_cores.CUT == 0).all()
    error = np.abs(high[ordinary].astype(np.float64) + low[ordinary] - numbers[ordinary])
    # What is less than a normal number has fewer bits to be cut off.
    assert (error <= np.abs(numbers[ordinary].astype(np.float64)) * 2.0**-22 + 2.0**-136).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_infinity_is_no_less_than_it_was() -> None:
    """Times a number whose lesser part is nothing."""
    a, b = torch.ones(SIZE, 16), torch.ones(16, SIZE)
    a[3, 5], a[7, 2] = float("inf"), float("nan")
    found = product_of(a, b)
    assert (found[3] == float("inf")).all()
    assert found[7].isnan().all()
    assert (found[[0, 1, 2, 4, 5, 6, *range(8, 16)]] == 16).all()
