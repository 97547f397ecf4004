"""`ghnfast plot`: learning curves of training runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..figures import add_legend
from ..files import in_words, replacing
from ..optional import import_optional
from ..training.folder import LOG, read_log
from .shared import check_output

SUFFIXES = (".svg", ".png", ".pdf")
# What is drawn, one below the other: names in the log, and what stands beside the axis.
CURVES = {"loss": "loss", "top1": "top-1 accuracy (%)", "lr": "learning rate"}
SIZE = 7.0, 2.4  # inches, of one


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "plot",
        help="draw the learning curves of training runs",
        description="Draw loss, accuracy and learning rate of training runs against their steps, from their logs: "
        "means since the last line of a log, on training images and networks. Needs matplotlib.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or its log.jsonl")
    parser.add_argument(
        "--out", metavar="FILE", help="an .svg, .png or .pdf file; default: curves.svg in the first run"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    logs = {text: read_log(log_of(text)) for text in arguments.runs}
    default = str(log_of(arguments.runs[0]).parent / "curves.svg")
    out = check_output(default if arguments.out is None else arguments.out, SUFFIXES)
    assert out is not None  # there is a default
    draw(logs, out)
    return f"wrote {out}"


def log_of(text: str) -> Path:
    path = Path(text)
    return path / LOG if os.path.isdir(path) else path


def draw(logs: dict[str, list[dict[str, float]]], out: Path) -> None:
    matplotlib = import_optional("matplotlib", "ghnfast plot needs")
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    figure = Figure(figsize=(SIZE[0], SIZE[1] * len(CURVES)), layout="constrained")
    rows = figure.subplots(len(CURVES), 1, sharex=True)
    curves: list[Any] = []
    for axes, (name, label) in zip(rows, CURVES.items(), strict=True):
        for lines in logs.values():
            points = [(line["step"], line[name]) for line in lines if name in line]
            curves += axes.plot([x for x, _ in points], [y for _, y in points], linewidth=1)
        axes.set(ylabel=label)
        axes.grid(alpha=0.3)
    rows[-1].set(xlabel="step")
    add_legend(rows[0], logs, curves[: len(logs)])
    kind = out.suffix[1:].lower()
    try:
        with matplotlib.rc_context({"svg.hashsalt": "ghnfast"}), replacing(out) as file:  # the same file every time
            figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    except Exception as error:  # whatever the libraries of fonts and images raise
        raise UsageError(f"{out} could not be written: {in_words(error)}") from error
