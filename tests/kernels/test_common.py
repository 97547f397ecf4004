"""kernels/common.py: products of float32 on tensor cores, of all numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from helpers import tensor_cores
from helpers.kernel_device import DEVICE
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.kernels.common import add_exact, halves_of, multiply_halves, split_for_tf32

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


@triton.jit
def halves_kernel(a, b, parts, product, SIZE: tl.constexpr, WIDTH: tl.constexpr):
    """Those of a, (SIZE, WIDTH), and its product with b, (WIDTH, SIZE)."""
    row, k, column = tl.arange(0, SIZE)[:, None], tl.arange(0, WIDTH), tl.arange(0, SIZE)[None, :]
    a_high, a_low = halves_of(tl.load(a + row * WIDTH + k[None, :]))
    b_high, b_low = halves_of(tl.load(b + k[:, None] * SIZE + column))
    tl.store(parts + row * WIDTH + k[None, :], a_high)
    tl.store(parts + SIZE * WIDTH + row * WIDTH + k[None, :], a_low)
    tl.store(product + row * SIZE + column, multiply_halves(a_high, a_low, b_high, b_low))


def halves_and_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    parts, found = torch.empty(2, *a.shape, device=DEVICE), torch.empty(SIZE, SIZE, device=DEVICE)
    halves_kernel[(1,)](a.contiguous().to(DEVICE), b.contiguous().to(DEVICE), parts, found, SIZE, a.shape[1])
    high, low = parts.cpu()
    return high, low, found.cpu()


def product_of(a: Tensor, b: Tensor) -> Tensor:
    found = torch.empty(SIZE, SIZE, device=DEVICE)
    product_kernel[(1,)](a.contiguous().to(DEVICE), b.contiguous().to(DEVICE), found, a.shape[1], SIZE, CHUNK)
    return found.cpu()


def products_to_find(width: int, are_positive: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two matrices, their product in float64, and that of their absolute values."""
    generator = torch.Generator().manual_seed(width)
    a, b = (torch.randn(shape, generator=generator) for shape in ((SIZE, width), (width, SIZE)))
    if are_positive:
        a, b = a.abs(), b.abs()
    return a, b, a.double() @ b.double(), a.double().abs() @ b.double().abs()


@pytest.mark.parametrize("width", [16, 64, 512, 3072])
@pytest.mark.parametrize("are_positive", [True, False])
def test_products_are_those_of_float32(width: int, are_positive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also as tensor cores add them up: within what torch's own products in float32 are wrong by, or a little more."""
    a, b, wanted, most = products_to_find(width, are_positive)
    if DEVICE == "cpu":
        tensor_cores.emulate(monkeypatch)
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


@pytest.mark.parametrize("width", [16, 64, 128])
@pytest.mark.parametrize("are_positive", [True, False])
def test_products_of_halves(width: int, are_positive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of tensor cores are cut off once for each few products."""
    a, b, wanted, most = products_to_find(width, are_positive)
    if DEVICE == "cpu":
        tensor_cores.emulate(monkeypatch)
    *_, found = halves_and_product(a, b)
    assert ((found - wanted).abs() <= 2e-6 * most).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=SIZE, max_size=SIZE))
@example([0x7F7FFFFF, 0x7F7FFFFE, 0x7F800000, 1] * (SIZE // 4))
@settings(max_examples=60, deadline=None)
def test_halves_of_any_number(bits: list[int]) -> None:
    x = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    # Sums are half of each number: the largest is nearer to infinity than products of halves are exact.
    first, second, product = halves_and_product(x[:, None].expand(SIZE, 16), torch.ones(16, SIZE) / 32)
    numbers, high, low = x.numpy(), first[:, 0].numpy(), tensor_cores.without_low_bits(second[:, 0].numpy())
    ordinary = np.isfinite(numbers)
    assert np.array_equal(high, tensor_cores.without_low_bits(high), equal_nan=True)
    assert np.array_equal(np.isfinite(high), ordinary)
    assert np.isfinite(low[ordinary]).all()
    error = np.abs(high[ordinary].astype(np.float64) + low[ordinary] - numbers[ordinary])
    assert (error <= np.abs(numbers[ordinary].astype(np.float64)) * 2.0**-20 + 2.0**-136).all()
    # What is not finite does not vanish, and nothing else becomes that, in this row or another.
    assert np.array_equal(product.isfinite().numpy(), np.repeat(ordinary[:, None], SIZE, 1))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan")])
@pytest.mark.parametrize("other", [0.0, 1.0, 1.1, -3e38, 1e-42])
def test_products_of_halves_that_are_not_finite(number: float, other: float) -> None:
    """Whatever they are multiplied by, on either side."""
    a, b = torch.ones(SIZE, 16), torch.full((16, SIZE), other)
    a[3, 5] = number
    for transposed in (False, True):
        *_, found = halves_and_product(b.T, a.T) if transposed else halves_and_product(a, b)
        own = found.T[3] if transposed else found[3]
        assert not own.isfinite().any()
        rest = (found.T if transposed else found)[[*range(3), *range(4, SIZE)]]
        torch.testing.assert_close(rest, torch.ones(SIZE - 1, 16) @ b)
