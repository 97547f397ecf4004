"""The published comparison of embeddings: trained on networks of the split val, tested on those of the split test.

Source: Knyazev et al., "Parameter Prediction for Unseen Deep Architectures", NeurIPS 2021, Section 5.2 and Figure 4.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, GhnfastError, PropertyError
from ..graph import ArchGraph
from ..nn import GHN
from ..progress import Progress
from ..randomness import drawing_from
from .embedding import ArchitectureEmbedding
from .pooling import counts_of, sizes_of
from .predictor import PropertyPredictor
from .rows import number, read_rows
from .table import COLUMNS, PROPERTIES, MeasuredNetworks, check_columns

PERMUTATIONS = 5
RANDOM_GHNS = 3
RANDOM, PRIMITIVES, PARAMETERS = "random weights", "counts of primitives", "number of parameters"
OWN_ROWS = (RANDOM, PRIMITIVES, PARAMETERS)  # beside those of GHNs
TRAINED_ON, TESTED_ON = "val", "test"
Json = dict[str, Any]


class Measured:
    """The networks of a file that `measure_into` wrote: graphs and labels of the splits val and test.

    Raises:
        PropertyError: the file cannot be read, has networks that were trained in different ways, or fewer than two of a
            split.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.graphs: dict[str, list[ArchGraph]] = {}
        self.labels: dict[str, dict[str, NDArray[np.float64]]] = {}
        columns, rows = read_rows(path)
        check_columns(columns, path)
        for name in COLUMNS:
            if name not in columns:
                raise PropertyError(f"{path} has no column {name!r}; a file that --measure wrote is accepted")
        networks: MeasuredNetworks | None = None
        values: dict[str, list[list[float]]] = {}
        for line, row in rows:
            try:
                networks = networks or MeasuredNetworks(row)
                self.graphs.setdefault(row["split"], []).append(networks.network(row).graph)
                values.setdefault(row["split"], []).append([number(row[name], name) for name in PROPERTIES])
            except GhnfastError as error:
                raise PropertyError(f"line {line} of {path}: {error}") from error
        for split in (TRAINED_ON, TESTED_ON):
            found = len(values.get(split, []))
            if found < 2:
                raise PropertyError(f"{path} has {found} networks of the split {split}; two or more are accepted")
            self.labels[split] = dict(zip(PROPERTIES, np.array(values[split]).T, strict=True))


def compare(
    measured: Measured,
    ghns: Mapping[str, GHN | str | os.PathLike[str]],
    *,
    pool: str = "mean",
    method: str = "svr",
    permutations: int = PERMUTATIONS,
    random_ghns: int = RANDOM_GHNS,
    progress: Progress = lambda count: None,
) -> Json:
    """Kendall's tau on the test networks, for each embedding and property.

    Args:
        ghns: by the name that their rows get; not one of `OWN_ROWS`.
        pool, method: see `ArchitectureEmbedding` and `PropertyPredictor`; as published by default.
        permutations: of the training networks, each of which leaves a fifth of them out.
        random_ghns: how many GHNs with random weights, of the settings of the first one, stand beside them.

    Returns:
        {row: {property: {"tau": mean, "deviation": of all permutations and GHNs, "each": ...}}}.

    Raises:
        ConfigError: a GHN has the name of another row.
    """
    for name in OWN_ROWS:
        if name in ghns:
            raise ConfigError(f"a GHN has the name {name!r}; others than {', '.join(OWN_ROWS)} are accepted")
    rows: dict[str, list[Callable[[Sequence[ArchGraph]], NDArray[np.float64]]]] = {}
    loaded = {name: ArchitectureEmbedding(source, pool).fit() for name, source in ghns.items()}
    rows.update({name: [embedding.transform] for name, embedding in loaded.items()})
    if loaded and random_ghns:
        config = next(iter(loaded.values())).ghn_.config
        drawn = [ArchitectureEmbedding(random_ghn(config, seed), pool).fit() for seed in range(random_ghns)]
        rows[RANDOM] = [embedding.transform for embedding in drawn]
    rows[PRIMITIVES] = [lambda graphs: counts_of(sizes_of(graphs))[:, :-4]]
    rows[PARAMETERS] = [lambda graphs: counts_of(sizes_of(graphs))[:, -4:-3]]
    results: Json = {}
    for name, embeddings in rows.items():
        pairs = [(embed(measured.graphs[TRAINED_ON]), embed(measured.graphs[TESTED_ON])) for embed in embeddings]
        results[name] = {}
        for key in PROPERTIES:
            labels = measured.labels[TRAINED_ON][key], measured.labels[TESTED_ON][key]
            each = [tau for pair in pairs for tau in taus(*pair, *labels, method, permutations)]
            deviation = statistics.stdev(each) if len(each) > 1 else 0.0
            results[name][key] = {"tau": statistics.fmean(each), "deviation": deviation, "each": each}
        progress(1)
    return results


def random_ghn(config: Json, seed: int) -> GHN:
    with drawing_from(seed):
        return GHN(**config).eval()


def taus(
    vectors: NDArray[np.float64],
    others: NDArray[np.float64],
    labels: NDArray[np.float64],
    wanted: NDArray[np.float64],
    method: str,
    permutations: int,
) -> list[float]:
    """Kendall's tau on others, for each permutation; 0 where the labels are all the same."""
    found = []
    for seed in range(permutations):
        order = np.random.default_rng(seed).permutation(len(labels))[: max(2, len(labels) * 4 // 5)]
        if (labels[order] == labels[order[0]]).all():
            found.append(0.0)
            continue
        found.append(PropertyPredictor(method).fit(vectors[order], labels[order]).score(others, wanted))
    return found


def format_comparison(results: Json) -> str:
    """The table of Figure 4: a row for each embedding, Kendall's tau and its standard deviation."""
    titles = {
        "accuracy": "accuracy",
        "noisy_accuracy": "noisy accuracy",
        "seconds": "time",
        "convergence": "convergence",
    }
    width = max(map(len, results))
    lines = [" ".join([" " * width, *(f"{titles[key]:>16}" for key in PROPERTIES)])]
    for name, found in results.items():
        cells = [f"{found[key]['tau']:.3f} +- {found[key]['deviation']:.3f}" for key in PROPERTIES]
        lines.append(" ".join([f"{name:{width}}", *(f"{cell:>16}" for cell in cells)]))
    return "\n".join(lines)
