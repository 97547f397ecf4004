"""What took long is printed where its file cannot be written in the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.full_disk import files_of_at_most

from ghnfast.cli import main

ROW = {"n": 2, "mean": 12.5, "stderr": 2.5, "max": 15.0, "best": 1, "networks": [10.0, 15.0], "mean_top5": 50.0,
       "seconds": 0.5}  # fmt: skip


def evaluated(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("ghnfast.cli.evaluate.evaluate", lambda *_, **__: {"test": ROW})
    return ["evaluate", "--data", "mnist5k", "--json", str(path)]


def compared(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("ghnfast.properties.protocol.Measured", lambda *_: None)
    monkeypatch.setattr("ghnfast.properties.protocol.compare", lambda *_, **__: {"test": ROW})
    monkeypatch.setattr("ghnfast.properties.drawing.draw_bars", lambda *_: "<svg>" + " " * 1000)
    return ["properties", "measured.csv", "--svg", str(path), "--json"]


COMMANDS = {"evaluate": (evaluated, "results.json"), "properties": (compared, "bars.svg")}


@pytest.mark.parametrize("command", COMMANDS)
def test_results_are_printed_where_their_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    make, name = COMMANDS[command]
    path = tmp_path / name
    path.write_text("old")
    arguments: Any = make(path, monkeypatch)
    with files_of_at_most(50):
        assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == f"ghnfast: error: {path} could not be written: File too large"
    assert json.loads(out[out.index("{") :])["test"] == ROW
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == [name]
