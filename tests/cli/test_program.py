"""The program: usage errors, help, exit codes, and readers that stop reading."""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.commands import fail

import ghnfast
from ghnfast import starting
from ghnfast.cli import generate, main
from ghnfast.cli.program import COMMANDS, in_options


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "COMMAND"),
        (["tarin"], "'tarin'"),
        (["predict"], "MODEL"),
        (["predict", "resnet18", "--dtype", "int8"], "'int8'"),
        (["predict", "resnet18", "--input-shape", "3,x"], "'3,x' is no shape; positive sizes such as 3,32,32"),
        (["graph", "resnet18", "--input-shape", "3,0,32"], "'3,0,32' is no shape"),
        (["graph", "resnet18", "--num-classes", "0"], "'0' is no positive number"),
        (["graph", "resnet18", "--ghn", "ghn2-mnist5k"], "--ghn"),
    ],
)
def test_usage_errors(capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str) -> None:
    message = fail(capsys, *arguments)
    assert reason in message
    assert "--help')" in message


LINEAR = "import torch\n\n\ndef make():\n    return torch.nn.Linear(7, 3)\n"


@pytest.mark.parametrize("command", ["predict", "graph", "bench"])
def test_hints_are_in_words_of_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "linear.py").write_text(LINEAR)
    model = f"{tmp_path}/linear.py:make"
    assert "Pass --input-shape CHANNELS,HEIGHT,WIDTH or, in Python, example_inputs=" in fail(capsys, command, model)
    assert "Pass the --input-shape that it takes" in fail(capsys, command, model, "--input-shape", "3,8,8")
    assert "--input-shape is (99999999, 99999999, " in fail(
        capsys, command, model, "--input-sh=99999999,99999999,99999999"
    )


@pytest.mark.parametrize(
    ("text", "words", "wanted"),
    [
        ("batch_size is 1", ["--batch-size", "1"], "--batch-size is 1"),
        ("batch_size is 1", ["--batch", "1"], "--batch-size is 1"),
        ("batch_size is 1", [], "batch_size is 1"),  # of a file, or of a default
        ("batch_size is 1", ["--", "x"], "batch_size is 1"),
        ("my_batch_size is 1", ["--batch-size=1"], ""),
        ("'batch_size' is, and x.batch_size is, what batch_size takes", ["--batch-size=1"], ""),
        ("pass the batch_size", [], "pass the --batch-size"),
        ("Pass batch_size=(a, b) or less", [], "Pass --batch-size A,B or less"),
        ("--batch-size is 1", ["--batch-size=1"], ""),
    ],
)
def test_names_of_options(text: str, words: list[str], wanted: str) -> None:
    arguments = argparse.Namespace(batch_size=1, limit=2)
    assert in_options(text, arguments, words) == (wanted or text)


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["graph", "--help"], ["--version"]])
def test_help_and_version(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert ghnfast.__version__ in out if arguments == ["--version"] else "usage: ghnfast" in out


def test_python_m_ghnfast(factories: str) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "ghnfast", *arguments], capture_output=True, text=True)

    done = call("predict", f"{factories}:make", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["predicted_tensors"] == 8
    failed = call("predict", "resnet81")
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith("ghnfast: error: 'resnet81'")


# Arguments that each command must have.
LEAST = {
    **{name: ["x"] for name in ("predict", "graph", "bench", "finetune", "plot", "verify", "properties")},
    "generate": ["val"], "train": ["--out", "x"], "search": ["--labels", "x"], "completion": ["bash"],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.__name__.rpartition(".")[2])
def test_ctrl_c_is_one_line(command: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupted)
    name = command.__name__.rpartition(".")[2]
    assert main([name, *LEAST.get(name, [])]) == 130
    assert capsys.readouterr() == ("", "ghnfast: interrupted\n")


def test_ctrl_c_says_what_a_repeated_call_goes_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ghnfast.deepnets.generate.put_together", interrupted)
    monkeypatch.setattr("ghnfast.properties.measuring.measure", interrupted)
    (tmp_path / "empty.csv").touch()
    goes_on = "the same command goes on from"
    for arguments, kept in (
        (["generate", "train", "--count", "3", "--out", f"{tmp_path}"], f"{goes_on} {tmp_path}"),
        (["properties", f"{tmp_path}/empty.csv", "--measure", "2"], f"{goes_on} {tmp_path}/empty.csv"),
        (["properties", f"{tmp_path}/new.csv", "--measure", "2"], "nothing is kept yet"),
    ):
        assert main(arguments) == 130
        assert capsys.readouterr() == ("", f"ghnfast: interrupted; {kept}\n")


def test_a_call_that_is_interrupted_after_files_are_written_need_not_be_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For it would find them there already: nothing is left to do but to print."""
    made: list[str] = []
    for name in ("gather_statistics", "write_splits"):
        own = getattr(generate, name)

        def noted(*arguments: Any, own: Any = own) -> Any:
            made.append(own.__name__)
            return own(*arguments)

        monkeypatch.setattr(generate, name, noted)
    command = ["generate", "train", "--count", "2", "--out", f"{tmp_path}"]
    assert main(command) == 0
    assert made == ["gather_statistics", "write_splits"]
    assert main(command) == 2  # before any work
    assert made == ["gather_statistics", "write_splits"]
    assert "deepnets1m_train.hdf5 is there already; another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (starting.end, signal.SIG_DFL),
        (signal.SIG_IGN, signal.SIG_IGN),  # as of a shell's background
        (signal.default_int_handler, signal.default_int_handler),  # of a program that calls `main`
    ],
)
def test_ctrl_c_once_all_is_said(before: Any, after: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Python ends it would be a traceback."""

    def interrupted(arguments: Any) -> str:
        signal.raise_signal(signal.SIGINT)
        return "done"

    own = signal.signal(signal.SIGINT, before)
    try:
        assert main(["ghns"]) == 0
        assert signal.getsignal(signal.SIGINT) == after
        signal.signal(signal.SIGINT, before)
        monkeypatch.setattr("ghnfast.cli.ghns.run", interrupted)
        assert main(["ghns"]) == (0 if before is signal.SIG_IGN else 130)
        assert signal.getsignal(signal.SIGINT) == after
    finally:
        signal.signal(signal.SIGINT, own)


def test_a_reader_that_stops_reading() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "ghnfast", "ghns"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.parametrize("command", [["ghns"], ["plot", "no such run"]])
@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_closed_streams(command: list[str], closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `>&-` and services leave them: Python has None in their place."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None if closed in (name, "both") else io.StringIO())
    assert main(command) == (0 if command == ["ghns"] else 2)


class Full(io.StringIO):
    """What a full disk, or a reader that is gone, does to a stream."""

    def __init__(self, number: int, file: Any) -> None:
        super().__init__()
        self.number, self.file = number, file

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        found: int = self.file.fileno()
        return found


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EDQUOT])
def test_streams_that_cannot_be_written(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(tmp_path / "stream", "w") as file:
        monkeypatch.setattr(sys, "stdout", Full(number, file))
        assert main(["ghns"]) == (1 if number == errno.EPIPE else 2)
        words = f"ghnfast: error: the result cannot be written to stdout: {os.strerror(number)}\n"
        assert capsys.readouterr().err == ("" if number == errno.EPIPE else words)
        monkeypatch.undo()
        monkeypatch.setattr(sys, "stderr", Full(number, file))
        assert main(["plot", "no such run"]) == 2
        assert main(["ghns"]) == 0


def test_streams_of_a_process() -> None:
    command = f"{shlex.quote(sys.executable)} -m ghnfast ghns"
    for streams, code, words in (("<&- >&- 2>&-", 0, ""), (">/dev/full", 2, "to stdout: No space left on device\n")):
        done = subprocess.run(["sh", "-c", f"{command} {streams}"], stderr=subprocess.PIPE, text=True)
        assert done.returncode == code
        assert done.stderr.endswith(words)
        assert done.stderr.count("\n") == len(words[:1])


# Before torch is imported ---------------------------------------------------------------------------------------------

PRESS = """
import os, signal, sys

class Press:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
"""
IMPORTED = ["torch", "numpy", "ghnfast.calibration"]


def pressing(folder: Path, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python, with Ctrl-C when it imports a module of this name."""
    (folder / "sitecustomize.py").write_text(PRESS.format(name=name))
    line = [sys.executable, *arguments]
    return subprocess.run(line, env=with_path(str(folder)), capture_output=True, text=True)


def with_path(*folders: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, *filter(None, sys.path)])}


@pytest.mark.parametrize("name", IMPORTED)
@pytest.mark.parametrize("as_module", [True, False])
def test_ctrl_c_while_torch_is_imported(tmp_path: Path, name: str, as_module: bool) -> None:
    script = tmp_path / "ghnfast"  # as pip writes it
    script.write_text("import sys\nfrom ghnfast.cli import main\nsys.exit(main())\n")
    done = pressing(tmp_path, name, *(["-m", "ghnfast"] if as_module else [str(script)]), "info")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "ghnfast: interrupted\n")


@pytest.mark.parametrize("name", IMPORTED)
def test_ctrl_c_in_a_program_that_imports_ghnfast_is_its_own(tmp_path: Path, name: str) -> None:
    program = "try:\n    import ghnfast\nexcept KeyboardInterrupt:\n    print('mine')"
    done = pressing(tmp_path, name, "-c", program, "-m", "ghnfast")
    assert (done.returncode, done.stdout) == (0, "mine\n"), done.stderr


def test_a_working_directory_that_is_gone(tmp_path: Path) -> None:
    program = f"cd {shlex.quote(str(tmp_path))} && rmdir ../{tmp_path.name} && exec {sys.executable} -m ghnfast info"
    done = subprocess.run(["sh", "-c", program], env=with_path(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ghnfast: error: the working directory cannot be used: No such file or directory\n" in done.stderr
    assert "MKL" not in done.stderr
