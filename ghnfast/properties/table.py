"""Tables of measured networks: a CSV whose rows say which network each is, how it was trained, and what was found."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..deepnets import DeepNet, DeepNets1M
from ..deepnets.checks import MOST
from ..deepnets.dataset import SIZES, is_whole
from ..errors import GhnfastError, PropertyError
from ..files import in_words
from ..plain import make_plain
from ..training import ImageData
from ..training.config import MOST_SEED
from ..training.digests import digest_of_images
from ..training.networks import LARGE, SMALL
from .rows import MOST_NUMBER, as_csv, number, rows_in, whole_number

PROPERTIES = ("accuracy", "noisy_accuracy", "seconds", "convergence")
# What all networks of a table have in common; numbers but the first two.
HOW = ("data", "images", "classes", "image_size", "channels", "epochs", "seed")
COLUMNS = ("split", "index", *HOW, *PROPERTIES)


@dataclass(frozen=True)
class Training:
    """How networks are trained before they are measured.

    Attributes:
        channels: of every network, instead of its own: small ones train in seconds. 8 to 8192.
        epochs: passes over the training images.
        seed: of initialization and of the order of images.
    """

    channels: int = 16
    epochs: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        make_plain(self)
        accepted = {"channels": (8, MOST["C"]), "epochs": (1, MOST_NUMBER), "seed": (0, MOST_SEED)}
        for name, (least, most) in accepted.items():
            value = getattr(self, name)
            if not is_whole(value) or not least <= value <= most:
                raise PropertyError(f"{name} is {value!r:.80}; {least} to {most} is accepted")

    def network(self, item: DeepNet) -> DeepNet:
        """The network that is measured for one of a split."""
        return replace(item, args={**item.args, "C": self.channels})


def how_of(data: ImageData, training: Training) -> dict[str, str]:
    """What networks of one table have in common, as its columns have it."""
    values = {
        "data": data.name,
        # The first letters: else a spreadsheet may take it for a number.
        "images": f"sha256:{digest_of_images(data.calibration, data.test)}",
        "classes": data.num_classes,
        "image_size": data.input_shape[1],
        **asdict(training),
    }
    return {name: str(values[name]) for name in HOW}


class MeasuredNetworks:
    """The networks of a table as they were measured: with its channels, classes and size of images.

    Args:
        how: a row's `HOW`.

    Raises:
        PropertyError: a value is none that a table has.
    """

    def __init__(self, how: Mapping[str, str]) -> None:
        values = {
            name: whole_number(how[name], name) for name in ("classes", "image_size", "channels", "epochs", "seed")
        }
        if values["image_size"] not in (SMALL, LARGE):
            raise PropertyError(f"image_size is {values['image_size']}; {SMALL} and {LARGE} are accepted")
        self.how = {name: how[name] for name in HOW}
        self.training = Training(values["channels"], values["epochs"], values["seed"])
        self.classes, self.large_images = values["classes"], values["image_size"] == LARGE
        self.splits: dict[str, DeepNets1M] = {}

    def network(self, row: Mapping[str, str]) -> DeepNet:
        """The network of a row.

        Raises:
            PropertyError: it names none, or was trained in another way.
        """
        split, index = network_of_row(row)
        if differing := difference({name: row[name] for name in HOW}, self.how):
            raise PropertyError(f"it is of other training: {differing}, as of the first network, is accepted")
        if split not in self.splits or index >= len(self.splits[split]):
            size = max(index + 1, SIZES[split])
            self.splits[split] = DeepNets1M(split, size=size, large_images=self.large_images, num_classes=self.classes)
        return self.training.network(self.splits[split][index])


def network_of_row(row: Mapping[str, str]) -> tuple[str, int]:
    """Split and index.

    Raises:
        PropertyError: they are none.
    """
    if row["split"] not in SIZES:
        raise PropertyError(f"split is {row['split']!r:.40}; {', '.join(SIZES)} are accepted")
    return row["split"], whole_number(row["index"], "index")


def check_columns(columns: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Fail where a table of measured networks does not say all about their training: their networks are not known.

    Raises:
        PropertyError: it lacks columns of `HOW`.
    """
    missing = [name for name in HOW if name not in columns]
    measured = {"split", "index", "channels"} <= {*columns} and not {*PROPERTIES}.isdisjoint(columns)
    if missing and measured:
        named = " and no column ".join(map(repr, missing))
        raise PropertyError(
            f"{path} has measured networks, and no column {named}: an earlier version of ghnfast wrote it, or it is a "
            "part; it is read with these columns (images: any name for them; classes: how many), or, of networks with "
            "channels of their own, without 'channels'; added to is another file"
        )


# Adding to a table ----------------------------------------------------------------------------------------------------


def known_networks(path: Path, how: dict[str, str]) -> set[tuple[str, int]]:
    """The networks that a table has; only if all of it is one, a last line that was cut off is removed.

    Raises:
        PropertyError: it is no table, or one of other training, and stays as it is.
    """
    if not os.path.isfile(path):  # some devices have no end
        raise PropertyError(f"{path} cannot be written: it is no regular file")
    try:
        with open(path, "r+b") as file:
            content = file.read()
            found, kept, more = check_table(content, how, path)
            if kept < len(content):
                file.truncate(kept)
            file.seek(kept)
            file.write(more)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PropertyError(f"{path} cannot be written: {in_words(error)}") from error
    return found


def check_table(content: bytes, how: dict[str, str], path: Path) -> tuple[set[tuple[str, int]], int, bytes]:
    """The networks of a table, how many of its bytes are whole lines, and what these lack."""
    if f"{','.join(COLUMNS)}\n".encode().startswith(content):
        return set(), 0, b""  # empty, or the first line was cut off, which is written again
    end = content.rfind(b"\n") + 1
    columns, rows = rows_in(io.BytesIO(content[: end or len(content)]), path)
    check_columns(columns, path)
    if columns != list(COLUMNS) or not end:
        raise PropertyError(
            f"{path} has the columns {', '.join(columns)}; a file with lines, and {', '.join(COLUMNS)}, is accepted"
        )
    found = {check_row(row, how, line, path) for line, row in rows}
    with as_csv(path):
        text = content[end:].replace(b"\0", b"").decode(errors="replace")  # a power loss leaves them
        fields = [field.strip() for field in next(csv.reader([text], skipinitialspace=True), [])]
    if not fields:
        return found, end, b""
    last = content.count(b"\n") + 1
    if len(fields) > len(COLUMNS):
        raise PropertyError(f"line {last} of {path} has another number of fields than the first")
    row = dict(zip(COLUMNS, fields, strict=False))
    given = {name: row[name] for name in HOW if name in [*row][:-1]}  # the last field may be cut
    check_how(given, {name: how[name] for name in given}, last, path)
    if len(fields) < len(COLUMNS) or b"\0" in content[end:] or maybe_cut(row):
        return found, end, b""
    return {*found, check_row(row, how, last, path)}, len(content), b"\n"


def maybe_cut(row: Mapping[str, str]) -> bool:
    """Whether the last field of a row, a share of its epochs, may be the beginning of another."""
    epochs, last = int(row["epochs"]), row[COLUMNS[-1]]
    shares = {format_value(epoch / epochs) for epoch in range(1, epochs + 1)}
    return last not in shares or any(share != last and share.startswith(last) for share in shares)


def check_row(row: Mapping[str, str], how: Mapping[str, str], line: int, path: Path) -> tuple[str, int]:
    """The network of a row that is as `how` says, and has its properties."""
    check_how({name: row[name] for name in HOW}, how, line, path)
    try:
        for name in PROPERTIES:
            number(row[name], name)
        return network_of_row(row)
    except GhnfastError as error:
        raise PropertyError(f"line {line} of {path}: {error}") from error


def check_how(given: Mapping[str, str], how: Mapping[str, str], line: int, path: Path) -> None:
    if differing := difference(given, how):
        raise PropertyError(f"line {line} of {path} is of other training: {differing}, or another file, is accepted")


def difference(given: Mapping[str, str], how: Mapping[str, str]) -> str:
    """What differs in one training from another, which comes second, in words; empty where nothing does."""
    differing = [name for name in how if given[name] != how[name]]
    theirs, ours = (", ".join(f"{name} {values[name]:.80}" for name in differing) for values in (given, how))
    return f"{theirs}; {ours}" if differing else ""


def format_value(value: float) -> str:
    return f"{value:.6g}"


def append(path: Path, row: dict[str, Any]) -> None:
    """Add a line to a file, in one write that is on the disk afterwards."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    try:
        with open(path, "ab") as file:
            if file.tell() == 0:
                writer.writerow(row)
            writer.writerow(row.values())
            file.write(text.getvalue().encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise PropertyError(f"{path} cannot be written: {in_words(error)}") from error
