"""The folder of a training run: its lock, configuration, log and checkpoint, whole after a power loss at any time.

Files take the place of the last ones when they are on the disk, and a line of the log is there before the checkpoint
of its step: a run goes on from the checkpoint, and what the log has beyond it is cut off.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..errors import TrainingError
from ..files import in_words, replacing
from ..locks import alone
from ..refusals import is_refused

CHECKPOINT, CONFIG, LOG, WEIGHTS, LOCK = "checkpoint.pt", "config.toml", "log.jsonl", "ghn.safetensors", ".lock"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Makes the folder, and keeps other trainers out of it until the end of the block, or of the process.

    Raises:
        TrainingError: another trainer is at it, or the folder cannot be made or written.
    """
    with in_folder(path):
        path.mkdir(parents=True, exist_ok=True)
    with alone(path / LOCK, f"the run in {path}", "trained", "another folder", TrainingError):
        yield


@contextlib.contextmanager
def in_folder(path: Path) -> Iterator[None]:
    """What the operating system, and torch when it writes, say of a folder, as errors of ghnfast."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(
            f"the run in {path} cannot be written: {in_words(error)}; a folder that can be, on a disk with space, is "
            "accepted"
        ) from error


@contextlib.contextmanager
def writing(path: Path, name: str) -> Iterator[BinaryIO]:
    """A file of the folder, that takes the place of the last one whole, and stays there."""
    with in_folder(path):
        with replacing(path / name) as file:
            yield file
        sync_folder(path)


def sync_folder(path: Path) -> None:
    """Write the folder itself to the disk: which files it has is not part of them."""
    if os.name == "nt":  # there it cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The checkpoint -------------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Written beside the last one, which it then replaces: killed at any time, a whole one is there."""
    with writing(path, CHECKPOINT) as file:
        torch.save(dict(state), file)


def read_checkpoint(path: Path) -> dict[str, Any] | None:
    """The checkpoint of a run, or None where there is none.

    Raises:
        TrainingError: it is damaged, or something else.
    """
    file = path / CHECKPOINT
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise TrainingError(f"the checkpoint {file} cannot be read: {in_words(error)}") from error
    try:
        check_sums(content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever damage leads to
        then = WHOLE if is_refused(error) else WITHOUT
        raise TrainingError(f"the checkpoint {file} cannot be read: {in_words(error)}; {then}") from error
    if not isinstance(state, dict) or not {"ghn", "optimizer", "config"} <= state.keys():
        raise TrainingError(f"{file} is not the checkpoint of a training run; {WITHOUT}")
    if not isinstance(state["config"], dict):
        raise TrainingError(f"{file} is not the checkpoint of a training run: its configuration is no table; {WITHOUT}")
    return state


MOST = 1e300  # no number of a log is larger
WITHOUT = "without it, the run begins again"
WHOLE = "it may be whole: the same call goes on from it where the machine does not refuse that"


def check_sums(content: bytes) -> None:
    """torch does not look at the checksums that it writes."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise TrainingError(f"the checksum of its part {damaged} is wrong")


# The log --------------------------------------------------------------------------------------------------------------


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    with in_folder(path), open(path / LOG, "ab") as file:
        file.write(json.dumps(values).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def cut_log(path: Path, step: int) -> None:
    """Leave the lines up to this step: later ones will be written again, and what is no line was half written."""
    file = path / LOG
    with in_folder(path):
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return
    kept, last = [], 0
    for line in lines_of(content):
        found = step_of(line)
        if found is not None and last < found <= step:
            kept.append(line)
            last = found
    if b"".join(kept) != content:
        with writing(path, LOG) as new:
            new.write(b"".join(kept))


def lines_of(content: bytes) -> list[bytes]:
    """Without what a block that a power loss left unwritten has before them."""
    return [line.lstrip(b"\0") for line in content.splitlines(keepends=True)]


def step_of(line: bytes) -> int | None:
    """The step of a line of the log, if it is one."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = values.get("step") if isinstance(values, dict) else None
    return step if line.endswith(b"\n") and type(step) is int else None


def numbers_of(line: bytes) -> dict[str, Any]:
    """What a line of the log says in numbers; damage may have left others, or too large ones for a drawing."""
    found = json.loads(line).items()
    return {name: value for name, value in found if type(value) in (int, float) and abs(value) < MOST}


def read_log(file: Path) -> list[dict[str, Any]]:
    """The entries of a log, in their order; what is none, as a power loss leaves, is left out.

    Raises:
        TrainingError: it cannot be read, or has no entries.
    """
    try:
        content = file.read_bytes()
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"the log {file} cannot be read: {in_words(error)}; the folder of a run is accepted"
        ) from error
    lines = (numbers_of(line) for line in lines_of(content) if step_of(line) is not None)
    entries = [line for line in lines if "step" in line]
    if not entries:
        raise TrainingError(f"the log {file} has no entries; a run writes one every log_every steps")
    return entries
