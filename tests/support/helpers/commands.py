"""Runs commands in this process, and looks at what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ghnfast.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """What a command that succeeds prints: stdout and stderr."""
    assert main([str(argument) for argument in arguments]) == 0
    captured = capsys.readouterr()
    return captured.out, captured.err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    out, _ = run(capsys, *arguments, "--json")
    assert out.count("\n") == 1
    return json.loads(out)


def fail(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that fails: one line."""
    assert main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("ghnfast: error: ")
    return captured.err


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "__pycache__")
