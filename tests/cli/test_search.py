"""`ghnfast search`: from a file of labels to a list of networks."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.commands import fail, run, run_json

from ghnfast.deepnets import DeepNets1M, Genotype


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """That prefer deep networks."""
    path = tmp_path / "labels.csv"
    rows = [f"val,{item.index},{item.graph.depth},{len(item.graph)}" for item in DeepNets1M("val", size=30)]
    path.write_text("\n".join(["split,index,depth,nodes", *rows]) + "\n")
    return path


def test_the_first_ones_of_a_split(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["search", "--labels", labels, "--column", "depth", "--limit", 60, "--top", 4]
    found = run_json(capsys, *options)
    assert (found["labels"], found["column"]) == (30, "depth")
    dataset = DeepNets1M("search")
    depths = [item.graph.depth for item in (dataset[index] for index in range(60))]
    for row in found["networks"]:
        assert row["split"] == "search"
        assert Genotype.of(row["genotype"]) == dataset[row["index"]].genotype
        assert depths[row["index"]] > sorted(depths)[40]
    assert len(found["networks"]) == 4
    text, _ = run(capsys, *options)
    assert f"search {found['networks'][0]['index']}" in text.splitlines()[2]
    least = run_json(capsys, *options, "--least")["networks"]
    assert max(row["predicted"] for row in least) < min(row["predicted"] for row in found["networks"])


def test_evolution(labels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["search", "--labels", labels, "--column", "nodes", "--top", 3, "--pool", "mean", "--evolve", 1]
    found = run_json(capsys, *options)["networks"]
    assert len({Genotype.of(row["genotype"]) for row in found}) == 3
    assert "genotype" in run(capsys, *options)[0]


def test_what_is_refused(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no column 'accuracy'" in fail(capsys, "search", "--labels", labels)
    assert "cannot be read" in fail(capsys, "search", "--labels", tmp_path / "missing.csv")
    assert "--split" in fail(capsys, "search", "--labels", labels, "--split", "predefined")
    one = tmp_path / "one.csv"
    one.write_text("architecture,accuracy\n01220211,90\n")
    assert "1 sample" in fail(capsys, "search", "--labels", one)
