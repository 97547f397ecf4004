"""Architectures as vectors: what is accepted, what they are made of, and scikit-learn's ways with the transformer."""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.utils.data import IterableDataset

import ghnfast
from ghnfast import ConfigError, GhnfastError, TraceError
from ghnfast.deepnets import GENOTYPES, DeepNets1M
from ghnfast.graph import GraphBatch
from ghnfast.properties import ArchitectureEmbedding
from ghnfast.properties.embedding import OF_GENOTYPES
from ghnfast.properties.paths import PATHS, path_sums
from ghnfast.properties.pooling import COUNTS, POOLS
from ghnfast.spaces import nas_bench_macro, network_of

TINY: dict[str, Any] = {"max_shape": (8, 8, 3, 3), "hid": 8}
GRAPHS = [item.graph for item in DeepNets1M("train", size=12)]


def tiny(seed: int = 0, **settings: Any) -> ghnfast.GHN:
    torch.manual_seed(seed)
    return ghnfast.GHN(**{**TINY, **settings}).eval()


GHN = tiny()


class Each(IterableDataset[nn.Module]):
    def __init__(self, networks: Iterator[nn.Module]) -> None:
        self.networks = networks

    def __iter__(self) -> Iterator[nn.Module]:
        return self.networks


def test_the_mean_is_the_published_one() -> None:
    vectors = ArchitectureEmbedding(GHN, pool="mean").fit_transform(GRAPHS)
    wanted = np.stack([states.mean(dim=0).numpy() for states in GHN.embed(GRAPHS)])
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)


def test_texts_that_name_genotypes() -> None:
    """As label files have them."""
    embedding = ArchitectureEmbedding(GHN).fit()
    genotype = next(item.genotype for item in DeepNets1M("train", size=3) if item.genotype is not None)
    by_text = embedding.transform(["DARTS", repr(genotype)])
    assert np.array_equal(by_text, embedding.transform([GENOTYPES["DARTS"], genotype]))
    for text in ("DARTZ", "Genotype(normal=[])", "0122021", ""):
        with pytest.raises(ConfigError):
            embedding.transform([text])


def test_the_statistics() -> None:
    embedding = ArchitectureEmbedding(GHN, pool="stats").fit()
    names = embedding.get_feature_names_out().tolist()
    vectors = embedding.transform(GRAPHS)
    assert vectors.shape == (len(GRAPHS), len(names)) == (12, 5 * 8 + len(COUNTS) + PATHS)
    assert len(set(names)) == len(names)
    assert names[-PATHS:] == [f"paths {at}" for at in range(PATHS)]
    np.testing.assert_allclose(vectors[:, -PATHS:], np.arcsinh(path_sums(GraphBatch(GRAPHS))), atol=1e-9)
    for graph, vector in zip(GRAPHS, vectors, strict=True):
        found = dict(zip(names, vector, strict=True))
        states = GHN.embed(graph).double()
        for name, values in (
            ("mean", states.mean(dim=0)),
            ("deviation", states.std(dim=0, correction=0)),
            ("largest", states.amax(dim=0)),
            ("least", states.amin(dim=0)),
            ("last", states[-1]),
        ):
            np.testing.assert_allclose([found[f"{name} {at}"] for at in range(8)], values, atol=1e-6)
        assert found["levels"] == graph.depth
        assert found["log edges"] == np.log1p(len(graph.edges))
        assert found["log nodes of bn"] == np.log1p(graph.ops.count("bn"))
        shapes = graph.parameter_shapes.values()
        np.testing.assert_allclose(found["log parameters"], np.log1p(sum(np.prod(shape) for shape in shapes)))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=30), st.sampled_from(POOLS))
def test_a_vector_is_the_same_in_any_list(chosen: list[int], pool: str) -> None:
    embedding = ArchitectureEmbedding(GHN, pool).fit()
    alone = np.concatenate([embedding.transform([graph]) for graph in GRAPHS])
    np.testing.assert_allclose(embedding.transform([GRAPHS[at] for at in chosen]), alone[chosen], atol=1e-6)


def test_a_network_in_every_form() -> None:
    embedding = ArchitectureEmbedding(GHN, input_shape=(3, 32, 32)).fit()
    item = DeepNets1M("val", size=3)[2]
    forms: list[Any] = [item, item.graph, item.build(), item.build(light=True)]
    vectors = embedding.transform(forms)
    np.testing.assert_allclose(vectors, np.repeat(vectors[:1], len(forms), axis=0), atol=1e-5)
    text, network = embedding.transform(["01220211", nas_bench_macro("01220211")])
    np.testing.assert_allclose(text, network, atol=1e-5)


@pytest.mark.parametrize(
    "listed",
    [
        tuple, iter, np.array, pd.Series, lambda texts: np.array(texts)[:, None],
        lambda texts: pd.DataFrame({"ViT": texts}), lambda texts: pd.Series(texts, dtype="string", index=[7, 7]),
        lambda texts: [f" {text}\n" for text in texts],
    ],
)  # fmt: skip
def test_a_list_in_every_form(listed: Callable[[list[str]], Any]) -> None:
    texts = ["01220211", "DARTS"]
    embedding = ArchitectureEmbedding(GHN).fit()
    np.testing.assert_array_equal(embedding.transform(listed(texts)), embedding.transform(texts))


@pytest.mark.parametrize("listed", [iter, Each])
def test_networks_that_are_made_one_at_a_time_are_not_kept(listed: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.properties.embedding.MOST_NODES", 1)
    alive: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def make(size: int) -> nn.Module:
        assert len(alive) <= 3
        network = nn.Sequential(nn.Flatten(), nn.Linear(192, size))
        alive.add(network)
        return network

    vectors = ArchitectureEmbedding(GHN, input_shape=(3, 8, 8)).fit_transform(listed(map(make, range(1, 9))))
    assert len(vectors) == 8


def test_a_genotype_stands_for_a_network() -> None:
    embedding = ArchitectureEmbedding(GHN).fit()
    graph = ghnfast.deepnets.graph_of(genotype="DARTS", **OF_GENOTYPES)
    np.testing.assert_array_equal(*embedding.transform([GENOTYPES["DARTS"], graph]))


def test_a_module_stays_as_it_is() -> None:
    model = network_of("00000000")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ArchitectureEmbedding(GHN, input_shape=(3, 32, 32)).fit_transform([model])
    assert model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "settings", [{"hypernet": "mlp"}, {"ve": False, "layernorm": False}, {"layers": 1, "heads": 2}]
)
def test_every_kind_of_ghn(settings: dict[str, Any]) -> None:
    given_settings = {"hypernet": "graphormer", **settings} if "layers" in settings else settings
    vectors = ArchitectureEmbedding(tiny(**given_settings)).fit_transform(GRAPHS)
    assert vectors.shape == (12, 5 * 8 + len(COUNTS) + PATHS)
    assert np.isfinite(vectors).all()


def test_sources_of_a_ghn(tmp_path: Any) -> None:
    GHN.save(tmp_path / "ghn.safetensors")
    wanted = ArchitectureEmbedding(GHN).fit_transform(GRAPHS)
    for source in (tmp_path / "ghn.safetensors", str(tmp_path / "ghn.safetensors")):
        np.testing.assert_array_equal(ArchitectureEmbedding(source).fit_transform(GRAPHS), wanted)
    default = ArchitectureEmbedding().fit_transform(GRAPHS)
    np.testing.assert_array_equal(default, ArchitectureEmbedding("ghn2-fashion").fit_transform(GRAPHS))


def test_clones_and_pickles() -> None:
    embedding = ArchitectureEmbedding(GHN, pool="mean", input_shape=(3, 32, 32)).fit()
    wanted = embedding.transform(GRAPHS)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(embedding)).transform(GRAPHS), wanted)
    copy = clone(embedding)
    assert (copy.pool, copy.input_shape) == ("mean", (3, 32, 32))
    with pytest.raises(NotFittedError):
        copy.transform(GRAPHS)
    np.testing.assert_array_equal(copy.fit_transform(GRAPHS), wanted)


@pytest.mark.parametrize(
    "networks",
    [
        None, 5, "01220211", nn.ReLU(), [], [5], [GRAPHS[0], None], ["012"], ["resnet50"], ["darts"], {"DARTS"},
        {"DARTS": 1}, np.array("DARTS"), np.array([["DARTS", "ViT"]]), pd.DataFrame({"DARTS": ["ViT"], "ViT": ["ViT"]}),
        pd.DataFrame({"DARTS": []}), iter([]), iter(["DARTS", 5]), ["x = Genotype()"],
    ],
)  # fmt: skip
def test_what_are_no_networks(networks: Any) -> None:
    with pytest.raises(ConfigError, match="accepted"):
        ArchitectureEmbedding(GHN).fit().transform(networks)


@pytest.mark.parametrize(
    "settings", [{"pool": "max"}, {"pool": None}, {"pool": ["mean"]}, {"ghn": 5}, {"ghn": nn.ReLU()}]
)
def test_settings_that_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ArchitectureEmbedding(**settings).fit(GRAPHS)


def test_a_module_that_cannot_be_traced() -> None:
    with pytest.raises(GhnfastError):
        ArchitectureEmbedding(GHN, input_shape=(3, 32, 32)).fit_transform([nn.Linear(7, 7)])


class Volumes(nn.Sequential):
    def __init__(self, depth: int) -> None:
        layers = [nn.Conv3d(4, 4, 3, padding=1) for _ in range(depth)]
        super().__init__(nn.Conv3d(3, 4, 3), *layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))


def test_it_is_said_that_layers_are_not_known() -> None:
    embedding = ArchitectureEmbedding(GHN, input_shape=(3, 8, 8, 8)).fit()
    with pytest.warns(UserWarning, match=r"9\d% of the numbers in the parameters of Volumes .*conv3d"):
        embedding.transform([Volumes(3)])


def test_a_network_that_cannot_be_traced_is_named() -> None:
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(size, 2)) for size in (192, 192, 7)]
    with pytest.raises(TraceError, match="network 2 of 3: the forward of Sequential failed"):
        ArchitectureEmbedding(GHN, input_shape=(3, 8, 8)).fit_transform(networks)


def test_an_array_as_input_shape() -> None:
    text, shape = "01220211", cast(Any, np.array([3, 32, 32]))
    wanted = ArchitectureEmbedding(GHN).fit_transform([text])
    found = ArchitectureEmbedding(GHN, input_shape=shape).fit_transform([text])
    np.testing.assert_array_equal(found, wanted)
    with pytest.raises(TraceError):
        ArchitectureEmbedding(GHN, input_shape=()).fit_transform([text])
