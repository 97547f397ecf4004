"""Architectures as points: which are near each other, and a map of them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..deepnets.dataset import is_whole
from ..errors import ConfigError, PropertyError
from ..figures import add_legend, drawable
from ..optional import import_optional
from ..plain import plain
from .ranking import NO_NUMBERS, as_numbers, check_size, standardizer

decomposition: Any = import_optional("sklearn.decomposition", "ghnfast.properties needs")
neighbors: Any = import_optional("sklearn.neighbors", "ghnfast.properties needs")

PROJECTIONS = ("pca", "umap")


def nearest(vectors: ArrayLike, queries: ArrayLike, count: int = 5) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The networks whose vectors are nearest, where every number of a vector counts by its deviation.

    Args:
        vectors: (networks, numbers), from `ArchitectureEmbedding.transform`.
        queries: (queries, numbers).
        count: how many of each query.

    Returns:
        (queries, count), indices into `vectors`, the nearest first; and their distances.

    Raises:
        PropertyError: the vectors are not finite, not of one width, or fewer than `count`.
    """
    known, asked = check_vectors(vectors), check_vectors(queries)
    if known.shape[1] != asked.shape[1]:
        raise PropertyError(f"queries have {asked.shape[1]} numbers and vectors {known.shape[1]}; as many are accepted")
    if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or not 1 <= count <= len(known):
        raise PropertyError(f"count is {count!r:.80}; 1 to {len(known)} vectors are accepted")
    scaler = standardizer().fit(known)
    search = neighbors.NearestNeighbors(n_neighbors=count).fit(scaler.transform(known))
    distances, found = search.kneighbors(scaler.transform(asked))
    return found, distances


def project(vectors: ArrayLike, method: str = "pca", seed: int = 0) -> NDArray[np.float64]:
    """(networks, 2): vectors on a plane, by their principal components or by UMAP (McInnes et al., 2018).

    Raises:
        ConfigError: `method` is something else, or `seed` no seed.
        PropertyError: the vectors are not finite, or fewer than three.
        MissingPackageError: umap-learn is not installed.
    """
    if method not in PROJECTIONS:
        raise ConfigError(f"method is {method!r:.80}; {', '.join(map(repr, PROJECTIONS))} are accepted")
    seed = plain(seed)
    if not is_whole(seed) or not 0 <= seed < 1 << 32:
        raise ConfigError(f"seed is {seed!r:.80}; 0 to 2^32 - 1 is accepted")
    known = check_vectors(vectors)
    if len(known) < 3 or known.shape[1] < 2:
        raise PropertyError(f"vectors have the shape {known.shape}; three or more of two numbers or more are accepted")
    points = standardizer().fit_transform(known)
    if method == "umap":
        reducer = import_optional("umap", "a map by UMAP needs").UMAP(n_components=2, random_state=seed)
    else:
        reducer = decomposition.PCA(2, random_state=seed)
    with np.errstate(invalid="ignore"):  # shares of no variance, of networks that are all the same
        placed: NDArray[np.float64] = np.asarray(reducer.fit_transform(points))  # data frames, by sklearn.set_config
    return placed


def draw_map(
    vectors: ArrayLike, families: Sequence[str], names: Sequence[str] | None = None, method: str = "pca"
) -> str:
    """An SVG of networks as points, each family in a colour.

    Args:
        vectors: (networks, numbers), from `ArchitectureEmbedding.transform`.
        families: of each network, such as "ResNet".
        names: written beside the points, where given.
        method: see `project`.

    Raises:
        PropertyError: there are not as many families and names as vectors; or see `project`.
        MissingPackageError: matplotlib, or umap-learn, is not installed.
    """
    points = project(vectors, method)
    families = texts_of("families", families, len(points))
    names = () if names is None else texts_of("names", names, len(points))
    matplotlib = import_optional("matplotlib", "maps need")
    figures = import_optional("matplotlib.figure", "maps need")
    with matplotlib.rc_context({"svg.hashsalt": "ghnfast", "font.size": 8}):
        figure = figures.Figure(figsize=(7, 5), layout="constrained")
        axes = figure.subplots()
        shown = {
            family: axes.scatter(*points[[each == family for each in families]].T, s=14)
            for family in dict.fromkeys(families)
        }
        for name, point in zip(names, points, strict=False):
            axes.annotate(drawable(name), point, fontsize=5, alpha=0.7, parse_math=False)
        add_legend(axes, shown.keys(), shown.values(), fontsize=7)
        axes.set(xticks=[], yticks=[])
        output = io.StringIO()
        figure.savefig(output, format="svg", metadata={"Date": None})
    return output.getvalue()


def texts_of(what: str, texts: object, count: int) -> list[str]:
    given = [] if isinstance(texts, str) or not isinstance(texts, Iterable) else list(texts)
    if not given or not all(isinstance(text, str) for text in given):
        raise PropertyError(f"{what} is {texts!r:.80}; a list of texts is accepted")
    if len(given) != count:
        raise PropertyError(f"there are {count} vectors and {len(given)} {what}; one for each is accepted")
    return given


def check_vectors(vectors: ArrayLike) -> NDArray[np.float64]:
    try:
        array = as_numbers(vectors)
    except NO_NUMBERS as error:
        raise PropertyError(f"vectors are no numbers ({error}); (networks, numbers) is accepted") from error
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise PropertyError(f"vectors have the shape {array.shape}; finite ones (networks, numbers) are accepted")
    check_size(array, "vectors")
    return array
