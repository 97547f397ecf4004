"""`ghnfast bench`: the stages in text and JSON."""

from __future__ import annotations

import re

import pytest
from helpers.commands import fail, run, run_json
from helpers.models import torchvision_model

BENCH_STAGES = ["trace", "graph", "sweep", "decode", "total", "given", "fill"]


def test_bench_text(capsys: pytest.CaptureFixture[str], factories: str) -> None:
    text, _ = run(capsys, "bench", f"{factories}:make", "--rounds", 2)
    assert re.findall(r"^ *(\w+) +\d+\.\d\d ms  ", text, re.M) == BENCH_STAGES
    assert "medians of 2 rounds" in text
    assert re.search(r"^total / fill: \d+\.\d\d; given / fill: \d+\.\d\d$", text, re.M)


def test_bench_json(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "bench", "squeezenet1_1", "--rounds", 1, "--num-classes", 10)
    assert result["parameters"] == sum(
        p.numel() for p in torchvision_model("squeezenet1_1", num_classes=10).parameters()
    )
    assert list(result["seconds"]) == BENCH_STAGES
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert result["extra_bytes"] is None or result["extra_bytes"] >= 0


def test_bench_without_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'0' is no positive number" in fail(capsys, "bench", "resnet18", "--rounds", 0)
