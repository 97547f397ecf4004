"""The tables of accuracies with predicted parameters, from what `bench/accuracy.py` measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transfer import markdown

Json = dict[str, Any]

FASHION = {
    "fashion-ghn2": "GHN-2, the default",
    "fashion-random": "GHN-2, random weights",
    "fashion-sgd-tenth": "SGD, a tenth of an epoch (on the first 1,000 images)",
}
# The default on the networks, and on the images, that SGD was measured on.
BESIDE_SGD = "fashion-ghn2-first"
# Trained for as many steps, on the same networks and images, by bench/equal.toml; a file for each seed.
EQUAL = {"ghn2": "GHN-2", "ghn1": "GHN-1", "mlp": "MLP"}
DIGITS = {
    "ghn2": "GHN-2 (`ghn2-mnist5k`)",
    "ghn2-short": "GHN-2, 1,850 steps",
    "ghn1": "GHN-1, 1,850 steps",
    "mlp": "MLP, 1,850 steps",
    "sgd1": "SGD, 1 epoch",
    "sgd5": "SGD, 5 epochs",
    "sgd50": "SGD, 50 epochs",
}
# Measured while the machine did other work: their seconds say nothing.
UNTIMED = ("fashion-ghn2", "fashion-random", "fashion-sgd-tenth")
FASHION_IMAGES = 10_000
ACCURACY_SPLITS = ("test", "wide", "deep", "dense", "bnfree")


def measured(results: Path, methods: Mapping[str, str]) -> Json:
    """What `bench/accuracy.py` wrote for these methods."""
    files = {key: results / f"accuracy-{key}.json" for key in methods}
    return {key: json.loads(file.read_text()) for key, file in files.items() if file.exists()}


def accuracy_table(found_by_method: Json, methods: Mapping[str, str]) -> str:
    """Top-1 accuracy by method and split, in the layout of the paper's tables 3 and 4."""
    rows = []
    for key, found in found_by_method.items():
        cells = [accuracy_cell(found.get(split)) for split in ACCURACY_SPLITS]
        best = f"{found['test']['max']:.1f}" if "test" in found else "-"
        known = [f"{value:.1f}" for value in found.get("predefined", {}).get("networks", ())] or ["-", "-"]
        seconds = in_seconds(found["test"]["seconds"]) if "test" in found and key not in UNTIMED else "-"
        where = found["test"]["about"]["machine"] if "test" in found else "-"
        rows.append([methods[key], cells[0], best, *cells[1:], *known, seconds, where])
    head = ["", "test, mean", "test, best", *ACCURACY_SPLITS[1:], "ResNet-50", "ViT", "seconds a network", "on"]
    return markdown([head, *rows])


def families_table(found_by_method: Json, methods: Mapping[str, str]) -> str:
    """Means of the test members of each family, a column for each method."""
    rows = []
    for split, title in (("families", ""), ("unseen", " (not trained on)")):
        for family in next(iter(found_by_method.values())).get(split, {}).get("families", ()):
            cells = [found.get(split, {}).get("families", {}).get(family) for found in found_by_method.values()]
            rows.append([f"{family}{title}", *("-" if cell is None else f"{cell:.1f}" for cell in cells)])
    means = [accuracy_cell(found.get("families")) for found in found_by_method.values()]
    rows.append(["all that it was trained on", *means])
    return markdown([["", *(methods[key] for key in found_by_method)], *rows])


def fashion_text(results: Path) -> str:
    """What the default reaches, beside random weights."""
    found = measured(results, FASHION)
    about = found["fashion-ghn2"]["test"]["about"]
    predicting = {key: result for key, result in found.items() if "families" in result}
    return (
        f"{accuracy_table(found, FASHION)}\n\n{families_table(predicting, FASHION)}\n\nTop-1 accuracy in percent on "
        "test images of Fashion-MNIST, mean and standard error over the networks of a split (n of them), none of which "
        f"a GHN has seen; chance is 10; batch statistics of each batch, as in the paper. {images_text(found)} Commit "
        f"{about['commit'][:7]}.{training_text(results)}"
    )


def images_text(found: Json) -> str:
    """How many images a network of each split is measured on, the same for all or the next ones for each."""
    splits: dict[str, list[str]] = {}
    for split, result in found["fashion-ghn2"].items():
        options = result["about"]["options"].split()
        count = int(options[options.index("--images") + 1]) if "--images" in options else FASHION_IMAGES
        splits.setdefault(f"{count:,}" + (" in turn" if "--in-turn" in options else ""), []).append(split)
    parts = [f"{images} ({', '.join(names)})" for images, names in splits.items()]
    return (
        f"Of the {FASHION_IMAGES:,} images the default's networks see so many: {'; '.join(parts)}. In turn: each "
        "network the next ones."
    )


def training_text(results: Path) -> str:
    """How many networks are better predicted than trained for a tenth of an epoch, and what either reaches of each."""
    methods = BESIDE_SGD, "fashion-sgd-tenth"
    found = measured(results, dict.fromkeys(methods, ""))
    if len(found) < len(methods):
        return ""
    pairs = list(zip(*(found[method]["test"]["networks"] for method in methods), strict=True))
    better = sum(predicted > other for predicted, other in pairs)
    return (
        f" Of the first {len(pairs)} test networks, on the same 1,000 images, {better} are better as predicted than "
        "after 86 steps of SGD with 64 images, a tenth of an epoch, from random initialization: "
        + ", ".join(f"{predicted:.0f} against {other:.0f}" for predicted, other in pairs)
        + "."
    )


def equal_text(results: Path) -> str:
    """GHN-2 beside GHN-1 and the MLP, after as many steps on the same networks and images."""
    rows, about = [], {}
    for key, name in EQUAL.items():
        seeds = [json.loads(file.read_text()) for file in sorted(results.glob(f"accuracy-equal-{key}-*.json"))]
        if not seeds:
            continue
        cells = []
        for split in ("test", "families", "unseen"):
            means = [found[split]["mean"] for found in seeds]
            error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else 0.0
            cells += [f"{statistics.fmean(means):.1f}" + (f" +- {error:.1f}" if error else "")]
        rows.append([name, str(len(seeds)), *cells])
        about = seeds[0]
    random = json.loads((results / "accuracy-fashion-random.json").read_text())
    row = [f"{random[split]['mean']:.1f}" for split in ("test", "families", "unseen")]
    rows.append([f"random weights (n {random['test']['n']} of test)", "1", *row])
    head = ["", "seeds", *(f"{split} (n {about[split]['n']})" for split in ("test", "families", "unseen"))]
    return (
        f"{markdown([head, *rows])}\n\nTop-1 accuracy in percent on test images of Fashion-MNIST (the first 1,000): "
        "the mean over networks, its mean and standard error over seeds of training. Random weights as above."
    )


def digits_text(results: Path) -> str:
    """What the GHN of digits reaches, beside others and training."""
    found = measured(results, DIGITS)
    return (
        f"{accuracy_table(found, DIGITS)}\n\nTop-1 accuracy in percent on 1,000 test digits of `mnist5k`, as above. "
        "The seconds are the time to predict, or to train, one network of the test split, on the machine beside them; "
        "the machine of every other figure is in `bench/results/`. "
        f"{same_networks_text(found)}{again_text(found['ghn2'])}"
    )


def again_text(found: Json) -> str:
    """Which networks of its splits were measured again, after a change that concerns some of them."""
    counts = {
        split: sum(len(part["networks"]) for part in result["again"])
        for split, result in found.items()
        if "again" in result
    }
    if not counts:
        return ""
    parts = ", ".join(f"{count} of {found[split]['n']} ({split})" for split, count in counts.items())
    return f" Measured again after a correction of their graphs, on the machine in `bench/results/`: {parts}."


def in_seconds(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def accuracy_cell(result: Json | None) -> str:
    if result is None:
        return "-"
    error = f" +- {result['stderr']:.1f}" if result["n"] > 1 else ""
    return f"{result['mean']:.1f}{error} (n {result['n']})"


def same_networks_text(found: Json) -> str:
    """What the GHN of digits reaches on the first networks of the test split, where others were measured on fewer."""
    default = found["ghn2"]["test"]["networks"]
    counts = sorted({results["test"]["n"] for results in found.values() if "test" in results} - {len(default)})
    means = [f"{statistics.fmean(default[:count]):.1f} on the first {count}" for count in counts]
    return f"Of the test split's networks the default reaches {', '.join(means)}: compare rows on the same n with that."
