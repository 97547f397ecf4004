"""Hostile numbers, arrays, bytes and values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Random = np.random.Generator

EXTREMES = (
    -(2**63),
    -(2**31),
    -129,
    -2,
    -1,
    0,
    1,
    2,
    3,
    127,
    255,
    256,
    65536,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63 - 1,
)


def chance(random: Random, probability: float = 0.5) -> bool:
    return bool(random.random() < probability)


def pick(random: Random, values: Any) -> Any:
    return values[int(random.integers(len(values)))]


def extreme(random: Random, dtype: Any = np.int64) -> int:
    """An integer at an end of something, within the type."""
    limits = np.iinfo(dtype)
    return int(np.clip(pick(random, EXTREMES) + int(random.integers(-1, 2)), limits.min, limits.max))


def spoil(random: Random, array: Array, probability: float = 0.4) -> Array:
    """An array of integers or numbers, perhaps with other entries, another length, or in another form."""
    if not chance(random, probability):
        return array
    array = array.copy()
    way = int(random.integers(6))
    flat = array.reshape(-1)
    if way <= 1 and flat.size:
        for _ in range(int(random.integers(1, 4))):
            is_integer = np.issubdtype(array.dtype, np.integer)
            value = extreme(random, array.dtype) if is_integer else pick(random, (np.nan, np.inf, -np.inf, 1e30, 0))
            flat[int(random.integers(flat.size))] = value
        return array
    if way == 2 and flat.size:
        flat[int(random.integers(flat.size))] += int(random.integers(-2, 3)) if array.dtype.kind == "i" else 1
        return array
    if way == 3:
        return array[: int(random.integers(len(array) + 1))] if array.ndim else array
    if way == 4:
        return np.concatenate([array, array[: int(random.integers(len(array) + 1))]]) if array.ndim else array
    return array[..., None] if chance(random) else np.asfortranarray(array[::-1])


def damaged(random: Random, content: bytes) -> bytes:
    """A file after an accident: flipped bits, a torn end, lost, doubled or zeroed blocks."""
    found = bytearray(content)
    for _ in range(int(random.integers(1, 4))):
        at = int(random.integers(len(found) + 1))
        size = min(int(random.integers(1, 1 + max(1, len(found) // 4))), 4096)
        way = int(random.integers(8))
        if way == 0:
            del found[at:]
        elif way == 1:
            found[at : at + size] = bytes(len(found[at : at + size]))
        elif way == 2:
            del found[at : at + size]
        elif way == 3:
            found[at:at] = found[at : at + size]
        elif way == 4:
            found += bytes(size)
        elif way == 5:
            found[at : at + size] = random.bytes(len(found[at : at + size]))
        elif found:
            for _ in range(int(random.integers(1, 9))):
                found[int(random.integers(len(found)))] ^= 1 << int(random.integers(8))
    return bytes(found)


def odd_value(random: Random, value: Any = None) -> Any:
    """Something else in the place of a value: of another size, another type, or close by."""
    if isinstance(value, bool) and chance(random):
        return not value
    if isinstance(value, int) and chance(random):
        return pick(random, (value + 1, value - 1, -value, value * 10**6, value * 10**15, 0, 10**9, 10**23))
    if isinstance(value, str) and value and chance(random):
        return pick(random, (value[:-1], value * 100, value.upper(), "\x00" + value, "\U0001f600", value[::-1]))
    if isinstance(value, (list, tuple)) and value and chance(random):
        return pick(random, (value[:-1], [*value, value[0]], list(value) * 50, [], value[0], [list(value)]))
    if isinstance(value, dict) and value and chance(random):
        name = pick(random, list(value))
        return pick(random, ({}, {key: each for key, each in value.items() if key != name}, list(value), name))
    return pick(
        random, (None, -1, 0, 1, 10**9, -(10**9), 1.5, math.nan, math.inf, "", "a", [], {}, [[]], True, False, 2**70)
    )


def spoiled(random: Random, tree: Any, depth: int = 0) -> Any:
    """A tree of dicts and lists, somewhere in which a value is another, is gone, or stands under another name."""
    if not isinstance(tree, (dict, list)) or not tree or (depth > 0 and chance(random, 0.25)):
        return odd_value(random, tree)
    copy: Any = tree.copy()
    key = pick(random, list(copy) if isinstance(copy, dict) else range(len(copy)))
    way = int(random.integers(10))
    if way == 0:
        del copy[key]
    elif way == 1 and isinstance(copy, dict):
        copy[f"{key}_"] = copy.pop(key)
    else:
        copy[key] = spoiled(random, copy[key], depth + 1)
    return copy
