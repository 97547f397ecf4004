"""The tables of predicted properties, from what `bench/properties.py` and `bench/measured.py` found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from measured import TARGET, WAYS
from transfer import markdown

from ghnfast.properties.drawing import TITLES

Json = dict[str, Any]


def properties_text(results: Path) -> str:
    """Kendall's tau on the tables of bench/tables, a row for each embedding."""
    found: Json = json.loads((results / "properties.json").read_text())
    columns = [(name, count) for name, each in found.items() for count in each["accuracy"]["one-hot"]]
    titles = dict.fromkeys(title for each in found.values() for title in each["accuracy"])
    rows = []
    for title in titles:
        cells = [found[name]["accuracy"].get(title, {}).get(count) for name, count in columns]
        rows.append([title, *("-" if cell is None else f"{cell['tau']:.3f}{plus_minus(cell)}" for cell in cells)])
    head = ["", *(f"{name}, {count} labels" for name, count in columns)]
    commits = dict.fromkeys(each["about"]["commit"][:7] for each in found.values())
    choices = sorted({cell["choices"] for each in found.values() for row in each["accuracy"].values()
                      for cell in row.values()})  # fmt: skip
    return (
        f"{markdown([head, *rows])}\n\nKendall's tau with the trained accuracy of 1,000 other networks, mean and "
        f"standard error over {' or '.join(map(str, choices))} choices of labels; a Gaussian process but where it says "
        '"as published" (the support vector regression of the paper); of random GHNs the mean of several. Commit '
        f"{' and '.join(commits)}."
    )


def plus_minus(cell: Json) -> str:
    return "" if cell["stderr"] is None else f" +- {cell['stderr']:.3f}"


def measured_text(results: Path) -> str:
    """Kendall's tau on networks that were trained here, a row for each embedding and way of prediction."""
    found: Json = json.loads((results / TARGET.name).read_text())
    rows = [
        [f"{name}, {way}", *(f"{row[key]['tau']:.2f} +- {row[key]['deviation']:.2f}" for key in TITLES)]
        for way in WAYS
        for name, row in found[way].items()
    ]
    about, networks = found["about"], found["networks"]
    return (
        f"{markdown([['', *TITLES.values()], *rows])}\n\nKendall's tau on {networks['test']} networks of the split "
        f"test, learned from four fifths of {networks['val']} of the split val; mean and standard deviation over "
        f"{about['permutations']} choices of these, and over {about['random_ghns']} GHNs where weights are random. "
        f"{about['machine']}, scikit-learn {about['scikit-learn']}, commit {about['commit'][:7]}."
    )


def predicted_text(results: Path) -> str:
    """Kendall's tau of accuracy with predicted parameters, alone and beside what was learned from labels."""
    found: Json = json.loads((results / "predicted.json").read_text())
    about = found["about"]
    rows = [
        [f"{name}, {part}", *(cell_of(found[key][part][name]) for key in TITLES)]
        for part in ("without labels", "with labels")
        for name in found["accuracy"][part]
    ]
    networks = about["networks"]
    return (
        f"{markdown([['', *TITLES.values()], *rows])}\n\nKendall's tau: without labels on all "
        f"{sum(networks.values())} networks, and on {networks['test']} of the split test from labels of four fifths of "
        f"{networks['val']} of the split val; mean and standard deviation over {about['permutations']} choices of "
        f"these, and over GHNs of random weights. `{about['ghn']}` predicts them with 16 channels, and they recognize "
        f"{about['accuracy']:.0f} % of {about['images']} digits held out. {about['machine']}, commit "
        f"{about['commit'][:7]}."
    )


def cell_of(row: Json) -> str:
    return f"{row['tau']:.2f}" + ("" if row["deviation"] is None else f" +- {row['deviation']:.2f}")
