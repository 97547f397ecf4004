"""Every model of docs/coverage.md is predicted for real, and the table says what happened."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from model_coverage import TIMM, catalogue, line_of, row_of
from torch import nn

import ghnfast

DOCUMENT = Path(__file__).parents[2] / "docs" / "coverage.md"
LEAST_PERCENT = 99.8


@functools.cache
def documented() -> dict[tuple[str, str], str]:
    """(library, model) -> the line of the table."""
    lines = {}
    for line in DOCUMENT.read_text().splitlines():
        if heading := re.fullmatch(r"## (\w+)", line):
            library = heading[1]
        if row := re.match(r"\| (\w+) \| \d+ ", line):
            lines[library, row[1]] = line
    return lines


@pytest.mark.parametrize(
    ("library", "name", "build"), [pytest.param(*row, id="-".join(row[:2])) for row in catalogue()]
)
def test_model_is_predicted(
    library: str, name: str, build: Callable[[str], nn.Module], ghn_imagenet: ghnfast.GHN
) -> None:
    model = build(name)
    graph = ghnfast.trace(model)
    _, report = ghn_imagenet.predict(model, graph=graph, report=True)
    assert 100 * report.coverage >= LEAST_PERCENT, report.skipped
    assert set(report.predicted) | set(report.skipped) == {name for name, _ in model.named_parameters()}
    row = row_of(library, name, model, graph, report)
    assert documented()[library, name] == line_of(row), "run `make coverage`"


def test_document_has_no_other_rows() -> None:
    assert set(documented()) == {(library, name) for library, name, _ in catalogue()}


def test_forty_timm_models_of_twenty_five_families() -> None:
    families = {type(build(name)).__name__ for library, name, build in catalogue() if library == "timm"}
    assert len(TIMM) >= 40
    assert len(families) >= 25
