"""What several commands do with results: files that are checked before any work, parameters by reason."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UsageError
from ..files import check_writable, in_words, replacing

Json = dict[str, Any]


class Mismatch(str):
    """The result of a command that has found what it looked at to be otherwise than it should be."""


class UnwrittenError(UsageError):
    """A file could not be written; `result`, which took long, is for stdout then."""

    def __init__(self, message: str, result: str) -> None:
        super().__init__(message)
        self.result = result


SHOWN = 3  # as many names as a list in the summary shows


def check_output(text: str | None, suffixes: Sequence[str]) -> Path | None:
    """The file to write, if any. Called before any work, for a result that cannot be written is lost."""
    if text is None:
        return None
    path = Path(text)
    if not text:
        raise UsageError(f"cannot write '': it is no file's name; accepted are names that end in {', '.join(suffixes)}")
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"cannot write {text}: its suffix is '{path.suffix}'; accepted: {', '.join(suffixes)}")
    if os.path.isdir(path):
        raise UsageError(f"cannot write {text}: it is a folder")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"cannot write {text}: it is a pipe or a device; a regular file is accepted")
    if not os.path.isdir(path.parent):
        what = "is no folder" if os.path.exists(path.parent) else "does not exist"
        raise UsageError(f"cannot write {text}: the folder {path.parent} {what}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {text}: no permission to write into the folder {path.parent}")
    try:
        check_writable(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write {text}: {in_words(error)}") from error
    return path


def check_folder(text: str) -> Path:
    """The folder to write into, which need not be there yet."""
    if not text or "\0" in text:
        raise UsageError(f"cannot write into {text!r}: it is no folder's name")
    path = Path(text)
    first = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if not os.path.isdir(first):
        raise UsageError(f"cannot write into {text}: {first} is no folder")
    if not os.access(first, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write into {text}: no permission to write into {first}")
    return path


@contextlib.contextmanager
def kept_in(path: Path | None) -> Iterator[None]:
    """Says, where the block is interrupted, what a repeated call goes on from: a file or folder, or None for nothing.

    Raises:
        KeyboardInterrupt: the one that came, with these words.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        kept = path is not None and os.path.exists(path)
        words = f"the same command goes on from {path}" if kept else "nothing is kept yet"
        error.args = ("without --out nothing is kept" if path is None else words,)
        raise


def write_text(path: Path, text: str, result: str = "") -> None:
    """Write a file.

    Args:
        result: what is not to be lost where that fails, in which case the command prints it.

    Raises:
        UnwrittenError: it could not be written.
    """
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise UnwrittenError(f"{path} could not be written: {in_words(error)}", result) from error


def group_by_reason(reasons: Mapping[str, str], model: nn.Module) -> list[Json]:
    """Parameters by the reason why something was not done with them."""
    parameters = dict(model.named_parameters())
    groups: dict[str, Json] = {}
    for name, reason in reasons.items():
        group = groups.setdefault(reason, {"reason": reason, "tensors": 0, "parameters": 0, "names": []})
        group["tensors"] += 1
        group["parameters"] += parameters[name].numel()
        group["names"].append(name)
    return list(groups.values())


def format_groups(groups: Sequence[Json]) -> Iterator[str]:
    for group in groups:
        names = group["names"]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        plural = "" if group["tensors"] == 1 else "s"
        yield f"  {group['reason']}:"
        yield (
            f"    {group['tensors']:,} tensor{plural}, {group['parameters']:,} parameters: "
            f"{', '.join(names[:SHOWN])}{more}"
        )
