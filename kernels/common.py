"""What the kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Through exp, or near 0, where that cancels, by its series: an error of 1e-6 of the value at most."""
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    s = x * x
    near = x * (1.0 + s * (-1.0 / 3 + s * (2.0 / 15 + s * (-17.0 / 315 + s * (62.0 / 2835)))))
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def relu(x):
    """NaN stays NaN, which `tl.maximum` would make 0."""
    return tl.where(x < 0, 0.0, x)


@triton.jit
def rounded_to_tf32(x):
    """To the nearest: the multiplier would cut off the last 13 bits.

    The largest numbers, which would round to infinity, are cut off. NaN stays NaN: rounded, its bits could carry into
    the sign, and cut off, they could be those of infinity.
    """
    bits = x.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    rounded = tl.where(size < 0x7F7FF000, bits + 0x1000, bits) & -0x2000
    return tl.where(size > 0x7F800000, 0x7FC00000, rounded).to(tl.float32, bitcast=True)


@triton.jit
def rounded_to_bfloat16(x):
    """As a GPU rounds: Triton's interpreter would make other numbers of what is not a number."""
    return tl.where(x == x, x.to(tl.bfloat16).to(tl.float32), x)


@triton.jit
def split_for_tf32(x):
    """Numbers that TensorFloat-32 has: two whose sum is x but for 2^-23 of it, all of what is not finite in the first;
    and the first again, 0 where it is not finite."""
    high = rounded_to_tf32(x)
    is_finite = tl.abs(high) < float("inf")
    rest = tl.where(is_finite, x - high, 0.0).to(tl.int32, bitcast=True)
    return high, tl.where(is_finite, high, 0.0), ((rest + 0x1000) & -0x2000).to(tl.float32, bitcast=True)


@triton.jit
def add_exact(total, a, b):
    """total + a b on tensor cores, of operands of float32: each is the sum of two, and the product of the lesser ones
    is left out, which is 2^-22 of all. What tensor cores add up they cut off, so they start from nothing here: the
    total is rounded."""
    a_high, a_finite, a_low = split_for_tf32(a)
    b_high, b_finite, b_low = split_for_tf32(b)
    part = tl.dot(a_low, b_finite, input_precision="tf32")  # infinity times nothing would be no number
    part = tl.dot(a_finite, b_low, part, input_precision="tf32")
    return total + tl.dot(a_high, b_high, part, input_precision="tf32")


@triton.jit
def halves_of(x):
    """Two numbers whose sum is x but for 2^-20 of it, once a tensor core has cut off their last 13 bits, which the
    first does not have. What is not finite is in the first, and the second is then no number, or any.

    A few instructions, where `split_for_tf32` is a dozen: this is for where an infinity may become no number.
    """
    high = (x.to(tl.int32, bitcast=True) & -0x2000).to(tl.float32, bitcast=True)
    rest = (x - high).to(tl.int32, bitcast=True)
    return high, (rest + 0x1000).to(tl.float32, bitcast=True)


@triton.jit
def multiply_halves(a_high, a_low, b_high, b_low):
    """The product of two matrices of which these are the halves; that of the lesser ones is left out.

    Three sums that do not wait for each other. They are taken away: what is added to a product, Triton begins it with.
    """
    less = tl.dot(a_low, b_high, input_precision="tf32")
    other = tl.dot(a_high, b_low, input_precision="tf32")
    return tl.dot(a_high, b_high, input_precision="tf32") - (0.0 - less) - (0.0 - other)


@triton.jit
def fetch(parts, count, program, programs, LINES: tl.constexpr):
    """Bring parts of weights into the cache of the GPU, for the kernels that follow: this program's share.

    Asking for a line takes time, too: a large weight has to be shared out.

    Args:
        parts: (count, 2) int64: addresses of float32, and how many there are.
    """
    LINE: tl.constexpr = 32  # elements: 128 bytes
    for part in range(program, count, programs):
        first, elements = tl.load(parts + 2 * part).to(tl.pointer_type(tl.float32)), tl.load(parts + 2 * part + 1)
        for start in range(0, elements, LINES * LINE):
            place = start + tl.arange(0, LINES) * LINE
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [first + tl.minimum(place, elements - 1)],
                dtype=tl.int32, is_pure=False, pack=1,
            )  # fmt: skip


def blocks_of(count: int, size: int) -> int:
    """How many of a size it takes to cover so many. Triton's own `cdiv`, outside of kernels, takes microseconds."""
    return -(-count // size)


def power_of_two(number: int) -> int:
    """The least one that is no less than a positive number."""
    return 1 << (number - 1).bit_length()
