"""What the examples of architecture search share: cells of NAS-Bench-201, and scores of them that need no training.

Four scores of a cell: the accuracy of its network on digits with parameters that a GHN predicts; what a property
predictor says, which was fitted to a few labels; and two controls, the number of parameters, and the first score with a
GHN of random weights. The table of the benchmark says how well each ranks.
"""

from __future__ import annotations

import csv
import functools
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ghnfast
from ghnfast.properties import kendall_tau, make_model
from ghnfast.spaces import nas_bench_201
from ghnfast.spaces.nas_bench_201 import OPERATIONS
from ghnfast.training import accuracies, load_data
from ghnfast.training.data import ImagesInMemory

TABLE = Path(__file__).resolve().parents[1] / "bench" / "tables" / "nas-bench-201.csv.gz"
EDGES = [(source, target) for target in (1, 2, 3) for source in range(target)]
SCORES = ("predictor", "predicted parameters", "number of parameters", "random GHN")


def cell_of(chosen: Mapping[str, str]) -> str:
    """The cell with these operations, by the names of edges ("0-1": from node 0 to node 1)."""
    nodes = [[f"{chosen[f'{source}-{target}']}~{source}" for source in range(target)] for target in (1, 2, 3)]
    return "+".join(f"|{'|'.join(node)}|" for node in nodes)


def choices() -> dict[str, list[str]]:
    """The operations of every edge."""
    return {f"{source}-{target}": list(OPERATIONS) for source, target in EDGES}


class Scores:
    """The four scores, with a GHN of its own: one for each process.

    Args:
        labels: how many rows of the table the predictor is fitted to.
        images: how many digits accuracy is measured on.
        seed: of the rows, and of the random GHN.
    """

    def __init__(self, labels: int = 100, images: int = 200, seed: int = 0) -> None:
        with gzip.open(TABLE, "rt", newline="") as file:
            self.truth = {row["architecture"]: float(row["accuracy"]) for row in csv.DictReader(file)}
        cells = np.random.default_rng(seed).permutation(sorted(self.truth))[:labels].tolist()
        self.labelled = set(cells)
        self.model = make_model().fit(cells, [self.truth[cell] for cell in cells])
        self.ghn = ghnfast.load("ghn2-mnist5k")
        torch.manual_seed(seed)
        self.random_ghn = ghnfast.GHN(**self.ghn.config).eval()
        self.data = load_data("mnist5k")
        test = self.data.test
        assert isinstance(test, ImagesInMemory)
        self.images = ImagesInMemory(test.pixels[:images], test.labels[:images], test.statistics)

    def __call__(self, cell: str) -> dict[str, float]:
        """The scores of a cell; more is better."""
        network = nas_bench_201(cell)
        return {
            "predictor": float(self.model.predict([cell])[0]),
            "predicted parameters": self.accuracy(self.ghn, network),
            "number of parameters": float(sum(parameter.numel() for parameter in network.parameters())),
            "random GHN": self.accuracy(self.random_ghn, network),
        }

    def accuracy(self, ghn: ghnfast.GHN, network: torch.nn.Module) -> float:
        ghn.predict(network, input_shape=(3, 32, 32))
        return accuracies(network, self.images, self.data.calibration)[0]


@functools.cache
def scores_of(labels: int, images: int) -> Scores:
    """The scores of this process. Workers stand side by side, so each computes on one thread."""
    torch.set_num_threads(1)
    return Scores(labels, images)


def trial(config: dict[str, Any]) -> dict[str, Any]:
    """What a worker does with one configuration."""
    cell = cell_of(config)
    return {"cell": cell, "scores": scores_of(config["labels"], config["images"])(cell)}


def report(scores: Scores, found: Sequence[tuple[str, dict[str, float]]]) -> dict[str, Any]:
    """How well each score ranks the cells whose accuracy the table has, and which the predictor has not seen."""
    known = {cell: each for cell, each in found if cell in scores.truth and cell not in scores.labelled}
    truth = [scores.truth[cell] for cell in known]
    taus = (
        {name: kendall_tau(truth, [each[name] for each in known.values()]) for name in SCORES} if len(known) > 1 else {}
    )
    print(f"{len(found)} trials; the table has {len(known)} of their cells beside those with labels")
    for name, tau in taus.items():
        print(f"  {name:22} Kendall's tau {tau:+.2f} with trained accuracy")
    best = max(found, key=lambda pair: pair[1]["predictor"])
    print(
        f"first by the predictor: {best[0]}, {best[1]['predictor']:.2f} predicted, {scores.truth.get(best[0])} trained"
    )
    return {"known": len(known), "taus": taus, "best": best[0]}
