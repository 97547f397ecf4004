"""How well properties are predicted on public benchmarks, into bench/results/properties.json.

Kendall's tau on 1,000 other networks of the tables in bench/tables, from 100 and from 500 labels; means over choices of
networks, which are the same for every row. Beside the default GHN stand GHNs with random weights, and what takes no
GHN: sums over paths, counts of primitives, the number of parameters, one-hot codes, and zero-cost proxies (which need a
pass over images each). `--columns` measures other properties than accuracy.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nas_tables
import numpy as np
import torch
from accuracy import git, machine, write
from numpy.typing import NDArray

import ghnfast
from ghnfast.graph import ArchGraph
from ghnfast.properties import ArchitectureEmbedding, PropertyPredictor
from ghnfast.properties.paths import PATHS
from ghnfast.properties.pooling import COUNTS, counts_of, parameters_of, sizes_of
from ghnfast.spaces.nas_bench_201 import OPERATIONS, parse_cell

TARGET = Path(__file__).resolve().parent / "results" / "properties.json"
LABELS = {100: 10, 500: 5}  # how many labels, and how many choices of them
OTHERS = 1000
RANDOM_GHNS = 3
Vectors = NDArray[np.float64]


def one_hot(name: str, architecture: str) -> Vectors:
    """The choices of a network as zeros and ones."""
    if name == "nas-bench-201":
        chosen = [OPERATIONS.index(operation) for _, operation in sorted(parse_cell(architecture).items())]
        return np.eye(len(OPERATIONS))[chosen].ravel()
    return np.eye(3)[[int(digit) for digit in architecture]].ravel()


def random_ghn(seed: int) -> ghnfast.GHN:
    """A GHN as the default is, with random weights."""
    torch.manual_seed(seed)
    return ghnfast.GHN(**ghnfast.load("ghn2-fashion").config).eval()


def embedded(ghn: Any, pool: str, graphs: Sequence[ArchGraph]) -> Vectors:
    return ArchitectureEmbedding(ghn, pool).fit_transform(graphs)


def described(name: str, graphs: Sequence[ArchGraph], random_ghns: int) -> Iterator[tuple[str, str, list[Vectors]]]:
    """(title, method of prediction, the networks' vectors): of several GHNs where they are random."""
    yield "default GHN, stats", "gp", [embedded(None, "stats", graphs)]
    ghns = [random_ghn(seed) for seed in range(random_ghns)]
    yield "random weights, stats", "gp", [embedded(ghn, "stats", graphs) for ghn in ghns]
    yield "default GHN, mean", "gp", [embedded(None, "mean", graphs)]
    yield "random weights, mean", "gp", [embedded(ghn, "mean", graphs) for ghn in ghns]
    yield "default GHN, mean, as published", "svr", [embedded(None, "mean", graphs)]
    yield "random weights, mean, as published", "svr", [embedded(ghns[0], "mean", graphs)]
    yield "paths and counts, no GHN", "gp", [embedded(None, "stats", graphs)[:, -PATHS - len(COUNTS) :]]
    yield "counts of primitives", "gp", [counts_of(sizes_of(graphs))]
    yield "number of parameters", "gp", [np.log([[parameters_of(graph)] for graph in graphs])]
    if name == "nas-bench-201":
        proxies = np.stack([nas_tables.column(name, key)[: len(graphs)] for key in nas_tables.PROXIES], axis=1)
        proxies = np.arcsinh(proxies)  # as sums over paths are: some are of many powers of ten
        yield "13 zero-cost proxies", "gp", [proxies]
        yield "default GHN, stats, and the proxies", "gp", [np.hstack([embedded(None, "stats", graphs), proxies])]
    yield "one-hot", "gp", [np.stack([one_hot(name, text) for text in nas_tables.architectures(name)[: len(graphs)]])]


def taus(vectors: Vectors, labels: NDArray[np.float64], method: str, count: int, choices: int) -> list[float]:
    """Kendall's tau on others, for each choice of labels."""
    found = []
    for seed in range(choices):
        order = np.random.default_rng(seed).permutation(len(labels))
        known, others = order[:count], order[count : count + OTHERS]
        model = PropertyPredictor(method).fit(vectors[known], labels[known])
        found.append(model.score(vectors[others], labels[others]))
    return found


def measure(name: str, keys: Sequence[str], rows: int | None, random_ghns: int, choices: int | None) -> dict[str, Any]:
    """{column: {title: {labels: mean, standard error, n}}} of a table."""
    graph_of = ArchitectureEmbedding().fit().graph
    graphs = [graph_of(text) for text in nas_tables.architectures(name)[:rows]]
    results: dict[str, Any] = {key: {} for key in keys}
    for title, method, all_vectors in described(name, graphs, random_ghns):
        for key in keys:
            labels = nas_tables.column(name, key)[: len(graphs)]
            for count, usual in LABELS.items():
                each = [taus(v, labels, method, count, choices or usual) for v in all_vectors]
                # The random GHNs of a choice of labels are one sample.
                means = [statistics.fmean(found) for found in zip(*each, strict=True)]
                error = statistics.stdev(means) / math.sqrt(len(means)) if len(means) > 1 else None
                by_ghn = [statistics.fmean(found) for found in each]
                results[key].setdefault(title, {})[str(count)] = {
                    "tau": statistics.fmean(means), "stderr": error, "choices": len(means), "ghns": by_ghn
                }  # fmt: skip
                print(f"{name} {key} {title} {count}: {statistics.fmean(means):.4f}", flush=True)
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", default=nas_tables.NAMES, choices=nas_tables.NAMES)
    parser.add_argument("--columns", nargs="+", default=["accuracy"], help="of the tables; default: accuracy")
    parser.add_argument("--rows", type=int, help="the first ones; default: all")
    parser.add_argument("--random-ghns", type=int, default=RANDOM_GHNS, help=f"default: {RANDOM_GHNS}")
    parser.add_argument("--choices", type=int, help=f"of labels; default: {LABELS}")
    parser.add_argument("--out", type=Path, default=TARGET, help="default: %(default)s")
    given = parser.parse_args(arguments)
    dirty = bool(git("status", "--porcelain", "--untracked-files=no", "--", "../ghnfast"))
    known: dict[str, Any] = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.tables:
        start = time.time()
        results = measure(name, given.columns, given.rows, given.random_ghns, given.choices)
        known[name] = {
            **known.get(name, {}),
            **results,
            "about": {
                "machine": machine(), "torch": version("torch"), "scikit-learn": version("scikit-learn"),
                "python": platform.python_version(), "commit": git("rev-parse", "HEAD"), "dirty": dirty,
                "date": time.strftime("%Y-%m-%d"), "minutes": round((time.time() - start) / 60, 1),
            },
        }  # fmt: skip
        write(given.out, known)


if __name__ == "__main__":
    main()
