"""Checkpoints of the published training script of GHN-3: optimizer, arguments and step beside the weights."""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.checkpoint_cases import assert_same, message, says
from helpers.joblib_files import Called, published_state, small_ghn

import ghnfast


def training_checkpoint(**changes: Any) -> dict[str, Any]:
    ghn = small_ghn()
    optimizer = torch.optim.AdamW(ghn.parameters())
    for parameter in ghn.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    config = {"max_shape": (8, 8, 3, 3), "num_classes": 10, "hypernet": "gatedgnn", "decoder": "conv", "is_ghn2": False}
    config |= {"weight_norm": True, "ve": True, "layernorm": True, "hid": 8, "layers": 2, "heads": 2}
    arguments = argparse.Namespace(
        hid=8, lr=4e-4, amp=True, name="ghn3", max_shape=(8, 8, 3, 3), device=torch.device("cpu"), checkpoint=None
    )
    parts = {"state_dict": published_state(ghn, top=False), "optimizer": optimizer.state_dict(), "epoch": 5}
    return {**parts, "step": 300, "args": arguments, "config": config, **changes}


@pytest.mark.parametrize("legacy", [False, True])
def test_they_load(legacy: bool, tmp_path: Path) -> None:
    content = training_checkpoint()
    torch.save(content, tmp_path / "checkpoint.pt", _use_new_zipfile_serialization=not legacy)
    before = set(torch.serialization.get_safe_globals())
    ghn = ghnfast.load(tmp_path / "checkpoint.pt")
    assert set(torch.serialization.get_safe_globals()) == before
    assert ghn.config == small_ghn().config
    assert ghn.epoch == 5
    state = {name.replace("primitive_embedding", "embed"): weight for name, weight in ghn.state_dict().items()}
    assert_same(state, content["state_dict"])


def test_a_namespace_is_allowed_in_our_reading_alone(tmp_path: Path) -> None:
    torch.save(training_checkpoint(), tmp_path / "checkpoint.pt")
    ghnfast.load(tmp_path / "checkpoint.pt")
    with pytest.raises(Exception, match=r"argparse\.Namespace"):
        torch.load(tmp_path / "checkpoint.pt", weights_only=True)


def test_several_threads_load_at_once(tmp_path: Path) -> None:
    torch.save(training_checkpoint(), tmp_path / "checkpoint.pt")
    before = set(torch.serialization.get_safe_globals())
    with ThreadPoolExecutor(4) as pool:
        ghns = list(pool.map(ghnfast.load, [tmp_path / "checkpoint.pt"] * 24))
    assert {ghn.epoch for ghn in ghns} == {5}
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_else_is(legacy: bool, tmp_path: Path) -> None:
    hostile: Any = Called(os.system, f"touch {tmp_path / 'mark'}")
    for number, arguments in enumerate((hostile, argparse.Namespace(model=hostile), argparse.Namespace(p=Path("a")))):
        path = tmp_path / f"{number}.pt"
        torch.save(training_checkpoint(args=arguments), path, _use_new_zipfile_serialization=not legacy)
        says(message(ghnfast.load, path), "posix.system" if number < 2 else "pathlib", "accepted")
        says(message(ghnfast.load, path), "can run any program")
    assert not (tmp_path / "mark").exists()
