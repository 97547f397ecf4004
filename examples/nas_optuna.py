"""Architecture search with Optuna on NAS-Bench-201, guided by a property predictor on a GHN's states.

    python examples/nas_optuna.py --trials 100 --labels 100

Each trial also records the other scores, and at the end the table of the benchmark says how well each ranks. What to
expect: accuracy with predicted parameters ranks trained accuracy weakly (the published Kendall's tau is .27 on CIFAR-10
and .03 on ImageNet); the states with a hundred labels do far better. Needs optuna (pip install optuna).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import optuna
from candidates import Scores, cell_of, choices, report


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--labels", type=int, default=100, help="rows of the table that the predictor is fitted to")
    parser.add_argument("--images", type=int, default=200, help="digits that accuracy is measured on")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    scores = Scores(given.labels, given.images, given.seed)

    def objective(trial: optuna.Trial) -> float:
        chosen = {edge: trial.suggest_categorical(edge, operations) for edge, operations in choices().items()}
        found = scores(cell_of(chosen))
        trial.set_user_attr("cell", cell_of(chosen))
        trial.set_user_attr("scores", found)
        return found["predictor"]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=given.seed))
    study.optimize(objective, n_trials=given.trials)
    return report(scores, [(trial.user_attrs["cell"], trial.user_attrs["scores"]) for trial in study.trials])


if __name__ == "__main__":
    main()
