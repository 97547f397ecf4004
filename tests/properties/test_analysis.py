"""Architectures as points: neighbours and maps."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections import Counter
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import sklearn
import torch
from sklearn.decomposition import PCA

from ghnfast import ConfigError, MissingPackageError, PropertyError
from ghnfast.properties import ArchitectureEmbedding, PropertyPredictor, draw_map, nearest, project
from ghnfast.properties.analysis import PROJECTIONS
from ghnfast.properties.drawing import draw_bars
from ghnfast.properties.table import PROPERTIES

CODES = ["00000000", "00000001", "22222222", "22222221", "11111111"]
VECTORS = ArchitectureEmbedding("ghn2-mnist5k").fit_transform(CODES)


def test_near_ones_are_alike() -> None:
    found, distances = nearest(VECTORS, VECTORS, 2)
    assert found[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert found[:4, 1].tolist() == [1, 0, 3, 2]
    np.testing.assert_allclose(distances[:, 0], 0, atol=1e-6)
    assert (np.diff(distances) > 0).all()


def test_a_map_shows_every_network_in_the_colour_of_its_family() -> None:
    families = ["flat", "flat", "wide", "wide", "a & b <$x$>"]
    svg = draw_map(VECTORS, families, CODES)
    assert svg == draw_map(VECTORS, families, CODES)
    root = ElementTree.fromstring(svg)
    groups = [g for g in root.iter("{http://www.w3.org/2000/svg}g") if g.get("id", "").startswith("PathCollection")]
    uses = [len(list(group.iter("{http://www.w3.org/2000/svg}use"))) for group in groups]
    assert uses[:3] == [*Counter(families).values()]  # behind them the points of the legend


def test_a_plane_keeps_neighbours() -> None:
    points = project(VECTORS)
    assert points.shape == (5, 2)
    assert nearest(points, points, 2)[0][:4, 1].tolist() == [1, 0, 3, 2]


def test_settings_of_scikit_learn_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all transformers are to make data frames, here umap's too."""
    stand_in = SimpleNamespace(UMAP=lambda n_components, random_state: PCA(n_components, random_state=random_state))
    monkeypatch.setitem(sys.modules, "umap", stand_in)

    def results() -> list[Any]:
        model = PropertyPredictor().fit(VECTORS, range(5))
        maps = [project(VECTORS, method) for method in PROJECTIONS]
        return [
            *nearest(VECTORS, VECTORS, 2),
            *maps,
            model.predict(VECTORS),
            pickle.loads(pickle.dumps(model)).predict(VECTORS),
        ]

    wanted, drawn = results(), draw_map(VECTORS, CODES)
    with warnings.catch_warnings(), sklearn.config_context(transform_output="pandas"):
        warnings.simplefilter("error")
        found = results()
        assert draw_map(VECTORS, CODES) == drawn
    for one, other in zip(found, wanted, strict=True):
        assert isinstance(one, np.ndarray)
        np.testing.assert_array_equal(one, other)


def test_umap_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingPackageError, match="umap-learn"):
        project(VECTORS, "umap")


WRONG: list[tuple[Any, ...]] = [
    (VECTORS[0], VECTORS, 2),
    (VECTORS, VECTORS[:, :3], 2),
    (VECTORS, VECTORS, 6),
    (VECTORS, VECTORS, 0),
    (VECTORS, VECTORS, 2.0),
    (VECTORS, VECTORS, True),
    (np.full((5, 3), np.nan), VECTORS, 1),
    ([["a"]], VECTORS, 1),
    ([[10**400]], VECTORS, 1),
    ([], VECTORS, 1),
    (VECTORS[:, :0], VECTORS[:, :0], 1),
    (VECTORS * 1e200, VECTORS, 1),
    (VECTORS, VECTORS * 1e200, 1),
    (VECTORS + 1j, VECTORS, 1),
    (np.ma.masked_greater(VECTORS, 1), VECTORS, 1),
    (torch.tensor(VECTORS, requires_grad=True), VECTORS, 1),
]


@pytest.mark.parametrize("given", WRONG)
def test_what_is_refused(given: tuple[Any, ...]) -> None:
    with pytest.raises(PropertyError, match="accepted"):
        nearest(*given)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["x$^$", "_run", "a$b$"])
def test_names_stand_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of families and networks in maps, and of GHNs in bars."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    bars = draw_bars({name: {key: {"tau": 0.5, "deviation": 0.1} for key in PROPERTIES}})
    for drawn, times in ((draw_map(VECTORS, [name, *"abab"], [name, *"cdef"]), 2), (bars, len(PROPERTIES))):
        texts = ["".join(each.itertext()) for each in ElementTree.fromstring(drawn).iter() if each.tag[-4:] == "text"]
        assert texts.count(name) == times


@pytest.mark.parametrize("name", ["a\x00b", "\x1b[0m", "\udcff", "\ufffe", "a\nb"])
def test_names_that_are_no_text_are_drawn(name: str) -> None:
    bars = draw_bars({name: {key: {"tau": 0.5, "deviation": 0.1} for key in PROPERTIES}})
    for drawn in (draw_map(VECTORS, [name, *"abab"], [name, *"cdef"]), bars):
        ElementTree.fromstring(drawn.encode())


@pytest.mark.filterwarnings("error")
def test_networks_that_are_all_the_same_have_a_map() -> None:
    assert not project(np.ones((4, 3))).any()


def test_arguments_of_numpy() -> None:
    assert nearest(VECTORS, VECTORS, np.int64(2))[0].shape == (len(VECTORS), 2)
    kinds: list[Any] = [list, tuple, np.array, iter]
    assert len({draw_map(VECTORS, kind([*"abcde"]), kind([*"abcde"])) for kind in kinds}) == 1


def test_maps_that_are_refused() -> None:
    with pytest.raises(PropertyError, match="5 vectors and 1 families"):
        draw_map(VECTORS, ["one"])
    with pytest.raises(PropertyError, match="names"):
        draw_map(VECTORS, ["one"] * 5, ["name"])
    with pytest.raises(PropertyError, match="three"):
        project(VECTORS[:2])
    with pytest.raises(ConfigError, match="method"):
        project(VECTORS, "tsne")
    for seed in (-1, 1 << 32, None, "a", True):
        with pytest.raises(ConfigError, match="seed"):
            project(VECTORS, seed=seed)  # type: ignore[arg-type]
    for wrong in (None, 5, "abcde", [1] * 5, [["a"]] * 5, []):
        with pytest.raises(PropertyError, match=r"families is .*accepted"):
            draw_map(VECTORS, wrong)  # type: ignore[arg-type]
        if wrong is not None:
            with pytest.raises(PropertyError, match=r"names is .*accepted"):
                draw_map(VECTORS, ["a"] * 5, wrong)  # type: ignore[arg-type]
