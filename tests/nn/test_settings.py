"""The settings of a GHN, and what is saved with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.formulas import (
    CLASSES,
    HID,
    MAX_SHAPE,
)

import ghnfast
from ghnfast import GHN, PredictError


def test_device_that_cannot_be_used() -> None:
    with pytest.raises(PredictError, match="device 'nowhere' cannot be used"):
        ghnfast.load("ghn2-mnist5k", device="nowhere")


@pytest.mark.parametrize(
    ("setting", "value"),
    [("hid", 32.0), ("hid", "32"), ("hid", True), ("num_classes", 2.5), ("max_shape", 5), ("max_shape", (8, 8, 3)),
     ("ve", "no"), ("layernorm", 1), ("weight_norm", None), ("hypernet", "gat"), ("decoder", "mlp")],
)  # fmt: skip
def test_settings_of_a_ghn_are_checked(setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{setting} is .*accepted"):
        GHN(**{setting: value})


def test_epoch_survives(tmp_path: Path) -> None:
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID)
    ghn.epoch = 299
    ghn.save(tmp_path / "a.pt")
    ghnfast.load(tmp_path / "a.pt").save(tmp_path / "b.safetensors")
    assert ghnfast.load(tmp_path / "b.safetensors").epoch == 299


@pytest.mark.parametrize("setting", [{"hid": 2**20}, {"num_classes": 2**50}, {"max_shape": (2**20, 2**20, 3, 3)}])
def test_configuration_that_asks_for_any_amount_of_memory(tmp_path: Path, setting: dict[str, Any]) -> None:
    """Nothing is allocated for it: the weights are compared first."""
    ghn = GHN(max_shape=MAX_SHAPE, num_classes=CLASSES, hid=HID)
    content = {"state_dict": ghn.state_dict(), "config": {**ghn.config, **setting}, "epoch": 0}
    torch.save(content, tmp_path / "ghn.pt")
    with pytest.raises(ghnfast.CheckpointError):
        ghnfast.load(tmp_path / "ghn.pt")
