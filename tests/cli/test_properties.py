"""`ghnfast properties`: from measured networks to a table and bars."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from helpers.commands import fail, run, run_json

import ghnfast
from ghnfast import ConfigError
from ghnfast.deepnets import DeepNet, DeepNets1M
from ghnfast.properties import measuring, read_labels
from ghnfast.properties.pooling import parameters_of
from ghnfast.properties.protocol import OWN_ROWS, Measured, compare
from ghnfast.properties.table import COLUMNS, PROPERTIES, Training

HOW = {"data": "mnist5k", "images": "sha256:0", "classes": "10", "image_size": "32", "channels": "8", "epochs": "5",
       "seed": "0"}  # fmt: skip


def write(path: Path, count: int, **changes: str) -> Path:
    """Networks of which accuracy grows with depth, noisy accuracy with nothing; time is that of the parameters."""
    random, how = np.random.default_rng(0), {**HOW, **changes}
    channels, classes, large = int(how["channels"]), int(how["classes"]), how["image_size"] == "224"
    lines = [",".join(COLUMNS)]
    for split in ("val", "test"):
        for item in DeepNets1M(split, size=count, num_classes=classes, large_images=large):
            size = parameters_of(Training(channels).network(item).graph)
            values = item.graph.depth, random.random(), size, 0.5
            lines.append(",".join([split, str(item.index), *how.values(), *(f"{value}" for value in values)]))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("changes", [{}, {"channels": "24"}, {"classes": "123"}, {"image_size": "224"}], ids=str)
def test_graphs_are_those_of_the_networks_that_were_measured(changes: dict[str, str], tmp_path: Path) -> None:
    path = write(tmp_path / "measured.csv", 4, **changes)
    read = [network for network in read_labels(path).networks if isinstance(network, DeepNet)]
    classes, large = int({**HOW, **changes}["classes"]), "image_size" in changes
    for split, networks in (("val", read[:4]), ("test", read[4:])):
        for item, graph, network in zip(
            DeepNets1M(split, size=4, num_classes=classes, large_images=large),
            Measured(path).graphs[split],
            networks,
            strict=True,
        ):
            trained = Training(int({**HOW, **changes}["channels"])).network(item).build(classes, light=True).eval()
            wanted = ghnfast.trace(trained, input_shape=(3, 224, 224) if large else (3, 32, 32))
            for found in (graph, network.graph):
                assert parameters_of(found) == parameters_of(wanted)
                assert np.array_equal(found.primitives, wanted.primitives)
                assert found.parameter_shapes == wanted.parameter_shapes


def test_the_table_and_the_bars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    ghnfast.GHN(max_shape=(8, 8, 3, 3), hid=8, hypernet="mlp").save(tmp_path / "mlp.safetensors")
    path, svg = write(tmp_path / "measured.csv", 30), tmp_path / "bars.svg"
    options = ["--method", "gp", "--pool", "stats", "--permutations", 2, "--random", 2]
    ghns = ["--ghn", "GHN-2=ghn2-mnist5k", "--ghn", f"MLP={tmp_path / 'mlp.safetensors'}"]
    found = run_json(capsys, "properties", path, *options, *ghns, "--svg", svg)
    assert [*found] == ["GHN-2", "MLP", "random weights", "counts of primitives", "number of parameters"]
    assert [len(row["accuracy"]["each"]) for row in found.values()] == [2, 2, 4, 2, 2]
    assert found["GHN-2"]["accuracy"]["tau"] > 0.5
    assert abs(found["GHN-2"]["noisy_accuracy"]["tau"]) < 0.5
    assert found["number of parameters"]["seconds"]["tau"] > 0.95
    assert all(row["convergence"] == {"tau": 0, "deviation": 0, "each": [0] * len(row["accuracy"]["each"])}
               for row in found.values())  # fmt: skip
    ElementTree.fromstring(svg.read_text())
    drawn = svg.read_bytes()
    text, _ = run(capsys, "properties", path, *options, *ghns, "--svg", svg)
    assert svg.read_bytes() == drawn
    assert text.splitlines()[1].startswith("GHN-2 ")
    assert f"{found['GHN-2']['accuracy']['tau']:.3f}" in text.splitlines()[1]


def test_as_published(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.properties.predictor.GRID", {"C": [10], "gamma": ["auto"], "epsilon": [0.1]})
    path = write(tmp_path / "measured.csv", 20)
    found = run_json(capsys, "properties", path, "--random", 1)
    assert len(found["GHN-2"]["accuracy"]["each"]) == 5
    assert found["GHN-2"]["accuracy"]["deviation"] > 0


def test_it_measures_first(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def stand_in(item, data, training):
        seen.append((item.split, item.index, training.channels, training.epochs))
        return dict.fromkeys(PROPERTIES, float(item.index))

    monkeypatch.setattr(measuring, "measure", stand_in)
    path = tmp_path / "measured.csv"
    options = ["--measure", 4, "--epochs", 3, "--method", "gp", "--permutations", 1, "--random", 1]
    run(capsys, "properties", path, *options)
    assert seen == [(split, index, 8, 3) for split in ("val", "test") for index in range(4)]
    run(capsys, "properties", path, *options)
    assert len(seen) == 8


@pytest.mark.parametrize("missing", ["matplotlib", "GHN", "repeated", "channels", *OWN_ROWS])
def test_what_is_missing_is_said_before_anything_is_measured(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    choices: dict[str, list[object]] = {
        "matplotlib": ["--svg", tmp_path / "bars.svg"],
        "GHN": ["--ghn", "A=no-such-ghn"],
        "channels": ["--ghn", "A=no-such-ghn", "--channels", 4],
        "repeated": ["--ghn", "A=ghn2-mnist5k", "--ghn", "A=ghn2-fashion"],
    }
    options = choices.get(missing, ["--ghn", f"{missing}=ghn2-mnist5k"])
    if missing == "matplotlib":
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(measuring, "measure", lambda *arguments: pytest.fail("a network was measured"))
    said = {"channels": "channels is 4", "GHN": "no-such-ghn", "repeated": "another row 'A'"}
    said["matplotlib"] = "pip install matplotlib"
    message = fail(capsys, "properties", tmp_path / "measured.csv", "--measure", 2, *options)
    assert said.get(missing, f"another row '{missing}'") in message
    assert not (tmp_path / "measured.csv").exists()
    if missing in OWN_ROWS:
        with pytest.raises(ConfigError, match=missing):
            compare(Measured(write(tmp_path / "measured.csv", 2)), {missing: "ghn2-mnist5k"})


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "measured.csv", 3)
    assert "NAME=SOURCE" in fail(capsys, "properties", path, "--ghn", "ghn2-mnist5k")
    assert "suffix" in fail(capsys, "properties", path, "--svg", tmp_path / "bars.png")
    assert "cannot be read" in fail(capsys, "properties", tmp_path / "missing.csv")
    text = path.read_text()
    for changed, words in (
        (text.replace("test,", "train,"), "0 networks of the split test"),
        (text.replace("seconds", "s"), "no column 'seconds'"),
        (text.replace(",0.5\n", ",nan\n"), "convergence"),
        (text.replace(",8,5,0,", ",16,5,0,", 1), "line 3 of"),
        (text.replace("sha256:0", "sha256:1", 1), "of other training"),
        (text.replace(",32,8,", ",64,8,"), "image_size is 64"),
        (text.replace(",32,8,", ",32,4,"), "channels is 4"),
        (text.replace(",32,8,", f",32,{'9' * 18},"), "line 2 of"),
        (text.replace(",10,32,", f",{'9' * 18},32,"), "line 2 of"),
        (text.replace(",10,32,", ",0,32,"), "num_classes is 0"),
        (text.replace("classes,", "c,"), "no column 'classes'"),
        *((text.replace("test,2", f"test,{index}"), "line 7 of") for index in ("x", "-3", "2.7", "1e30", "9" * 19, "")),
    ):
        path.write_text(changed)
        assert words in fail(capsys, "properties", path)
