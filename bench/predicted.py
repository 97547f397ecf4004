"""What accuracy with predicted parameters says of networks that were trained here, into bench/results/predicted.json.

Kendall's tau with what `ghnfast properties bench/results/measured.csv --measure N` measured: without any label, of all
networks; and together with a predictor that learned from labels, of the networks of the split test, where the ranks of
both are added. Networks are predicted with as many channels as the GHN was trained with, 16; the table's were trained
with fewer.
Beside the trained GHN stand some of random weights, and the number of parameters.
"""

from __future__ import annotations

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import RESULTS, git, machine, write
from measured import TABLE
from numpy.typing import NDArray
from scipy.stats import rankdata

import ghnfast
from ghnfast.deepnets import DeepNets1M
from ghnfast.properties import ArchitectureEmbedding, PredictedAccuracy, PropertyPredictor, kendall_tau
from ghnfast.properties.pooling import parameters_of
from ghnfast.properties.protocol import PERMUTATIONS, random_ghn
from ghnfast.properties.table import PROPERTIES, Training
from ghnfast.training import load_data

TARGET = RESULTS / "predicted.json"
CHANNELS = 16
Vector = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ghn", default="ghn2-mnist5k", help="default: %(default)s")
    parser.add_argument("--table", type=Path, default=TABLE, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=256, help="default: %(default)s")
    parser.add_argument("--random-ghns", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=TARGET, help="default: %(default)s")
    given = parser.parse_args(arguments)
    start = time.time()
    with given.table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    splits = {name: DeepNets1M(name, large_images=False, num_classes=10) for name in ("val", "test")}
    items = [splits[row["split"]][int(row["index"])] for row in rows]
    labels = {key: np.array([float(row[key]) for row in rows]) for key in PROPERTIES}
    wide = [Training(channels=CHANNELS).network(item) for item in items]
    trained, images = ghnfast.load(given.ghn), load_data("mnist5k").val
    assert images is not None  # they were held out, of the GHN's training, too
    ghns = [trained, *(random_ghn(trained.config, seed) for seed in range(given.random_ghns))]
    shares = [PredictedAccuracy(images, ghn, given.images).fit_transform(wide)[:, 0] for ghn in ghns]
    trained_as = [Training(channels=int(row["channels"])).network(item) for row, item in zip(rows, items, strict=True)]
    narrow = [item.graph for item in trained_as]
    alone = {
        "predicted accuracy": [shares[0]],
        "predicted accuracy, random weights": shares[1:],
        "number of parameters": [np.array([parameters_of(graph) for graph in narrow], dtype=np.float64)],
    }
    alone = {name: found for name, found in alone.items() if found}
    vectors = ArchitectureEmbedding().fit_transform(narrow)
    known = np.array([row["split"] == "val" for row in rows])
    dirty = bool(git("status", "--porcelain", "--untracked-files=no", "--", "../ghnfast"))
    results: dict[str, Any] = {
        key: {
            "without labels": {
                name: summary([kendall_tau(each, values) for each in found]) for name, found in alone.items()
            },
            "with labels": together(vectors, values, known, alone),
        }
        for key, values in labels.items()
    }
    results["about"] = {
        "networks": {"val": int(known.sum()), "test": int((~known).sum())},
        "ghn": given.ghn, "images": given.images, "accuracy": 100 * float(shares[0].mean()), "machine": machine(),
        "torch": version("torch"), "scikit-learn": version("scikit-learn"), "python": platform.python_version(),
        "commit": git("rev-parse", "HEAD"), "dirty": dirty, "date": time.strftime("%Y-%m-%d"),
        "permutations": PERMUTATIONS, "minutes": round((time.time() - start) / 60, 1),
    }  # fmt: skip
    write(given.out, results)


def together(
    vectors: NDArray[np.float64], values: Vector, known: NDArray[np.bool_], alone: dict[str, list[Vector]]
) -> dict[str, Any]:
    """Tau on the networks that are not known, for each of some choices of four fifths of those that are."""
    found: dict[str, list[float]] = {"the default GHN's embedding": []}
    places = np.flatnonzero(known)
    for seed in range(PERMUTATIONS):
        chosen = places[np.random.default_rng(seed).permutation(len(places))[: len(places) * 4 // 5]]
        scores = PropertyPredictor().fit(vectors[chosen], values[chosen]).predict(vectors[~known])
        found["the default GHN's embedding"].append(kendall_tau(scores, values[~known]))
        for name, all_of_it in alone.items():
            for each in all_of_it:  # with the sign that it has among those that are known
                sign = 1 if kendall_tau(each[chosen], values[chosen]) >= 0 else -1
                ranks = rankdata(scores) + sign * rankdata(each[~known])
                found.setdefault(f"the same and {name}", []).append(kendall_tau(ranks, values[~known]))
    return {name: summary(taus) for name, taus in found.items()}


def summary(taus: list[float]) -> dict[str, Any]:
    return {"tau": statistics.fmean(taus), "deviation": statistics.stdev(taus) if len(taus) > 1 else None}


if __name__ == "__main__":
    main()
