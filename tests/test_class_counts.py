"""Classification layers of every size, in processes of limited memory and time: a loop that does not end eats both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent / "support"

# What follows may take no more memory than it has, and this much.
LIMITED = """
import resource, sys
def limit(mebibytes):
    pages = int(open("/proc/self/statm").read().split()[0])
    most = pages * resource.getpagesize() + (mebibytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
"""

# Blocks of 10 to 1,000 rows for every number of classes; with so many inputs that the parameter has just as many bytes
# as a piece of work (kItemBytes in csrc/decode/decode.cpp), or just more.
EVERY_COUNT = """
import numpy as np
from ghnfast import _C

random = np.random.default_rng(0)
blocks = random.standard_normal(1 << 17).astype(np.float32)
hidden, weight, bias = np.zeros((0, 4), np.float32), np.zeros((1, 1, 4), np.float32), np.zeros((1, 1), np.float32)
memory = np.empty(1 << 18, dtype=np.float32)
limit(64)

def decode(targets):
    table = np.array([(0, *target[:2], 1, *target[2:], 1, 1.0) for target in targets], _C.dtypes()["DecodeTarget"])
    sizes = table["out"] * table["in"]
    address = memory.ctypes.data + 4 * (np.cumsum(sizes) - sizes)
    rows = [(at, 0, (inputs, 1, 1)) for at, inputs in zip(address, table["in"])]
    places = np.array(rows, _C.dtypes()["DecodeMemory"])
    memory[: sizes.sum()] = np.nan
    _C.decode(hidden, weight, bias, blocks, table, places, True, 1)
    for (rows, columns, out, inputs), end, size in zip(targets, np.cumsum(sizes), sizes):
        found = memory[end - size : end].reshape(out, inputs)
        block = blocks[: rows * columns].reshape(rows, columns)
        looked_at = np.r_[0, out // 2, out - 1, min(out, rows) - 1 : out : rows]
        repeated = block[np.ix_(looked_at % rows, np.arange(inputs) % columns)]
        assert (found[looked_at] == repeated).all(), targets
        assert not np.isnan(found).any(), targets

for out in range(1, 3001):
    for rows in (10, 64, 1000):
        for inputs in ((1 << 16) // out, (1 << 16) // out + 1):
            decode([(min(rows, out), min(inputs, 64), out, inputs)])
for _ in range(300):
    targets = []
    for _ in range(random.integers(1, 5)):
        out = int(random.integers(1, 3001))
        inputs = int(random.integers(1, max(2, (1 << 17) // out // 2)))
        targets.append((int(random.integers(1, min(out, 1000) + 1)), min(inputs, 64), out, inputs))
    if sum(out * inputs for _, _, out, inputs in targets) <= len(memory):
        decode(targets)
print("done")
"""

# Models with the numbers of classes that once went wrong, and their neighbours.
MODELS = """
import warnings
import torch
from torch import nn
import ghnfast
from helpers.models import torchvision_model

warnings.simplefilter("ignore", ghnfast.DomainWarning)
digits = ghnfast.load("ghn2-mnist5k")  # 10 classes
images = ghnfast.GHN(hid=8, num_classes=1000, max_shape=(64, 64, 3, 3))
COUNTS = {
    "resnet50": (32, 33, 36, 37, 39, 40),
    "resnet18": (128, 129, 130),
    "vit_b_16": (85, 87),
    "mobilenet_v3_small": (64, 67, 69),
}

def predict(model, layer, classes, ghn, shape):
    layer.out_features = classes
    layer.weight = nn.Parameter(torch.full((classes, layer.in_features), torch.nan))
    layer.bias = nn.Parameter(torch.full((classes,), torch.nan))
    ghnfast.predict(model, ghn, input_shape=shape)
    assert layer.weight.isfinite().all() and layer.bias.isfinite().all(), classes

models = {name: torchvision_model(name) for name in COUNTS}
small = nn.Sequential(nn.Conv2d(3, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
for model in models.values():
    ghnfast.predict(model, digits)
limit(512)
for name, counts in COUNTS.items():
    layer = [module for module in models[name].modules() if isinstance(module, nn.Linear)][-1]
    for classes in counts:
        predict(models[name], layer, classes, digits, None)
for classes in (*range(1, 130), *range(1020, 2030, 9), 1999, 2000, 2001, 2999, 3000):
    for ghn in (digits, images):
        predict(small, small[3], classes, ghn, (3, 32, 32))
print("done")
"""


def run(code: str, seconds: float) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED + code],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=SUPPORT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_number_of_classes() -> None:
    assert run(EVERY_COUNT, 300) == "done\n"


def test_models_with_any_number_of_classes() -> None:
    assert run(MODELS, 300) == "done\n"
