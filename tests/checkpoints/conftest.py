"""Shared fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, that is not even there yet."""
    monkeypatch.setenv("GHNFAST_CACHE", str(tmp_path / "made" / "cache"))
    return tmp_path / "made" / "cache"
