"""GHN-3 against the reference's numbers: every entry of the golden files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.golden_data import assert_same_prediction, assert_same_states, golden, golden_ghn
from helpers.golden_models import (
    DEEPNETS,
    GHN3_PREDICTIONS,
    assert_predicted_by_each_backend,
    deepnets_model,
    ghn3_model,
)

import ghnfast
from ghnfast import checkpoints

TORCHVISION = golden("ghn3_torchvision")["pred"]
EMBEDDINGS = sorted(key for key in TORCHVISION if key.endswith("/embedding"))
CONFIGS = golden("ghn3_checkpoints")
LARGE = "ghn3-l-imagenet", "ghn3-xl-imagenet"  # a gigabyte and more


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_have_the_published_names_and_shapes(name: str) -> None:
    config = CONFIGS[name]["config"]
    with torch.device("meta"):
        ghn = ghnfast.GHN(**config, hypernet="graphormer")
    ours = {key.replace("primitive_embedding", "embed"): list(value.shape) for key, value in ghn.state_dict().items()}
    assert ours == CONFIGS[name]["state_dict"]
    assert sum(parameter.numel() for parameter in ghn.parameters()) == CONFIGS[name]["parameters"]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_saved_weights_are_those_of_the_published_layout(suffix: str, tmp_path: Path) -> None:
    ghn = golden_ghn("ghn3-odd")
    ghn.save(tmp_path / f"ghn.{suffix}")
    read = checkpoints.read(tmp_path / f"ghn.{suffix}")
    assert {key: list(value.shape) for key, value in read.state_dict.items()} == CONFIGS["ghn3-odd"]["state_dict"]
    loaded = ghnfast.load(tmp_path / f"ghn.{suffix}")
    assert loaded.settings == ghn.settings
    assert all(map(torch.equal, loaded.parameters(), ghn.parameters()))


@pytest.mark.parametrize("key", [key for key in GHN3_PREDICTIONS if not key.endswith(LARGE)])
def test_torchvision_prediction(key: str) -> None:
    name, config = key.split("/")
    model, input_shape = ghn3_model(name, config)
    graph = ghnfast.trace(model, input_shape=input_shape)
    assert_predicted_by_each_backend(golden_ghn(config), model, graph, TORCHVISION[key])


@pytest.mark.parametrize("config", sorted({key.split("/")[1] for key in GHN3_PREDICTIONS if key.endswith(LARGE)}))
def test_predictions_of_a_large_ghn(config: str) -> None:
    ghn = golden_ghn.__wrapped__(config)  # not kept
    for key in [key for key in GHN3_PREDICTIONS if key.endswith(config)]:
        model, input_shape = ghn3_model(key.split("/")[0], config)
        _, report = ghn.predict(model, input_shape=input_shape, report=True)
        assert_same_prediction(model, report, TORCHVISION[key])


@pytest.mark.parametrize("key", [key for key in DEEPNETS if key in golden("ghn3_deepnets")])
def test_deepnets_prediction(key: str) -> None:
    model = deepnets_model(key)
    graph = ghnfast.trace(model)
    for config, expected in golden("ghn3_deepnets")[key].items():
        if config != "graph_source":
            assert_predicted_by_each_backend(golden_ghn(config), model, graph, expected)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("key", EMBEDDINGS)
def test_node_embeddings(key: str) -> None:
    name, config, _ = key.split("/")
    model, input_shape = ghn3_model(name, config)
    graph = ghnfast.trace(model, input_shape=input_shape)
    images = "imagenet" if config.endswith("imagenet") else "cifar10"
    expected = golden("ghn3_torchvision")["graphs"][f"{name}/{images}"]
    assert_same_states(graph, golden_ghn(config).embed(graph).numpy(), expected, np.array(TORCHVISION[key]))
