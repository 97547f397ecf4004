"""Weights of a small GHN as the C++ core takes them, in plain numpy."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from helpers.arrays import Array, sweep_weights

HID, SIZE, ROWS, COLUMNS, CLASSES, UNITS = 8, 3, 6, 5, 23, 7
VECTOR = max(ROWS, COLUMNS)
EPSILON = 1e-5
CHANNEL_ROWS = np.array([0, 0, 1, 1, 2, 3])  # sizes 0 to 4 and more; none
KERNEL_ROWS = np.array([0, 1, 1, 2])


class Weights:
    """Random weights of a small GHN."""

    def __init__(self, dtype: Any, sweep_kind: str = "virtual", norm: bool = True) -> None:
        random = np.random.default_rng(3)

        def make(*shape: int) -> Array:
            return random.standard_normal(shape).astype(dtype)

        self.tables = [make(15, HID), make(4, HID // 4), make(3, HID // 4)]
        virtual = sweep_kind == "virtual"
        self.sweep = sweep_weights(5, HID, 4, virtual, dtype)
        if sweep_kind == "mlp":
            self.sweep = [make(11, HID), make(11), make(HID, 11), make(HID)]
        self.norm = [make(HID), make(HID)] if norm else []
        layers = [
            (4 * HID * SIZE * SIZE, HID),
            (8 * HID, 4 * HID),
            (ROWS * COLUMNS, 8 * HID),
            (CLASSES, ROWS),
            (UNITS, HID),
            (2 * VECTOR, UNITS),
            (CLASSES, VECTOR),
        ]
        self.layers = [(make(*shape) / np.sqrt(shape[1]).astype(dtype), make(shape[0])) for shape in layers]

    def native(self, core: ModuleType, centred: bool = False) -> Any:
        kind = core.GhnFloat if self.tables[0].dtype == np.float32 else core.GhnDouble
        decoder = [array for layer in self.layers for array in layer]
        rows = CHANNEL_ROWS, KERNEL_ROWS
        return kind(self.tables, *rows, self.sweep, self.norm, EPSILON, decoder, ROWS, COLUMNS, centred)

    def linear(self, layer: int, x: Array, relu: bool = True) -> Array:
        weight, bias = self.layers[layer]
        y = x @ weight.T.astype(np.float64) + bias
        return np.maximum(y, 0) if relu else y
