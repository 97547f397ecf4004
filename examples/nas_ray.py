"""The search of nas_optuna.py over many machines: Ray Tune workers, each with a GHN of its own.

    python examples/nas_ray.py --trials 100 --workers 2                     # on this machine, or on a Ray cluster
    python examples/nas_ray.py --trials 100 --workers 2 --on processes      # without Ray, on this machine

What a worker needs goes to it once; a trial returns five numbers. Needs ray (pip install 'ray[tune]').
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from candidates import SCORES, choices, report, scores_of, trial

Found = list[tuple[str, dict[str, float]]]


def with_ray(fixed: dict[str, int], trials: int, workers: int, seed: int) -> Found:
    import ray
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        found = trial(config)
        tune.report({"cell": found["cell"], **found["scores"]})

    ray.init(num_cpus=workers, include_dashboard=False, ignore_reinit_error=True, log_to_driver=False)
    try:
        space = {edge: tune.choice(operations) for edge, operations in choices().items()}
        setup = tune.TuneConfig(num_samples=trials, max_concurrent_trials=workers, reuse_actors=True)
        np.random.seed(seed)  # which tune.choice draws from
        results = tune.Tuner(trainable, param_space={**space, **fixed}, tune_config=setup).fit()
    finally:
        ray.shutdown()
    rows = [result.metrics for result in results if result.metrics and "cell" in result.metrics]
    return [(row["cell"], {name: row[name] for name in SCORES}) for row in rows]


def with_processes(fixed: dict[str, int], trials: int, workers: int, seed: int) -> Found:
    """The same trials without Ray."""
    drawn = random.Random(seed)
    configs = [
        {**{edge: drawn.choice(operations) for edge, operations in choices().items()}, **fixed} for _ in range(trials)
    ]
    # Not forked: torch's threads would not be there in the children.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return [(found["cell"], found["scores"]) for found in pool.map(trial, configs)]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--labels", type=int, default=100, help="rows of the table that the predictor is fitted to")
    parser.add_argument("--images", type=int, default=200, help="digits that accuracy is measured on")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--on", choices=("ray", "processes"), default="ray")
    given = parser.parse_args(arguments)
    run = with_ray if given.on == "ray" else with_processes
    found = run({"labels": given.labels, "images": given.images}, given.trials, given.workers, given.seed)
    return report(scores_of(given.labels, given.images), found)


if __name__ == "__main__":
    main()
