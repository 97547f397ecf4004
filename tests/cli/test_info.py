"""`ghnfast info`, `ghns`, `completion` and `plot`."""

from __future__ import annotations

import json
import math
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.commands import fail, run, run_json

import ghnfast
from ghnfast.checkpoints import DEFAULT, INCLUDED, PUBLISHED, available, local_file
from ghnfast.cli import main
from ghnfast.cli.plot import CURVES
from ghnfast.cli.program import COMMANDS
from ghnfast.ops.backend import BACKENDS


def test_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GHNFAST_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("GHNFAST_BACKEND", "torch")
    (tmp_path / "ghn1_cifar10.pt").touch()
    found = run_json(capsys, "info")
    assert found["ghnfast"] == ghnfast.__version__
    assert found["packages"]["torch"] == torch.__version__
    assert found["cpu"]["instruction_sets"] == ghnfast._C.instruction_sets()
    assert found["cache"] == {"folder": str(tmp_path), "ghns": [*INCLUDED, "ghn1-cifar10"]}
    assert found["variables"]["GHNFAST_BACKEND"] == "torch"
    assert set(found["backends"]) == set(BACKENDS)
    text, _ = run(capsys, "info")
    for part in (ghnfast.__version__, torch.__version__, str(tmp_path), found["cpu"]["name"], "GHNFAST_BACKEND=torch"):
        assert part in text


def test_ghns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GHNFAST_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert ghnfast.available is available
    assert list(available()) == [*INCLUDED, *PUBLISHED]
    assert all(available().values())
    rows = run_json(capsys, "ghns")
    assert [row["name"] for row in rows] == list(available())
    assert [row["name"] for row in rows if row["file"] is not None] == [*INCLUDED]
    snapshot = tmp_path / "hub" / "models--SamsungSAILMontreal--ghn3" / "snapshots" / ("b" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "ghn3tm8.pt").touch()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("b" * 40)
    assert local_file("ghn3-t") == snapshot / "ghn3tm8.pt"
    text, _ = run(capsys, "ghns")
    lines = text.splitlines()
    assert len(lines) == len(available())
    assert lines[0].startswith(f"{DEFAULT}  ")
    assert sum("is downloaded on first use" in line for line in lines) == len(PUBLISHED) - 1


def test_names_that_are_listed_are_those_that_can_be_loaded() -> None:
    assert repr(ghnfast.load(next(iter(available())))).startswith(f"GHN({DEFAULT}: ")
    with pytest.raises(ghnfast.CheckpointError, match=", ".join(available())):
        ghnfast.load("no such name")


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(capsys: pytest.CaptureFixture[str], shell: str, tmp_path: Path) -> None:
    script, _ = run(capsys, "completion", shell)
    for command in COMMANDS:
        assert command.__name__.rpartition(".")[2] in script
    assert "num-classes" in script
    if shell == "bash":
        (tmp_path / "completion").write_text(script)
        ask = f"source {tmp_path}/completion; COMP_WORDS=(ghnfast ev); COMP_CWORD=1; _shtab_ghnfast"
        ask += "; echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["evaluate"]


def write_log(folder: Path, steps: int, extra: str = "") -> Path:
    folder.mkdir()
    lines = [{"step": step, "loss": 2 / step, "top1": 10.0 * step, "lr": 0.1} for step in range(1, steps + 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + extra)
    return folder


def test_plot(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one, other = write_log(tmp_path / "one", 5), write_log(tmp_path / "other", 7, '{"step": 8, "lo')
    out, _ = run(capsys, "plot", one)
    assert out == f"wrote {one / 'curves.svg'}\n"
    drawn = (one / "curves.svg").read_bytes()
    ElementTree.fromstring(drawn)
    run(capsys, "plot", one)
    assert (one / "curves.svg").read_bytes() == drawn
    run(capsys, "plot", one, other / "log.jsonl", "--out", tmp_path / "both.svg")
    lines = [
        group
        for group in ElementTree.fromstring((tmp_path / "both.svg").read_text()).iter()
        if group.get("id", "").startswith("line2d") and any(len(p.get("d", "")) > 40 for p in group)
    ]
    assert len(lines) >= 2 * len(CURVES) - 2  # two of them are straight
    run(capsys, "plot", one, "--out", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


NAMES = ["x$^$", "_run", "a$b$", "__", "1_000 $", "\\frac", "%", "<b>&", "gr\xf6\xdfe", "not\udcfftext"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
@pytest.mark.filterwarnings("error")
def test_names_of_runs_stand_as_they_are(
    name: str, suffix: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    monkeypatch.chdir(tmp_path)
    write_log(Path(name), 3)
    write_log(Path("other"), 3)
    run(capsys, "plot", name, "other", "--out", f"curves{suffix}")
    if suffix == ".svg":
        texts = ["".join(each.itertext()) for each in ElementTree.parse("curves.svg").iter() if each.tag[-4:] == "text"]
        assert {name.replace("\udcff", "\ufffd"), "other"} <= {*texts}


def test_a_figure_that_fails(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_to_draw(*arguments: object, **options: object) -> None:
        raise ValueError("a font is broken")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fail_to_draw)
    assert "a font is broken" in fail(capsys, "plot", write_log(tmp_path / "run", 3))


NO_NUMBERS = ['"x"', "[1]", "{}", "null", "true", "NaN", "-Infinity", "1e400", "9" * 400, f"-{'9' * 5000}"]


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("name", ["step", "loss", "top1", "lr"])
@pytest.mark.filterwarnings("error")
def test_damaged_values_of_a_log_are_left_out(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = dict[str, Any]()
    monkeypatch.setattr("ghnfast.cli.plot.draw", lambda logs, out: drawn.update(logs))
    folder = write_log(tmp_path / "run", 2, f'{{"step": 3, "loss": 1, "{name}": {value}}}\n')
    assert main(["plot", str(folder)]) == 0
    for entries in drawn.values():
        assert all(math.isfinite(float(number)) for entry in entries for number in entry.values())
        assert [entry["step"] for entry in entries[:2]] == [1, 2]


def test_plots_that_cannot_be_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "the folder of a run is accepted" in fail(capsys, "plot", tmp_path)
    assert "has no entries" in fail(capsys, "plot", write_log(tmp_path / "empty", 0))
    run_folder = write_log(tmp_path / "run", 2)
    assert "accepted: .svg, .png, .pdf" in fail(capsys, "plot", run_folder, "--out", tmp_path / "curves.txt")
    assert "cannot write '': it is no file's name" in fail(capsys, "plot", run_folder, "--out", "")
