"""What mkdocs.yml runs when the site is built: the help of all commands, and drawings that the package makes."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ghnfast.cli.program import make_parser

PLACE = "<!-- the help of all commands -->"
FIGURES = Path(__file__).parent / "figures"
DRAWN = ("resnet18", "densenet121")  # in docs/figures


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the help of all commands where a page asks for it."""
    return markdown.replace(PLACE, "\n\n".join(sections())) if PLACE in markdown else markdown


def sections() -> Iterator[str]:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"  # argparse breaks lines for the terminal
    try:
        for name, parser in commands().items():
            yield f"## ghnfast {name}\n\n```text\n{parser.format_help().rstrip()}\n```"
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    found: dict[str, argparse.ArgumentParser] = action.choices
    return found


def drawing(name: str) -> str:
    """The drawing of a torchvision model."""
    import torch
    from torchvision import models

    import ghnfast
    import ghnfast.vision  # first: it makes torchvision importable

    with torch.device("meta"):
        return ghnfast.trace(models.get_model(name)).to_svg(name)


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    for name in DRAWN:
        (FIGURES / f"{name}.svg").write_text(drawing(name))


if __name__ == "__main__":
    main()
