"""A file of factories of models."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

FACTORIES = """
import dataclasses
import torch
from torch import nn
from helper_of_factories import CLASSES

@dataclasses.dataclass
class Settings:
    width: int = 4

class Net(nn.Module):
    input_shape = (3, 8, 8)

    def __init__(self, num_classes=CLASSES):
        super().__init__()
        print("building")
        width = Settings().width
        self.first = nn.Conv2d(3, width, 3)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, num_classes)
        self.unused = nn.Linear(5, 5)

    def forward(self, x):
        return self.head(self.second(self.norm(self.first(x)).relu()).mean((2, 3)))

def make():
    return Net()

def tied():
    net = Net()
    net.third = net.second
    net.unused = nn.Identity()
    return net

def needs_memory():
    net = Net()
    net.scale = net.first.weight.sum().item()
    return net

class WithState(Net):
    def get_extra_state(self):
        return {"step": 1}

def needs(width):
    return Net()

def broken_forward():
    return nn.Sequential(nn.Linear(7, 7), nn.Linear(5, 5))

def failing():
    raise ZeroDivisionError("of the factory")

def no_module():
    return 42

constant = 42
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a file of factories, which imports a module beside it."""
    monkeypatch.delitem(sys.modules, "helper_of_factories", raising=False)
    (tmp_path / "helper_of_factories.py").write_text("CLASSES = 6\n")
    path = tmp_path / "factories.py"
    path.write_text(textwrap.dedent(FACTORIES))
    return str(path)
