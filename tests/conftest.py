"""Shared fixtures."""

from __future__ import annotations

import pytest
from golden_data import golden_ghn

import ghnfast


@pytest.fixture(scope="session")
def ghn_imagenet() -> ghnfast.GHN:
    """The golden GHN-2 for ImageNet."""
    return golden_ghn("ghn2-imagenet")
