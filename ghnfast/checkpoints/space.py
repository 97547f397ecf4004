"""How much memory can be had, so that a file that does not fit is refused before any is taken.

Linux gives out memory that it does not have, and ends a process that then uses it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..errors import CheckpointError

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")
SHOWN_UNITS = ((1 << 30, "GB"), (1 << 20, "MB"), (1 << 10, "KB"))


class Room:
    """The memory that one file may take, and what it has taken so far.

    Args:
        source: the file, for messages.
    """

    def __init__(self, source: str) -> None:
        self.source, self.taken, self.available = source, 0, available_memory()

    def take(self, needed: int, least: bool = False) -> None:
        """Count `needed` more bytes. least: what is counted is not yet all of it.

        Raises:
            CheckpointError: they cannot be had.
        """
        self.taken += needed
        if self.available is not None and self.taken > self.available:
            raise self.refusal(least)

    def refusal(self, least: bool = False) -> CheckpointError:
        """For memory that the system refused although it seemed to be there, too."""
        there = "" if self.available is None else f", and {in_units(self.available)} are available"
        return CheckpointError(
            f"the checkpoint {self.source} cannot be loaded: its weights need {'at least ' if least else ''}"
            f"{in_units(self.taken)} of memory ({self.taken} bytes){there}; a smaller GHN is accepted, or more memory"
        )


def available_memory() -> int | None:
    """The bytes that this process can still take: of the machine, its control groups, its own limits; None: unknown."""
    known = [*machine_memory(), *group_memory(), *own_limits()]
    return max(0, min(known)) if known else None


def machine_memory() -> Iterator[int]:
    amounts = table(PROC / "meminfo")
    if "MemAvailable" in amounts:
        yield (amounts["MemAvailable"] + amounts.get("SwapFree", 0)) * 1024


def group_memory() -> Iterator[int]:
    """What is left to each control group that the process is in, of either version; its files in memory can go."""
    for line in lines(PROC / "self" / "cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            root, limit, used, prefix = CGROUPS, "memory.max", "memory.current", ""
        elif "memory" in controllers.split(","):
            root, limit, used, prefix = CGROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
        else:
            continue
        own = root / path.strip("/")
        for folder in (own, *own.parents):
            most, now = number(folder / limit), number(folder / used)
            if most is not None and now is not None:
                amounts = table(folder / "memory.stat")
                files = sum(amounts.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))
                yield most - max(0, now - files)
            if folder == root:
                break


def own_limits() -> Iterator[int]:
    """What is left of the limits that the process has of itself (`ulimit -v`, `-d`)."""
    try:
        import resource
    except ImportError:  # only POSIX has it
        return
    pages = [int(count) for line in lines(PROC / "self" / "statm") for count in line.split()]
    for kind, place in ((resource.RLIMIT_AS, 0), (resource.RLIMIT_DATA, 5)):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and len(pages) > place:
            yield limit - pages[place] * resource.getpagesize()


def table(path: Path) -> Mapping[str, int]:
    """The numbers of a file with a name and a number a line."""
    rows = [line.replace(":", " ").split() for line in lines(path)]
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def number(path: Path) -> int | None:
    """The number in a file; None where there is no such file, or a word in it ("max")."""
    text = "".join(lines(path)).strip()
    return int(text) if text.isdecimal() else None


def lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.fsdecode(path.read_bytes()).splitlines()
    return []


def in_units(count: int) -> str:
    size, unit = next(((size, unit) for size, unit in SHOWN_UNITS if count >= size), (1, "bytes"))
    return f"{count / size:.4g} {unit}"
