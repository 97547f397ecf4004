"""Settings may be numbers of numpy, as loops over arrays and rows of tables have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny import TINY
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ghnfast
from ghnfast.deepnets import GENOTYPES, DeepNets1M, Network, NodeBatchSampler
from ghnfast.errors import ConfigError, GhnfastError
from ghnfast.families import Families
from ghnfast.plain import plain
from ghnfast.properties.table import Training
from ghnfast.training import Recipe, TrainConfig, make_config


def numpy_of(value: Any) -> Any:
    """The same settings as numpy has them."""
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.uint64(value) if value >= 1 << 63 else np.int64(value)
    if isinstance(value, float):
        return np.float64(value)
    if isinstance(value, (tuple, list)) and all(isinstance(item, int) for item in value):
        return np.array(value)
    return value


def settings_of(network: Network) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in network.parameters()]


def processed(**settings: Any) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    ghnfast.postprocess(model, **settings)
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).tolist()


def calibrated(**settings: Any) -> list[float]:
    norm = nn.BatchNorm2d(3)
    images = torch.randn(4, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ghnfast.calibrate(norm, list(images), **settings)
    assert norm.running_mean is not None
    return norm.running_mean.tolist()


MOST = (1 << 64) - 1
# What is made of settings; and the settings.
DOORS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (
        lambda **given: ghnfast.GHN(**given).config,
        {"hid": 16, "num_classes": 7, "max_shape": (8, 8, 3, 3), "ve": True},
    ),
    (
        lambda **given: DeepNets1M(**given)[1].args,
        {"size": 3, "seed": MOST, "num_classes": 7, "num_ch": (8, 16)},
    ),
    (lambda **given: [*NodeBatchSampler(DeepNets1M(size=9), **given)], {"batch_size": 2, "max_nodes": 900, "seed": 3}),
    (lambda **given: Families(**given)[1].settings, {"size": 3, "seed": 5, "num_classes": 7, "image_size": 48}),
    (
        lambda **given: settings_of(Network(genotype=GENOTYPES["DARTS"], **given)),
        {"num_classes": 7, "C": 8, "n_cells": 2, "is_imagenet_input": False, "ks": 5, "fc_dim": 16, "fc_layers": 2},
    ),
    (processed, {"layer": 2, "seed": 7, "beta": 1e-3, "orth": True}),
    (calibrated, {"limit": 2}),
    (lambda **given: asdict(TrainConfig(**given)), {**TINY, "seed": 3, "warmup": 2}),
    (lambda **given: asdict(make_config(given)), {**TINY, "seed": 3, "warmup": 2}),
    (
        lambda **given: asdict(Recipe(**given)),
        {"shots": 3, "rates": (0.1, 0.2), "seeds": (4, 5), "evaluate_at": (1,)},
    ),
    (lambda **given: asdict(Training(**given)), {"channels": 16, "epochs": 3, "seed": 2}),
]


@pytest.mark.parametrize(("made", "settings"), DOORS)
def test_numbers_of_numpy_are_settings(made: Callable[..., Any], settings: dict[str, Any]) -> None:
    expected = made(**settings)
    found = made(**{name: numpy_of(value) for name, value in settings.items()})
    assert found == expected
    assert json.dumps(found) == json.dumps(expected)  # of Python's types, which files can have


@pytest.mark.parametrize(("made", "settings"), DOORS)
def test_what_is_refused_of_python_is_refused_of_numpy(made: Callable[..., Any], settings: dict[str, Any]) -> None:
    name = next(name for name, value in settings.items() if type(value) is int)
    for wrong in (np.int64(-1), np.float64(2.5), np.bool_(True), np.array([[1]]), np.str_("2x")):
        with pytest.raises(GhnfastError, match=name):
            made(**{**settings, name: wrong})


@given(st.recursive(st.integers() | st.floats(allow_nan=False) | st.text() | st.none() | st.booleans(), st.lists))
def test_what_python_has_stays(value: Any) -> None:
    assert plain(value) == value


def test_other_things_stay() -> None:
    for value in (torch.ones(2), np.ones((2, 2)), nn.Linear(2, 2), range(3), {1, 2}):
        assert plain(value) is value
    assert plain(np.longdouble(0.5)) == 0.5
    within: list[Any] = [np.int64(8)]
    within.append(within)
    with pytest.raises(ConfigError, match="max_shape"):
        ghnfast.GHN(max_shape=within)  # type: ignore[arg-type]
    assert plain({"a": (np.int8(1), [np.float32(0.5)])}) == {"a": (1, [0.5])}
