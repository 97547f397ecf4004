"""The stages of predicting models, the least it could take (`fill`), and the memory it takes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from helpers.models import torchvision_model
from sizes import size
from turns import versus

import ghnfast
from ghnfast.profiling import extra_memory, stages

MODELS = (
    "resnet50", "densenet121", "vgg16", "mobilenet_v3_large", "efficientnet_b0", "vit_b_16", "swin_t", "convnext_tiny",
    "squeezenet1_1", "regnet_y_16gf",
)  # fmt: skip
ROUNDS = 25


@pytest.mark.parametrize("name", size(MODELS, ("mobilenet_v3_large", "squeezenet1_1")))
def test_model(benchmark: Any, ghn: ghnfast.GHN, name: str) -> None:
    model = torchvision_model(name)
    functions = stages(model, ghn)
    total = functions.pop("total")
    functions["fill"]()  # parameters that nobody has written to yet are no memory
    benchmark.extra_info.update(
        model=name,
        nodes=len(ghnfast.trace(model)),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        extra_bytes=extra_memory(total),
    )
    versus(benchmark, total, functions, ROUNDS)


FIRST = """
import sys, ghnfast, ghnfast.vision, torchvision
from ghnfast.profiling import extra_memory
model, ghn = torchvision.models.get_model(sys.argv[1], weights=None), ghnfast.GHN().eval()
print(extra_memory(lambda: ghn.predict(model)))
"""


@pytest.mark.parametrize("name", [size("vgg16", "squeezenet1_1")])
def test_memory_of_a_first_prediction(benchmark: Any, name: str) -> None:
    """In a process that has computed nothing before; with the buffers of torch's libraries and the threads' stacks."""

    def run() -> int:
        done = subprocess.run([sys.executable, "-c", FIRST, name], check=True, capture_output=True, text=True)
        return int(done.stdout)

    benchmark.extra_info.update(model=name, extra_bytes=benchmark.pedantic(run, rounds=1))
