"""Where the kernels' tests run: on a GPU where there is one, else on the CPU, interpreted."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton


def use_large_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, a program takes as long for a large block as for a small one: make them few."""
    from ghnfast.kernels import attention, decode, decode_tables, graphormer, layer_tables, layers, products, sweep

    if DEVICE == "cpu":
        for name, size in {"TILE": 4096, "STORED": 1 << 30, "GIVEN_TILE": 1 << 15}.items():
            monkeypatch.setattr(decode_tables, name, size)
        monkeypatch.setattr(decode, "REPEATS", 64)
        monkeypatch.setattr(sweep, "GATHERED", 1 << 15)
        monkeypatch.setattr(attention, "BLOCK", 64)
        for name, size in {"ROWS": 128, "OUTPUTS": 256, "CHUNK": 128}.items():
            monkeypatch.setattr(layer_tables, name, size)
        monkeypatch.setattr(graphormer, "ROWS", 128)
        monkeypatch.setattr(graphormer, "READ", 1 << 16)
        monkeypatch.setattr(layers, "NODES", 128)
        for name, size in {
            "TILE": 128,
            "WIDTH": 256,
            "CHUNK": 256,
            "ROWS_TILE": 128,
            "ELEMENTS": 1024,
            "DEPTH": 256,
        }.items():
            monkeypatch.setattr(products, name, size)
