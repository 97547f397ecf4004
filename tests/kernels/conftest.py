"""Every test in this folder runs the Triton kernels."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def triton_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", "triton")
