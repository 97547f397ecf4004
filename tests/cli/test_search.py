"""`ghnfast search`: from a file of labels to a list of networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.commands import fail, run, run_json

from ghnfast.deepnets import DeepNet, DeepNets1M, Genotype
from ghnfast.properties import read_labels
from ghnfast.properties.pooling import parameters_of
from ghnfast.properties.table import COLUMNS, Training


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


@pytest.mark.parametrize(("channels", "classes", "image_size"), [(8, 10, 32), (24, 3, 224)])
def test_labels_of_measured_networks(
    channels: int, classes: int, image_size: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Networks are predicted for as those of the labels were measured: a label that is their own is found again."""
    path, training = tmp_path / "measured.csv", Training(channels)
    how = f"folder,sha256:0,{classes},{image_size},{channels},10,0"
    nets = DeepNets1M("val", size=40, large_images=image_size == 224, num_classes=classes)
    sizes = [np.log(parameters_of(training.network(item).graph)) for item in nets]
    rows = [f"val,{at},{how},0,0,{size},1" for at, size in enumerate(sizes)]
    path.write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    command = ["search", "--labels", path, "--column", "seconds", "--split", "val", "--limit", 40, "--top", 40]
    found = run_json(capsys, *command)["networks"]
    for row in found:
        assert row["predicted"] == pytest.approx(sizes[row["index"]], abs=0.2)
    assert f"measured with {channels}" in fail(capsys, *command[:5], "--evolve", 1)


def test_what_is_refused(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no column 'accuracy'" in fail(capsys, "search", "--labels", labels)
    assert "cannot be read" in fail(capsys, "search", "--labels", tmp_path / "missing.csv")
    assert "--split" in fail(capsys, "search", "--labels", labels, "--split", "predefined")
    one = tmp_path / "one.csv"
    one.write_text("architecture,accuracy\n01220211,90\n")
    assert "1 sample" in fail(capsys, "search", "--labels", one)


def test_networks_of_a_seed_are_read_back(labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["search", "--labels", labels, "--column", "depth", "--limit", 40, "--top", 3]
    found = run_json(capsys, *options, "--seed", 5)["networks"]
    text, _ = run(capsys, *options, "--seed", 5)
    assert "networks of seed 5" in text.splitlines()[0]
    path = tmp_path / "found.csv"
    rows = [f"{row['split']},{row['index']},{row['seed']},{at}" for at, row in enumerate(found)]
    path.write_text("\n".join(["split,index,seed,accuracy", *rows]))
    read = read_labels(path)
    assert read.column == "accuracy"
    assert [network.genotype for network in read.networks if isinstance(network, DeepNet)] == [
        Genotype.of(row["genotype"]) for row in found
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--evolve", 2, "--split", "val"], "--evolve makes networks, and --split"),
        (["--evolve", 2, "--limit", 5], "--evolve makes networks, and --limit"),
        (["--split", "val", "--limit", 501], "--limit is 501; the split val has 500 networks"),
    ],
)
def test_options_that_do_not_go_together(
    labels: Path, capsys: pytest.CaptureFixture[str], options: list[str | int], words: str
) -> None:
    assert words in fail(capsys, "search", "--labels", labels, "--column", "depth", *options)
