"""Search by evolution: genotypes that a predictor ranks first, beyond those of any split.

Source: Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019, Section 3.2: parents
win tournaments, children replace the oldest. Here a generation of children is made and embedded at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..deepnets import OPERATIONS, DeepNets1M, Genotype, graph_of
from ..deepnets.dataset import SIZES, check_seed
from ..deepnets.space import SIGNATURE
from ..errors import ConfigError
from ..graph import ArchGraph
from ..plain import with_plain_numbers
from ..progress import Progress
from .embedding import OF_GENOTYPES
from .searching import check_positive, parts_of, predictions_of

MOST_TRIES = 1000  # until a child has a graph and is new


class Evolved(NamedTuple):
    """A genotype, and the property that is predicted for its network."""

    genotype: Genotype
    predicted: float


@with_plain_numbers
def evolve(
    model: Any,
    *,
    generations: int = 50,
    population: int = 64,
    tournament: int = 8,
    top: int = 20,
    largest: bool = True,
    seed: int = 0,
    network: dict[str, Any] | None = None,
    progress: Progress = lambda count: None,
) -> list[Evolved]:
    """Genotypes for whose networks a property is predicted to be the largest, found by mutation and selection.

    Args:
        model: a fitted pipeline of an `ArchitectureEmbedding` and a regressor.
        generations: how many, each of `population // 2` children.
        population: how many genotypes live at a time; the first ones are those of the split search.
        tournament: of how many genotypes the best one becomes a parent.
        top, largest: see `search`.
        seed: of all that is drawn.
        network: the arguments of `ghnfast.deepnets.Network` but for the genotype; by default 8 cells, 32 channels, ten
            classes, 32 x 32 images.
        progress: is told of each number of genotypes that were looked at.

    Returns:
        `top` genotypes or fewer, the best one first, of all that ever lived.

    Raises:
        ConfigError: an argument out of range, or networks that have no graph.
        PropertyError: the regressor predicts something else than a finite number for each network.
    """
    parts_of(model)
    given = {"generations": generations, "population": population, "tournament": tournament, "top": top}
    for name, value in given.items():
        check_positive(name, value)
    if not 2 <= population <= SIZES["search"]:
        raise ConfigError(f"population is {population}; 2 to {SIZES['search']} genotypes are accepted")
    check_seed(seed)
    sign, settings = 1.0 if largest else -1.0, settings_with(network)
    random = np.random.default_rng(seed)
    known: dict[Genotype, float] = {}

    def rate(graphs: dict[Genotype, ArchGraph]) -> None:
        known.update(zip(graphs, (sign * predictions_of(model, list(graphs.values()))).tolist(), strict=True))
        progress(len(graphs))

    living = first_ones(settings, population, seed)
    rate(living)
    alive = list(living)
    for _ in range(generations):
        children: dict[Genotype, ArchGraph] = {}
        for _ in range(population // 2):
            drawn = random.integers(len(alive), size=tournament)
            parent = max((alive[at] for at in drawn), key=known.__getitem__)
            child = new_child(parent, random, settings, known.keys() | children.keys())
            if child is not None:
                children[child[0]] = child[1]
        if children:
            rate(children)
        alive = [*alive, *children][-population:]
    best = sorted(known.items(), key=lambda item: -item[1])[:top]
    return [Evolved(genotype, sign * value) for genotype, value in best]


def settings_with(network: Any) -> dict[str, Any]:
    """The arguments of every network but for its genotype."""
    known = [name for name in SIGNATURE.parameters if name != "genotype"]
    if network is not None and not (isinstance(network, Mapping) and network.keys() <= {*known}):
        raise ConfigError(f"network is {network!r:.80}; a dictionary with some of {', '.join(known)} is accepted")
    return {**OF_GENOTYPES, **(network or {})}


def first_ones(settings: dict[str, Any], count: int, seed: int) -> dict[Genotype, ArchGraph]:
    """The first genotypes of the split search whose networks have these settings."""
    found: dict[Genotype, ArchGraph] = {}
    refused: ConfigError | None = None
    for at, item in enumerate(DeepNets1M("search", seed=seed)):
        assert item.genotype is not None  # as those of `predefined` may be
        try:
            found[item.genotype] = graph_of(genotype=item.genotype, **settings)
        except ConfigError as error:
            refused = error
        if len(found) == count:
            return found
        if at > MOST_TRIES + 10 * count and not found:
            break
    raise ConfigError(
        f"{len(found) or 'no'} genotypes of the split search can have the settings {settings}; population is {count}"
        f"{'' if refused is None else f'; the last one that cannot: {refused}'}"
    ) from refused


def new_child(
    parent: Genotype, random: np.random.Generator, settings: dict[str, Any], known: set[Genotype]
) -> tuple[Genotype, ArchGraph] | None:
    """A mutation of a genotype that nobody has seen, whose network has a graph; None where none is found."""
    for _ in range(MOST_TRIES):
        child = mutated(parent, random)
        if child not in known and (graph := graph_or_none(child, settings)) is not None:
            return child, graph
        parent = child if child in known else parent  # farther away
    return None


def mutated(genotype: Genotype, random: np.random.Generator) -> Genotype:
    """A genotype in which one edge has another operation, or reads another state."""
    cells = genotype.as_dict()
    cell = cells["normal" if random.random() < 0.5 else "reduce"]
    at = int(random.integers(len(cell)))
    name, state = cell[at]
    if random.random() < 0.5:
        others = [operation for operation in OPERATIONS if operation != name]
        cell[at] = [others[random.integers(len(others))], state]
    else:
        cell[at] = [name, int(random.integers(2 + at // 2))]
    return Genotype.of(cells)


def graph_or_none(genotype: Genotype, settings: dict[str, Any]) -> ArchGraph | None:
    """The graph of a genotype's network; None where `none` operations cut every path, or settings do not allow it."""
    try:
        return graph_of(genotype=genotype, **settings)
    except ConfigError:
        return None
