"""Graphs and predictions against the reference's numbers: every entry of the golden files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.golden_data import (
    GHN_NAMES,
    assert_same_graph,
    assert_same_states,
    golden,
    golden_ghn,
)
from helpers.golden_models import (
    DEEPNETS,
    TORCHVISION_PREDICTIONS,
    assert_predicted_by_each_backend,
    deepnets_model,
    sized_model,
)

import ghnfast
from ghnfast import checkpoints

TORCHVISION_GRAPHS = sorted(golden("torchvision")["graphs"])
EMBEDDINGS = sorted(key for key in golden("torchvision")["pred"] if key.endswith("/embedding"))


def test_closed_form_weights_are_the_golden_ones() -> None:
    weights = golden_ghn("ghn2-cifar10").state_dict()
    assert weights["ln.weight"].double().sum().item() == pytest.approx(31.26430779695511, rel=1e-12)
    assert weights["primitive_embedding.weight"].double().sum().item() == pytest.approx(2.404939202897367, rel=1e-12)


@pytest.mark.parametrize("name", GHN_NAMES)
def test_saved_weights_are_those_of_the_published_file(name: str, tmp_path: Path) -> None:
    golden_ghn(name).save(tmp_path / "ghn.pt")
    ours = {key: list(tensor.shape) for key, tensor in checkpoints.read(tmp_path / "ghn.pt").state_dict.items()}
    assert ours == golden("checkpoints")[name]["state_dict"]


@pytest.mark.parametrize("key", TORCHVISION_GRAPHS)
def test_torchvision_graph(key: str) -> None:
    model, input_shape = sized_model(*key.split("/"))
    assert_same_graph(ghnfast.trace(model, input_shape=input_shape), golden("torchvision")["graphs"][key])


@pytest.mark.parametrize("key", TORCHVISION_PREDICTIONS)
def test_torchvision_prediction(key: str) -> None:
    name, config = key.split("/")
    model, input_shape = sized_model(name, config.split("-")[1])
    graph = ghnfast.trace(model, input_shape=input_shape)
    assert_predicted_by_each_backend(golden_ghn(config), model, graph, golden("torchvision")["pred"][key])


@pytest.mark.parametrize("key", DEEPNETS)
def test_deepnets_graph_and_prediction(key: str) -> None:
    model, entry = deepnets_model(key), golden("deepnets")[key]
    graph = ghnfast.trace(model)
    assert_same_graph(graph, entry["graph"])
    unreachable = {name for name, predicted in entry["predicted"].items() if predicted == "unreachable"}
    assert set(graph.skipped) == unreachable
    assert_predicted_by_each_backend(golden_ghn("ghn2-cifar10"), model, graph, entry["predicted"])


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("key", EMBEDDINGS)
def test_node_embeddings(key: str) -> None:
    """What the decoder reads, node by node; nodes are matched by their rows, for any order of them is right."""
    name, config, _ = key.split("/")
    images = config.split("-")[1]
    model, input_shape = sized_model(name, images)
    graph = ghnfast.trace(model, input_shape=input_shape)
    with torch.no_grad():
        ours = golden_ghn(config).embed(graph).numpy()
    expected = golden("torchvision")["graphs"][f"{name}/{images}"]
    assert_same_states(graph, ours, expected, np.array(golden("torchvision")["pred"][key]))
