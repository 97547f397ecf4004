"""From what a user says, a name or a path, to a file and a checkpoint."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TypeGuard

import torch

from ..errors import CheckpointError
from .contents import Checkpoint
from .download import cache_folder, cached
from .hub import hub_file, hub_file_here
from .published import INCLUDED, PUBLISHED, entry_of, included_file, names
from .reading import read

# The GHNs in folders of runs, finished or not, and in those that `GHN.save_pretrained` writes.
IN_FOLDERS = "ghn.safetensors", "model.safetensors", "checkpoint.pt"


def load(source: str | os.PathLike[str], dtype: torch.dtype | None = None) -> Checkpoint:
    """The checkpoint that a source stands for, as `resolve` finds and `read` reads it.

    Raises:
        CheckpointError: see there.
    """
    entry = entry_of(source)
    return read(resolve(source), None if entry is None else entry.config, dtype)


def resolve(source: str | os.PathLike[str]) -> Path:
    """The file that a source stands for.

    Args:
        source: one of `INCLUDED`, which come with the package; a name or an alias in `PUBLISHED`, whose file is
            downloaded into `cache_folder()` on first use and verified on every use, or, if it is on the Hugging Face
            Hub, into the Hub's own cache; or the path of an existing file. A name wins over a file of that name
            ("./NAME" is the file).

    Raises:
        CheckpointError: neither a name nor a file; or the file could not be downloaded or verified.
    """
    if is_included(source):
        return included_file(source)
    entry = entry_of(source)
    if entry is not None and entry.repository is not None:
        # Published files stay as they are: what is in the cache need not be compared with the Hub.
        file = hub_file_here(entry.repository, entry.file) or hub_file(entry.repository, entry.file)
        assert file is not None  # it is not optional
        return file
    if entry is not None:
        return cached(entry)
    if not isinstance(source, (str, os.PathLike)):
        raise CheckpointError(f"a checkpoint is a name or a path, not {type(source).__name__}; {names_in_words()}")
    given = os.fsdecode(source)
    path = os.path.expanduser(given)
    if os.path.isfile(path):  # unlike Path.is_file, no error on a text that cannot be a path
        return Path(path)
    what = "is a folder" if given and os.path.isdir(path) else "is neither a published checkpoint nor an existing file"
    shown = repr(given if len(given) < 300 else given[:300] + "...")
    raise CheckpointError(f"{shown} {what}{suggestion(given)}; {names_in_words()}")


def available() -> dict[str, str]:
    """The names that `ghnfast.load` knows, the default's first: {name: what it is}. Files are accepted as well."""
    return {**INCLUDED, **{name: entry.about for name, entry in PUBLISHED.items()}}


def local_file(name: str) -> Path | None:
    """The file of a name of `available` on this machine, or None where it would be downloaded. Nothing is verified."""
    if name in INCLUDED:
        return included_file(name)
    entry = PUBLISHED[name]
    if entry.repository is not None:
        return hub_file_here(entry.repository, entry.file)
    file = cache_folder() / entry.file
    return file if os.path.isfile(file) else None


def is_included(source: object) -> TypeGuard[str]:
    """Whether a source is the name of a GHN that comes with the package."""
    return isinstance(source, str) and source in INCLUDED


def names_in_words() -> str:
    return f"names: {', '.join(names())}; the path of a checkpoint file is accepted too"


def suggestion(given: str) -> str:
    """The file in a folder that was given; or the known name that is nearly what was given, or whose file's name was
    given; as a question. Else nothing.
    """
    inside = [os.path.join(given, name) for name in IN_FOLDERS]
    there = [path for path in inside if given and os.path.isfile(os.path.expanduser(path))]
    if there:
        return f" (did you mean {there[0]!r}?)"
    stem = os.path.basename(given).lower().replace("_", "-").removesuffix(".pt")
    close = difflib.get_close_matches(stem, names(), n=1, cutoff=0.7)
    return f" (did you mean '{close[0]}'?)" if close else ""
