"""`ghnfast verify`: compare what a published GHN predicts with what its authors have published of it."""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from torch import nn

from ..checkpoints import PUBLISHED, Published
from ..checkpoints.published import entry_of
from ..errors import UsageError
from ..nn import GHN
from ..predict import load
from ..progress import progress
from .models import find_model
from .shared import Json, Mismatch

TOLERANCE = 0.01
INPUT_SHAPE = 3, 224, 224


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="compare the predictions of a published GHN with published figures",
        description="Predict torchvision models with a published GHN, and compare the l2 norm of all parameters with "
        "the published one: so a file is known to be right, and to be read rightly, without images. What is not "
        "predicted has the random values of a fixed seed. The exit code is 1 where a norm is another one.",
    )
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(verifiable())}")
    parser.add_argument("--file", metavar="PATH", help="a file of it, rather than the downloaded one")
    parser.add_argument("--json", action="store_true", help="print the norms as one JSON object")
    parser.set_defaults(run=run)


def verifiable() -> list[str]:
    return [name for name, entry in PUBLISHED.items() if entry.norms]


def run(arguments: argparse.Namespace) -> str:
    entry = published(arguments.name)
    ghn = load(entry.name if arguments.file is None else arguments.file)
    rows = []
    with progress("comparing", len(entry.norms), "models") as told:
        for model, norm in entry.norms.items():
            rows.append(compare(ghn, model, norm))
            told(1)
    right = all(row["right"] for row in rows)
    if arguments.json:
        text = json.dumps(
            {"name": entry.name, "source": ghn.name, "tolerance": TOLERANCE, "right": right, "models": rows}
        )
    else:
        text = format_rows(entry.name, rows, right)
    return text if right else Mismatch(text)


def published(name: str) -> Published:
    entry = entry_of(name)
    if entry is not None and entry.norms:
        return entry
    what = "is no published GHN" if entry is None else "has no published norms"
    raise UsageError(f"'{name}' {what}; {', '.join(verifiable())} are accepted")


def compare(ghn: GHN, name: str, published_norm: float) -> Json:
    """The norm of a model with predicted parameters, beside the published one."""
    norm = norm_of(ghn.predict(find_model(name, None)(), input_shape=INPUT_SHAPE))
    right = abs(norm - published_norm) <= TOLERANCE  # a norm that is no number is not
    return {"model": name, "published": published_norm, "norm": norm, "right": right}


def norm_of(model: nn.Module) -> float:
    """The l2 norm over the norms of all parameters."""
    return math.sqrt(sum(float(parameter.detach().double().square().sum()) for parameter in model.parameters()))


def format_rows(name: str, rows: list[Json], right: bool) -> str:
    width = max(len(row["model"]) for row in rows)
    lines = [f"{'model':{width}} {'published':>11} {'here':>11} {'difference':>11}"]
    for row in rows:
        difference = row["norm"] - row["published"]
        mark = "" if row["right"] else "  wrong"
        lines.append(f"{row['model']:{width}} {row['published']:11.4f} {row['norm']:11.4f} {difference:+11.4f}{mark}")
    found = "as published" if right else "not what was published"
    return "\n".join([*lines, f"{name}: {found} (to {TOLERANCE})"])
