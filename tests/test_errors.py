"""Errors: whatever is raised on purpose is a `GhnfastError`, and can be imported from `ghnfast`."""

from __future__ import annotations

import argparse
import ast
import builtins
import importlib
import inspect
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from helpers.forked import Forked, script

import ghnfast
from ghnfast import (
    GHN,
    ConfigError,
    GhnfastError,
    GraphError,
    MissingPackageError,
    NetworkIndexError,
    errors,
)
from ghnfast.deepnets import DeepNets1M, Genotype, Network, NodeBatchSampler, graph_of
from ghnfast.graph import GraphBatch

PACKAGE = Path(ghnfast.__file__).parent
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if "kernels" not in path.parts and path.stem != "__main__")
# Rules of tracing stand for torch's functions within a model's forward, which may catch what they raise; `trace` makes
# a TraceError of what leaves the forward. What a parser's types raise is argparse's protocol. An AssertionError is what
# cannot happen.
# What comes before the package is imported ends the command, and signals interrupt it.
FOREIGN = {
    "tracing": (RuntimeError,),
    "cli": (argparse.ArgumentTypeError,),
    "starting": (SystemExit, KeyboardInterrupt),
}


def raised(path: Path) -> list[tuple[int, Any]]:
    """What a file raises by name: (line, class)."""
    name = ".".join(("ghnfast", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    module = importlib.import_module(name)
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            kind = getattr(module, node.exc.func.id, None) or getattr(builtins, node.exc.func.id, None)
            # A function that makes an error says in its annotation which.
            found.append((node.lineno, get_type_hints(kind)["return"] if inspect.isfunction(kind) else kind))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_whatever_is_raised_is_ours(path: Path) -> None:
    accepted = (
        GhnfastError,
        AssertionError,
        *(kind for part, kinds in FOREIGN.items() if part in (path.stem, path.parent.name) for kind in kinds),
    )
    wrong = [(line, kind) for line, kind in raised(path) if not (inspect.isclass(kind) and issubclass(kind, accepted))]
    assert not wrong


def test_all_classes_are_exported() -> None:
    for name, value in vars(errors).items():
        if inspect.isclass(value):
            assert getattr(ghnfast, name) is value
            assert name in ghnfast.__all__
            assert value is ghnfast.DomainWarning or issubclass(value, GhnfastError)


GENOTYPE = Genotype.of("DARTS")
SETTINGS: dict[str, Any] = {"genotype": GENOTYPE, "num_classes": 10, "C": 16, "n_cells": 3, "is_imagenet_input": False}
TINY: dict[str, Any] = {"max_shape": (8, 8, 3, 3), "hid": 8}


@pytest.mark.parametrize(
    "settings",
    [
        {"max_shape": (8, 8, 3)},
        {"max_shape": 5},
        {"max_shape": "8833"},
        {"max_shape": (8, 8, 3, 4)},
        {"max_shape": (8, 8, 3.0, 3.0)},
        {"max_shape": (10**6, 10**6, 3, 3)},
        {"num_classes": 0},
        {"num_classes": 10**12},
        {"num_classes": "ten"},
        {"hypernet": "transformer"},
        {"hypernet": None},
        {"decoder": []},
        {"weight_norm": 1},
        {"ve": None},
        {"layernorm": "yes"},
        {"hid": 6},
        {"hid": 2**40},
        {"hid": 8.0},
    ],
)
def test_settings_of_a_ghn(settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ConfigError, match=name) as caught:
        GHN(**{**TINY, **settings})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            (name, value)
            for name in ("num_classes", "C", "n_cells", "C_mult")
            for value in (0, -1, None, "3", 2.5, 10**9)
        ),
        *(("ks", value) for value in (0, 2, -3, None, 10**9 + 1)),
        *(("stem_type", value) for value in (2, -1, None, "1")),
        *(("fc_layers", value) for value in (-1, None, 10**9)),
        *(("fc_dim", value) for value in (-1, None, 10**12)),
        *(("norm", value) for value in ("group", 5, [])),
        *(
            (name, value)
            for name in ("preproc", "glob_avg", "stem_pool", "is_imagenet_input")
            for value in (None, "no", 2)
        ),
        *(("is_vit", value) for value in ("yes", 2)),
        *(
            ("genotype", value)
            for value in ("DARTZ", None, 5, {}, {"normal": []}, dict.fromkeys(GENOTYPE.as_dict(), 5))
        ),
        ("genotype", {**GENOTYPE.as_dict(), "normal": [["none", 0]] * 200}),
    ],
)
def test_settings_of_a_network(name: str, value: Any) -> None:
    given = {**SETTINGS, "fc_layers": 2, "fc_dim": 8, name: value}
    for make in (Network, graph_of):
        with pytest.raises(ConfigError) as caught:
            make(**given)
        assert isinstance(caught.value, ValueError)
        assert name.removesuffix("type") in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"split": "training"},
        {"split": 5},
        {"split": ["train"]},
        *({"seed": seed} for seed in (10**23, -1, 1.5, "0", None)),
        *({"size": size} for size in (0, -1, 1.5, "3")),
        *({"num_ch": pair} for pair in ((64, 32), (7, 9), 5, (8,), ("8", "9"), (8, 10**9), None)),
        *({"fc_dim": pair} for pair in ((0, 32), 64, (64, 10**12))),
        *({"num_classes": classes} for classes in (0, "ten", 10**12)),
        {"root": 5},
    ],
)
def test_arguments_of_a_data_set(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ConfigError, match=name):
        DeepNets1M(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"batch_size": 0}, {"max_nodes": 0}, {"rank": 2, "world_size": 2}, {"seed": 10**23}, {"seed": -1}, {"seed": "0"}],
)
def test_arguments_of_a_sampler(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        NodeBatchSampler(DeepNets1M("val"), **arguments)


def test_the_largest_seeds_work() -> None:
    dataset = DeepNets1M("val", seed=2**64 - 1, size=10)
    sampler = NodeBatchSampler(dataset, seed=2**64 - 1)
    sampler.set_epoch(10**6)
    assert sorted(index for batch in sampler for index in batch) == list(range(10))


def test_a_network_that_is_not_there() -> None:
    for index in (10, -11, 10**30):
        with pytest.raises(NetworkIndexError, match="which has 10") as caught:
            DeepNets1M("val", size=10)[index]
        assert isinstance(caught.value, IndexError)
    assert len(list(DeepNets1M("val", size=10))) == 10


def test_graphs() -> None:
    with pytest.raises(GraphError, match="a batch of no graphs") as caught:
        GraphBatch([])
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("networkx", "ghnfast.trace(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))).to_networkx()"),
        ("h5py", "DeepNets1M('train', 'tests/golden/deepnets1m')"),
        ("torchvision", "DeepNets1M('predefined')[0].build()"),
        ("sklearn", "import ghnfast.properties"),
        ("scipy", "import ghnfast.properties"),
    ],
)
def test_packages_that_are_not_installed(package: str, call: str) -> None:
    code = f"""
import sys, torch, ghnfast
from ghnfast.deepnets import DeepNets1M
sys.modules[{package!r}] = None
try:
    {call}
except ghnfast.MissingPackageError as error:
    assert isinstance(error, ImportError)
    print(error)
"""
    process = Forked(script, code)
    assert process.wait() == 0, process.stderr()
    assert "pip install" in process.stdout()
    assert issubclass(MissingPackageError, GhnfastError)


@pytest.mark.parametrize(
    "shape",
    [
        (3, 10**12, 10**12), (10**12, 10**12, 10**12), (3, 2**63, 1), (3, 10**30, 4), (2**62, 2**62, 2**62),
        (3, 2**40, 2**40), (3, 0, 4), (3, -1, 4), (3, 4.5, 4), "abc", 5, (), (None,), (3, float("nan"), 4),
    ],
)  # fmt: skip
def test_input_shapes_that_no_input_has(shape: Any) -> None:
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for call in (ghnfast.trace, ghnfast.predict, GHN(**TINY).embed):
        with pytest.raises(GhnfastError, match=r"input_shape|input of shape"):
            call(model, input_shape=shape)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
