"""Training where torch has another default dtype: what is kept from one is not used in another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.finetuning import QUICK, Small, dark_and_light
from helpers.tiny import FAST, tiny_config
from torch import Tensor, nn

import ghnfast
from ghnfast.errors import TrainingError
from ghnfast.predict import default_ghn_in
from ghnfast.training import finetune, train
from ghnfast.training.folder import read_checkpoint


@contextmanager
def default(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def trained(folder: Path, nets: str) -> dict[str, Tensor]:
    train(tiny_config(**FAST | {"identity_steps": 2, "nets": nets, "meta_batch": 2}), folder, progress=False)
    state = read_checkpoint(folder)
    assert state is not None
    return dict(state["ghn"])


@pytest.mark.parametrize("nets", ["deepnets", "families"])
@pytest.mark.usefixtures("quick")
def test_a_run_is_the_same_after_one_in_another(tmp_path: Path, nets: str) -> None:
    first = trained(tmp_path / "first", nets)
    with default(torch.float64):
        doubled = trained(tmp_path / "doubled", nets)
    again = trained(tmp_path / "again", nets)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert {value.dtype for value in doubled.values()} == {torch.float64}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("quick")
def test_nothing_is_trained_in_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    with default(dtype):
        with pytest.raises(TrainingError, match=f"torch's default dtype is {dtype}, in which"):
            train(tiny_config(**FAST), tmp_path / "run", progress=False)
        with pytest.raises(TrainingError, match=f"torch's default dtype is {dtype}, in which"):
            finetune(Small, dark_and_light(), "he", **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_default_ghn_is_not_that_of_another(dtype: torch.dtype) -> None:
    default_ghn_in.cache_clear()
    with default(dtype):
        predicted(None)
    assert torch.equal(predicted(None), predicted(ghnfast.load("ghn2-fashion")))


def predicted(ghn: ghnfast.GHN | None) -> Tensor:
    layer = nn.Conv2d(3, 8, 3, dtype=torch.float32)
    last = nn.Linear(8, 10, dtype=torch.float32)
    model = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
    ghnfast.predict(model, ghn, input_shape=(3, 32, 32))
    return layer.weight.detach()
