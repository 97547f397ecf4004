"""What objects say of themselves in a terminal and in a notebook: short, true, and safe in a page."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
import torch
from torch import nn

import ghnfast
from ghnfast.training import load_data

pytestmark = pytest.mark.filterwarnings("ignore::ghnfast.DomainWarning")


class Kept(nn.Module):
    """One layer that is predicted, and three parameters that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.unused = nn.Linear(3, 10), nn.Linear(2, 2)
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) * self.scale


@pytest.mark.parametrize(
    ("ghn", "wanted"),
    [
        (ghnfast.load("ghn2-mnist5k"), "GHN(ghn2-mnist5k: gatedgnn, hid 32, trained on mnist5k, 3x32x32, 10 classes)"),
        (ghnfast.GHN(hid=8, num_classes=7, hypernet="mlp"), "GHN(GHN: mlp, hid 8, 7 classes)"),
        (
            ghnfast.GHN(hypernet="graphormer", hid=8, heads=2, layers=1, max_shape=(8, 8, 4, 4)),
            "GHN(GHN: graphormer, hid 8, 1000 classes)",
        ),
    ],
    ids=["the default", "untrained", "graphormer"],
)
def test_a_ghn(ghn: ghnfast.GHN, wanted: str) -> None:
    assert repr(ghn) == str(ghn) == wanted
    assert wanted in repr(nn.Sequential(ghn))


def test_a_report() -> None:
    _, report = ghnfast.predict(Kept(), input_shape=(3,), report=True)
    reasons = report.skipped
    assert repr(report) == (
        f"Report(71.42 % of 56 numbers predicted; kept 3 of 5 tensors: {reasons['unused.weight']} (2); "
        f"{reasons['scale']} (1))"
    )
    page = ElementTree.fromstring(report._repr_html_())
    rows = [["".join(cell.itertext()) for cell in row] for row in page.iter("tr")]
    assert rows[1:] == [
        ["2", reasons["unused.weight"], "unused.weight, unused.bias"],
        ["1", reasons["scale"], "scale"],
    ]
    assert "71.42 % of 56 numbers predicted (2 of 5 tensors)" in "".join(page.itertext())


def test_a_report_of_everything() -> None:
    _, report = ghnfast.predict(nn.Linear(3, 10), input_shape=(3,), report=True)
    assert repr(report) == "Report(100 % of 40 numbers predicted)"
    assert "table" not in report._repr_html_()


def test_a_report_is_not_rounded_up_and_is_text_in_a_page() -> None:
    report = ghnfast.Report(["a"], {f"<{index}>": "a & b" for index in range(5)}, 999_999, 1_000_000, "x < y")
    assert repr(report).startswith("Report(99.99 % of 1,000,000 numbers")
    text = "".join(ElementTree.fromstring(report._repr_html_()).itertext())
    assert "<0>, <1>, <2> and 2 more" in text
    assert "a & b" in text
    assert "x < y" in text


def test_images() -> None:
    assert repr(load_data("mnist5k")) == (
        "ImageData(mnist5k: 3,600 training, 400 validation, 1,000 test images, 3x32x32, 10 classes)"
    )
    assert "4,000 training, 1,000 test images" in repr(load_data("mnist5k", validation=False))
