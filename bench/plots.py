"""The plots of the site and the README, each for light and for dark grounds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ghnfast.properties.drawing import draw_panels

DOCS = Path(__file__).resolve().parent.parent / "docs"


def pyplot() -> Any:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    return plt


def files_of(plot: str) -> dict[str, Path]:
    """The files of a plot, by the style of matplotlib that each has."""
    return {"default": DOCS / f"{plot}.svg", "dark_background": DOCS / f"{plot}-dark.svg"}


def save(plot: str, draw: Callable[[Any], Any]) -> None:
    """Draws twice, on no ground, so that the page's is seen."""
    plt = pyplot()
    for style, file in files_of(plot).items():
        # The salt is what makes the same file every time; a style may set it back.
        with plt.style.context(style), plt.rc_context({"svg.hashsalt": "ghnfast"}):
            figure = draw(plt)
            figure.savefig(file, metadata={"Date": None}, transparent=True)
            plt.close(figure)


def learning(plt: Any, logs: Mapping[str, Path]) -> Any:
    """Accuracy on training networks and images against steps, from the logs of the runs."""
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, file in logs.items():
        if file.exists():
            lines = [line for line in map(json.loads, file.read_text().splitlines()) if "top1" in line]
            axes.plot([line["step"] for line in lines], [line["top1"] for line in lines], label=name, linewidth=1)
    axes.set(xlabel="step", ylabel="top-1 accuracy (%)", ylim=(0, 100))
    axes.set_title("Training networks on training digits, means since the last line of the log", fontsize=10)
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def speed(plt: Any, models: Sequence[dict[str, Any]]) -> Any:
    """Time against parameters, of every model that the published implementation can predict."""
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, label, marker in (
        ("reference", "published code", "s"),
        ("main", "ghnfast", "o"),
        ("fill", "fill_ alone", "_"),
    ):
        points = [(entry["parameters"] / 1e6, entry["median_ms"][name]) for entry in models]
        axes.scatter(*zip(*points, strict=True), label=label, marker=marker, s=18)
    axes.set(xscale="log", yscale="log", xlabel="parameters (million)", ylabel="milliseconds")
    axes.set_title("From module to parameters: torchvision models, two CPU cores", fontsize=10)
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def bars(plt: Any, rows: Mapping[str, Any]) -> Any:
    """Kendall's tau of each embedding, a panel for each property."""
    figure = plt.figure(figsize=(7.6, 3.6), layout="constrained")
    draw_panels(figure, rows)
    return figure


def both_grounds(title: str, plot: str) -> str:
    """A plot in a page of the site, which shows one of the two."""
    files = files_of(plot)
    return f"![{title}]({files['default'].name}#only-light)\n![{title}]({files['dark_background'].name}#only-dark)"
