"""What figures of matplotlib have in common."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any


def add_legend(axes: Any, names: Iterable[str], handles: Iterable[Any], **options: Any) -> None:
    """A legend in which every name stands as it is: dollars are no mathematics, and an underscore hides none."""
    shown = [os.fsencode(name).decode(errors="replace") for name in names]  # those of files need not be text
    legend = axes.legend([*handles], [str(at) for at in range(len(shown))], **options)
    for text, name in zip(legend.get_texts(), shown, strict=True):
        text.set(text=name, parse_math=False, usetex=False)
