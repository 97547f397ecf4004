"""Results that are made one by one, in a JSON file that is whole after each: what a repeated call goes on from."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..files import in_words, replacing
from ..locks import alone, lock_beside

Json = dict[str, Any]
NUMBERS = ("rate", "held_out", "test", "seconds")
MOST = 1e300  # no number of results is larger


@dataclass(eq=False)
class Cells:
    """Results by seed and rate.

    Attributes:
        path: of the file; None for none.
        settings: what they are of: a file of others is refused.
        cells: the results; each has `seed` and `rate`.
    """

    path: Path | None
    settings: Json
    cells: list[Json] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def at(cls, path: str | os.PathLike[str] | None, settings: Json) -> Iterator[Cells]:
        """The results in a file, which nobody else adds to within the block.

        Raises:
            TrainingError: somebody else does, or as `read`.
        """
        if path is None:
            yield cls.read(None, settings)
            return
        if not isinstance(path, (str, os.PathLike)) or not Path(path).name:
            raise TrainingError(f"the file of results is {path!r:.80}; the path of a file is accepted")
        with alone(lock_beside(Path(path)), f"the table {path}", "made", "another file", TrainingError):
            yield cls.read(path, settings)

    @classmethod
    def read(cls, path: str | os.PathLike[str] | None, settings: Json) -> Cells:
        """The results in a file, or none where there is no file.

        Raises:
            TrainingError: the file cannot be read, is damaged, or has results of other settings.
        """
        settings = json.loads(json.dumps(settings))  # tuples are lists, as in the file
        if path is None:
            return cls(None, settings)
        made = cls(Path(path), settings)
        try:
            text = made.path.read_text() if made.path is not None else ""
        except FileNotFoundError:
            return made
        except (OSError, ValueError) as error:
            raise TrainingError(f"the results {path} cannot be read: {in_words(error)}; {ACCEPTED}") from error
        try:
            known = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TrainingError(f"the results {path} are damaged: {in_words(error)}; {ACCEPTED}") from error
        if not isinstance(known, dict) or not isinstance(known.get("settings"), dict):
            raise TrainingError(f"{path} has no results of fine-tuning; {ACCEPTED}")
        check_settings(known["settings"], settings, path)
        cells = known.get("cells")
        if not isinstance(cells, list) or not all(map(is_cell, cells)):
            raise TrainingError(f"the results {path} are damaged: their cells are no results; {ACCEPTED}")
        made.cells = cells
        return made

    def find(self, seed: int, rate: float) -> Json | None:
        return next((cell for cell in self.cells if (cell["seed"], cell["rate"]) == (seed, rate)), None)

    def add(self, cell: Json) -> None:
        """Keep a result, in the file as well."""
        self.cells.append(json.loads(json.dumps(cell)))
        self.write({})

    def finish(self, results: Json) -> Json:
        """Everything, written and returned."""
        return self.write(results)

    def write(self, results: Json) -> Json:
        content = {**results, "settings": self.settings, "cells": self.cells}
        if self.path is not None:
            try:
                with replacing(self.path) as file:
                    file.write((json.dumps(content, indent=1) + "\n").encode())
            except (OSError, ValueError) as error:
                raise TrainingError(f"the results {self.path} cannot be written: {in_words(error)}") from error
        return content


def check_settings(known: Json, given: Json, path: str | os.PathLike[str]) -> None:
    """Fail where results are of other settings, or do not say all that there are."""
    for name in (name for name in given if name in known):
        ours, theirs = given[name], known[name]
        if ours != theirs:
            raise TrainingError(f"the results {path} are of {name} = {theirs!r:.80}, not {ours!r:.80}; {ACCEPTED}")
    missing, more = [name for name in given if name not in known], [name for name in known if name not in given]
    if missing or more:
        what = f"do not say {', '.join(missing)}" if missing else f"say {', '.join(more)}"
        raise TrainingError(
            f"the results {path} {what}: another version of ghnfast made them, and they cannot be gone on from; "
            "another file is accepted"
        )


ACCEPTED = "another file, or that of the same call, is accepted"


def is_cell(cell: Any) -> bool:
    if not isinstance(cell, dict) or type(cell.get("seed")) is not int or not isinstance(cell.get("curve"), list):
        return False
    points = [point for point in cell["curve"] if not (isinstance(point, list) and len(point) == 2)]
    return not points and all(map(is_number, (*(cell.get(name) for name in NUMBERS), *chain(*cell["curve"]))))


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < MOST
