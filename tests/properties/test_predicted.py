"""What networks recognize with predicted parameters, as numbers for scikit-learn."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from torch import nn

import ghnfast
from ghnfast import ConfigError, GhnfastError, PropertyError, TrainingError
from ghnfast.deepnets import DeepNets1M, Genotype, Network
from ghnfast.properties import PredictedAccuracy, make_model
from ghnfast.properties.embedding import OF_GENOTYPES
from ghnfast.spaces import network_of
from ghnfast.training import accuracies, load_data

pytestmark = pytest.mark.filterwarnings("ignore::ghnfast.DomainWarning")
IMAGES = load_data("mnist5k").test
CODE = "01220211"
GENOTYPE = next(item.genotype for item in DeepNets1M("train", size=9) if isinstance(item.genotype, Genotype))


def network(width: int) -> nn.Module:
    torch.manual_seed(width)
    layers = [nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 32, 3, 2, 1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


def by_hand(model: nn.Module, ghn: ghnfast.GHN, limit: int) -> float:
    ghnfast.predict(model, ghn, input_shape=(3, 32, 32))
    return accuracies(model, IMAGES, IMAGES, batch_size=limit, limit=limit)[0] / 100


@pytest.fixture(scope="module")
def digits() -> ghnfast.GHN:
    return ghnfast.load("ghn2-mnist5k")


def test_networks_in_every_form(digits: ghnfast.GHN) -> None:
    item = DeepNets1M("test", size=1, large_images=False, num_classes=10)[0]
    given: list[Any] = [network(16), item, GENOTYPE, CODE]
    alike = [copy.deepcopy(given[0]), item.build(), Network(genotype=GENOTYPE, **OF_GENOTYPES), network_of(CODE)]
    before = copy.deepcopy(given[0].state_dict())
    random = torch.get_rng_state()
    found = PredictedAccuracy(IMAGES, digits, limit=30).fit_transform(given)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in given[0].state_dict().items())
    assert given[0].training
    assert found.shape == (4, 1)
    assert found[:, 0].tolist() == [by_hand(each, digits, 30) for each in alike]
    backwards = PredictedAccuracy(IMAGES, "ghn2-mnist5k", limit=30).fit().transform(iter(given[::-1]))
    np.testing.assert_array_equal(backwards[::-1], found)


def test_a_trained_ghn_and_a_random_one(digits: ghnfast.GHN) -> None:
    torch.manual_seed(0)
    untrained = ghnfast.GHN(**digits.config).eval()
    networks = DeepNets1M("test", size=2, large_images=False, num_classes=10)
    trained, random = (PredictedAccuracy(IMAGES, ghn, 64).fit_transform(networks) for ghn in (digits, untrained))
    assert trained.min() > 0.5
    assert random.max() < 0.3


def test_ways_of_scikit_learn(digits: ghnfast.GHN) -> None:
    one = PredictedAccuracy(IMAGES, "ghn2-mnist5k", limit=40)
    assert clone(one).get_params()["limit"] == 40
    assert one.fit().get_feature_names_out().tolist() == ["predicted_accuracy"]
    networks = [network(width) for width in range(8, 32, 3)]
    again = pickle.loads(pickle.dumps(one))
    np.testing.assert_array_equal(again.transform(networks), one.transform(networks))
    labels = np.arange(len(networks), dtype=float)
    predicted = make_pipeline(PredictedAccuracy(IMAGES, digits, limit=40), LinearRegression())
    stack = StackingRegressor([("graph", make_model(digits)), ("predicted", predicted)], LinearRegression(), cv=2)
    assert np.isfinite(stack.fit(networks, labels).predict(networks)).all()


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 10, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise ValueError("on purpose")


@pytest.mark.parametrize(
    ("settings", "networks", "error", "message"),
    [
        ({}, [], ConfigError, "an empty list of networks"),
        ({}, "DARTS", ConfigError, "a list of them is accepted"),
        ({}, [network(8), 3], ConfigError, "network 1 is 3"),
        (
            {},
            [ghnfast.trace(network(8), input_shape=(3, 32, 32))],
            ConfigError,
            "network 0 is an ArchGraph, which cannot",
        ),
        ({}, [network(8), Failing()], PropertyError, "network 1 of 2: .*on purpose"),
        ({"limit": 1}, [network(8)], PropertyError, "network 0 of 1: .* one image has no batch statistics"),
        ({"limit": 0}, [network(8)], TrainingError, "limit is 0"),
        ({"images": "mnist5k"}, [network(8)], TrainingError, "images is a str"),
        ({"ghn": 3}, [network(8)], ConfigError, "ghn is 3; a GHN, a name, a path or None"),
        ({"ghn": "ghn2-mnist"}, [network(8)], GhnfastError, "neither a published checkpoint nor an existing file"),
    ],
)
def test_bad_input(settings: dict[str, Any], networks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PredictedAccuracy(**{"images": IMAGES, "limit": 20, **settings}).fit_transform(networks)
