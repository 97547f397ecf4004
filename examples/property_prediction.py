"""Predicts the accuracy after training of networks of NAS-Bench-201 from that of some others.

    python examples/property_prediction.py --labels 100 --others 500

Beside it the number of parameters as the only feature, which any embedding has to beat. The table (bench/tables) has
measured accuracies; your own is a list of networks and a list of numbers. Needs `ghnfast[properties]`.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import ghnfast
from ghnfast.properties import PropertyPredictor, kendall_tau, make_model
from ghnfast.spaces import nas_bench_201

TABLE = Path(__file__).resolve().parents[1] / "bench" / "tables" / "nas-bench-201.csv.gz"
SHAPE = (3, 32, 32)


def sizes(graphs: Sequence[ghnfast.ArchGraph]) -> np.ndarray:
    """The logarithm of the number of parameters, (networks, 1)."""
    return np.log([[sum(map(math.prod, graph.parameter_shapes.values()))] for graph in graphs])


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=100, help="networks whose accuracy is known")
    parser.add_argument("--others", type=int, default=500, help="networks to predict")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    with gzip.open(TABLE, "rt", newline="") as file:
        accuracy = {row["architecture"]: float(row["accuracy"]) for row in csv.DictReader(file)}
    cells = np.random.default_rng(given.seed).permutation(sorted(accuracy)).tolist()
    known, others = cells[: given.labels], cells[given.labels : given.labels + given.others]
    labels, truth = ([accuracy[cell] for cell in part] for part in (known, others))
    graphs, other_graphs = (
        [ghnfast.trace(nas_bench_201(cell), input_shape=SHAPE) for cell in part] for part in (known, others)
    )
    sized = PropertyPredictor().fit(sizes(graphs), labels)
    taus = {
        "states of the GHN": kendall_tau(truth, make_model().fit(graphs, labels).predict(other_graphs)),
        "number of parameters": kendall_tau(truth, sized.predict(sizes(other_graphs))),
    }
    for name, tau in taus.items():
        print(f"{name:22} Kendall's tau {tau:.2f} with the accuracy of {len(others)} other networks")
    return taus


if __name__ == "__main__":
    main()
