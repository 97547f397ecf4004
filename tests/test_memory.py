"""Parameters whose memory is gone, read-only or that of others: an error, and never the end of the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import memory_cases
from helpers.children import environment
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghnfast.memory import extent, has_common_elements, is_in_order, is_same_memory

FREED, READ_ONLY = "b.weight has lost its memory", "b.weight lies in memory that cannot be written"
PARTLY = "the parameters b.weight, c.weight share a part of their memory"
# What a message says, or why b.weight is skipped; None where everything is predicted.
EXPECTED: dict[str, str | None] = {
    "freed": FREED,
    "freed, other strides": FREED,
    "short": FREED,
    "short by the offset": FREED,
    "short, of half precision": FREED,
    "mapped for reading": READ_ONLY,
    "mapped for reading, within a page": READ_ONLY,
    "mapped for reading, other strides": READ_ONLY,
    "one page for reading": READ_ONLY,
    "mapped from a file that shrank": READ_ONLY,
    "meta": "a.weight is on the meta device",
    "distributed": "predict before wrapping",
    "expanded": "b.weight is expanded or folded",
    "folded": "b.weight is expanded or folded",
    "a part of another": PARTLY,
    "one row of another": PARTLY,
    "another dtype of another": PARTLY,
    "freed buffer": "has lost its memory: 0 of 64 bytes are left",
    "mapped for writing": None,
    "mapped privately": None,
    "of torch's own map": None,
    "of numpy": None,
    "shared with other processes": None,
    "a class of its own": None,
    "negated": None,
    "side by side": None,
    "interleaved": None,
    "tied by data": None,
    "tied by data, transposed": None,
    "fake": "it is a FakeTensor",
    "functional": "it is a functional tensor",
    "sparse": "its layout is torch.sparse_coo",
    "of oneDNN": "its layout is torch._mkldnn",
    "quantized": "its dtype is torch.qint8",
    "ghn: predict": "decoder.conv.2.weight of GHN has lost its memory: 0 of",
    "ghn: predict, short": "decoder.conv.2.weight of GHN has lost its memory: 1024 of",
    "ghn: embed": "decoder.conv.2.weight of GHN has lost its memory",
    "ghn: forward": "decoder.conv.2.weight of GHN has lost its memory",
    "ghn: meta": "of GHN is on the meta device",
    "freed choice": "a tensor of shape (3,) that the forward computes with has lost its memory",
    "freed tokens": "a tensor of shape (2, 4) that the forward computes with has lost its memory",
    "freed image": "has lost its memory",
}


def outcomes(backend: str) -> dict[str, dict[str, Any]]:
    """What came of every case, in a process that may die of it."""
    program = str(Path(memory_cases.__file__))
    settings = environment(GHNFAST_BACKEND=backend)
    run = subprocess.run([sys.executable, program], env=settings, capture_output=True, text=True)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    done = [line["case"] for line in lines]
    assert run.returncode == 0, f"the process ended with {run.returncode} after {done[-1:]}: {run.stderr[-2000:]}"
    return {line["case"]: line for line in lines}


@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_memory_is_looked_at_before_it_is_used(backend: str) -> None:
    found = outcomes(backend)
    assert found.keys() == EXPECTED.keys()
    for case, outcome in found.items():
        check(outcome, EXPECTED[case], case)


def check(outcome: dict[str, Any], expected: str | None, case: str) -> None:
    if "error" in outcome:
        assert expected is not None, case
        assert expected in outcome["message"], case
        assert outcome["unchanged"], case
        return
    assert outcome["right"], case
    assert not outcome["unchanged"], case
    if expected is None:
        assert outcome["skipped"] == {}, case
        assert "b.weight" in outcome["predicted"], case
    else:
        assert outcome["skipped"].keys() == {"b.weight"}, case
        assert expected in outcome["skipped"]["b.weight"], case


# Whose memory it is ---------------------------------------------------------------------------------------------------


@st.composite
def views(draw: st.DrawFn) -> Tensor:
    """A tensor somewhere in forty elements."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    strides = draw(st.lists(st.integers(0, 5), min_size=len(shape), max_size=len(shape)))
    span = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    return MEMORY.as_strided(shape, strides, draw(st.integers(0, max(0, 60 - span))))


MEMORY = torch.arange(120)


def elements(tensors: list[Tensor]) -> list[int]:
    return [number for tensor in tensors for number in tensor.flatten().tolist()]


@settings(derandomize=True, max_examples=300, deadline=None, database=None)
@given(tensors=st.lists(views(), min_size=1, max_size=3))
def test_common_elements(tensors: list[Tensor]) -> None:
    numbers = elements(tensors)
    assert has_common_elements(tensors) == (len(set(numbers)) < len(numbers))
    first, last = elements(tensors[:1]), elements(tensors[-1:])
    assert extent(tensors[0]) == max(first) - min(first) + 1
    if is_in_order(tensors[0]):
        assert len(set(first)) == len(first)
    if is_same_memory(tensors[0], tensors[-1]):
        assert sorted(first) == sorted(last)
