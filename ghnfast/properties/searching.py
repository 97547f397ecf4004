"""Search: the networks of a split that a predictor ranks first."""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from operator import index as as_index
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..deepnets import DeepNet, DeepNets1M
from ..deepnets.batches import SampledBatch
from ..errors import ConfigError, PropertyError
from ..nn import GHN
from ..optional import import_optional
from ..progress import Progress
from .embedding import ArchitectureEmbedding, embedded
from .pooling import Sizes
from .predictor import PropertyPredictor
from .ranking import NO_NUMBERS, as_numbers

sklearn: Any = import_optional("sklearn", "ghnfast.properties needs")
pipelines: Any = import_optional("sklearn.pipeline", "ghnfast.properties needs")
validation: Any = import_optional("sklearn.utils.validation", "ghnfast.properties needs")

BATCH = 48  # networks whose node states are in memory at once
ROUND = 40  # batches of which vectors are, and between two reports of progress


class Candidate(NamedTuple):
    """A network of a data set, by its number, and the property that is predicted for it."""

    network: int
    predicted: float


def search(
    model: Any,
    networks: DeepNets1M | str = "search",
    *,
    top: int = 20,
    largest: bool = True,
    as_measured: Callable[[DeepNet], DeepNet] | None = None,
    progress: Progress = lambda count: None,
) -> list[Candidate]:
    """The networks of a split for which a property is predicted to be the largest.

    Graphs are sampled in C++ and embedded in batches; nothing is kept of a network but whether it is among the first,
    so the memory does not depend on how many there are. Equal inputs give equal results.

    Args:
        model: a fitted pipeline of an `ArchitectureEmbedding` and a regressor.
        networks: a data set that is sampled, or its split; by default the 100,000 networks of the split search.
        top: how many networks to return.
        largest: whether more is better; else less is (latency).
        as_measured: what labels were measured of instead of a network, such as `Training.network`, and is predicted
            for then.
        progress: is told of each number of networks that were looked at.

    Returns:
        `top` candidates, the best one first; of equals the one with the smaller index.

    Raises:
        ConfigError: `model` is no such pipeline, `top` is not positive, or the networks are none that are sampled.
        PropertyError: the regressor predicts something else than a finite number for each network.
    """
    embedding, regressor = parts_of(model)
    dataset = DeepNets1M(networks) if isinstance(networks, str) else networks
    if not isinstance(dataset, DeepNets1M):
        raise ConfigError(f"networks is {networks!r:.80}; a DeepNets1M or one of its splits is accepted")
    best: list[tuple[float, int]] = []  # a heap, the worst first
    sign = 1.0 if largest else -1.0
    top = check_positive("top", top)
    for begin, vectors in embedded_rounds(embedding, dataset, as_measured):
        for at, value in enumerate(sign * predictions_of(regressor, vectors)):
            entry = float(value), -(begin + at)
            if len(best) < top:
                heapq.heappush(best, entry)
            elif entry > best[0]:
                heapq.heapreplace(best, entry)
        progress(len(vectors))
    return [Candidate(-index, sign * value) for value, index in sorted(best, reverse=True)]


def make_model(ghn: GHN | str | os.PathLike[str] | None = None, pool: str = "stats", method: str = "gp") -> Any:
    """A pipeline of an `ArchitectureEmbedding` and a `PropertyPredictor`, to be fitted to networks and labels."""
    return pipelines.make_pipeline(ArchitectureEmbedding(ghn, pool), PropertyPredictor(method))


def parts_of(model: Any) -> tuple[ArchitectureEmbedding, Any]:
    """The two parts of a pipeline; what is between them belongs to the second.

    Raises:
        ConfigError: it is none.
    """
    is_pipeline = isinstance(model, pipelines.Pipeline) and isinstance(model[0], ArchitectureEmbedding)
    if not is_pipeline or len(model) < 2 or not hasattr(model, "predict"):
        raise ConfigError(
            f"model is {model!r:.80}; a pipeline of an ArchitectureEmbedding and a regressor is accepted: "
            "make_pipeline(ArchitectureEmbedding(), PropertyPredictor()), or the best_estimator_ of a search over such"
        )
    validation.check_is_fitted(model[0], "ghn_")
    return model[0], model[1:]


def predictions_of(model: Any, inputs: Sequence[Any] | NDArray[np.float64]) -> NDArray[np.float64]:
    """(networks,): what a regressor predicts.

    Raises:
        PropertyError: that is something else than a finite number for each, with which nothing can be ranked.
    """
    predicted = model.predict(inputs)
    try:
        found = as_numbers(predicted)
    except NO_NUMBERS as error:
        raise PropertyError(f"the regressor predicts {predicted!r:.80}; numbers are accepted") from error
    if found.shape == (len(inputs), 1):  # of labels in a column
        found = found[:, 0]
    if found.shape != (len(inputs),) or not np.isfinite(found).all():
        what = f"numbers of the shape {found.shape}" if np.isfinite(found).all() else "NaN or infinity"
        raise PropertyError(
            f"the regressor predicts {what} for {len(inputs)} networks; a finite number for each is accepted"
        )
    return found


def check_positive(name: str, value: int) -> int:
    try:
        number = as_index(value)
    except TypeError:
        number = 0
    if isinstance(value, (bool, np.bool_)) or number < 1:
        raise ConfigError(f"{name} is {value!r:.80}; a positive number is accepted")
    return number


def is_plain(embedding: ArchitectureEmbedding) -> bool:
    """Whether vectors are those that C++ makes of sampled graphs: no subclass makes others, and no data frames."""
    set_output = getattr(embedding, "_sklearn_output_config", {}).get("transform")
    output = set_output or sklearn.get_config()["transform_output"]
    return type(embedding) is ArchitectureEmbedding and output == "default"


def joined(parts: Sequence[Any]) -> Any:
    """Arrays, or data frames, one behind the other."""
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    package = type(parts[0]).__module__.partition(".")[0]
    return import_optional(package, "its data frames need").concat(parts)


def embedded_rounds(
    embedding: ArchitectureEmbedding, dataset: DeepNets1M, change: Callable[[DeepNet], DeepNet] | None = None
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Runs of networks: the first one's index, and their vectors."""
    parts: list[NDArray[np.float64]] = []
    first = 0
    for begin in range(0, len(dataset), BATCH):
        end = min(begin + BATCH, len(dataset))
        if change is None and is_plain(embedding):
            batch = SampledBatch(dataset, begin, end)
            sizes = Sizes(batch.offsets, batch.primitives, batch.elements, batch.depths, batch.edge_counts)
            parts.append(embedded(embedding.ghn_, batch, sizes, embedding.pool))
        else:
            items = (dataset[index] for index in range(begin, end))
            parts.append(embedding.transform([item if change is None else change(item) for item in items]))
        if len(parts) == ROUND or end == len(dataset):
            yield first, joined(parts)
            first, parts = end, []
