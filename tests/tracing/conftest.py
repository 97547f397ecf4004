"""What tests of traces share."""

from __future__ import annotations

import pytest
import torch

from ghnfast import GHN


@pytest.fixture(scope="module")
def ghn() -> GHN:
    """A small one."""
    torch.manual_seed(0)
    return GHN(hid=16, max_shape=(16, 16, 3, 3), num_classes=10).eval()
