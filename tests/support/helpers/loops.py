"""Loops in PTX, and the barriers of a whole block in them."""

from __future__ import annotations

import re
from typing import NamedTuple

BARRIER = re.compile(r"\b(bar\.sync|bar\.red\S*|barrier\.(cta\.)?(sync|red)\S*)\s")


class Loop(NamedTuple):
    """barriers: of a block. products: multiplications with addition. instructions: with those of loops in it."""

    instructions: int
    barriers: int
    products: int


def loops_of(ptx: str) -> list[Loop]:
    """The loops of a kernel, the largest first: from a label to the last branch back to it."""
    places: dict[str, int] = {}
    ends: dict[str, int] = {}
    code: list[str] = []
    for line in map(str.strip, ptx.splitlines()):
        if start := re.match(r"(\$\w+):", line):
            places[start[1]] = len(code)
        elif re.match(r"(@!?%\w+\s+)?[a-z]\S*\s.*;", line) or line == "ret;":
            code.append(line)
            branch = re.search(r"\bbra(?:\.uni)?\s+(\$\w+);", line)
            if branch and branch[1] in places:
                ends[branch[1]] = len(code)
    found = []
    for label, end in ends.items():
        body = code[places[label] : end]
        barriers, products = (sum(bool(test.search(line)) for line in body) for test in (BARRIER, PRODUCT))
        found.append(Loop(len(body), barriers, products))
    return sorted(found, reverse=True)


PRODUCT = re.compile(r"\bfma\.rn(\.ftz)?\.f32x?2?\b")


def barriers_of(ptx: str) -> int:
    return sum(bool(BARRIER.search(line)) for line in ptx.splitlines())
