"""What figures of matplotlib have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

# What XML has no way to write: control characters, and the halves of characters that names of files have.
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def drawable(name: str) -> str:
    """A text that every figure can hold: what is no character is shown as such."""
    return NOT_IN_XML.sub("\ufffd", name)


def add_legend(axes: Any, names: Iterable[str], handles: Iterable[Any], **options: Any) -> None:
    """A legend in which every name stands as it is: dollars are no mathematics, and an underscore hides none."""
    shown = list(map(drawable, names))
    legend = axes.legend([*handles], [str(at) for at in range(len(shown))], **options)
    for text, name in zip(legend.get_texts(), shown, strict=True):
        text.set(text=name, parse_math=False, usetex=False)
