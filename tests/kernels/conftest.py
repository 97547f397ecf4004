"""Every test in this folder runs the Triton kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.counted_gpu import CountedGpu


@pytest.fixture(autouse=True)
def triton_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHNFAST_BACKEND", "triton")


@pytest.fixture
def gpu() -> Iterator[CountedGpu]:
    with CountedGpu() as made:
        yield made


@pytest.fixture
def quiet_gpu() -> Iterator[CountedGpu]:
    """Launches are counted, not computed: for what is large, and where numbers do not matter."""
    with CountedGpu(interpret=False) as made:
        yield made
