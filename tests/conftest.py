"""Shared fixtures."""

from __future__ import annotations

import pytest
from helpers import kernel_device  # noqa: F401  (first: before anything imports Triton)
from helpers.golden_data import golden_ghn

import ghnfast


@pytest.fixture(scope="session")
def ghn_imagenet() -> ghnfast.GHN:
    """The golden GHN-2 for ImageNet."""
    return golden_ghn("ghn2-imagenet")


@pytest.fixture(params=["cpp", "torch"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each implementation of the operations."""
    monkeypatch.setenv("GHNFAST_BACKEND", request.param)
    return str(request.param)
