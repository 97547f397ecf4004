"""Downloading the files of published GHNs, in limited time and memory, and verifying what came."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import CheckpointError
from ..files import in_words, replacing
from ..progress import progress
from .published import CHUNK_BYTES, Published
from .reading import check_regular

log = logging.getLogger("ghnfast")

TIMEOUT_SECONDS = 30.0  # without an answer or a byte, not for the whole file
TOTAL_SECONDS = 1800.0  # for a whole file; the largest has 30 MB
MOST_BYTES = 1 << 28  # of a published file


def cache_folder() -> Path:
    """The folder of downloaded checkpoints: $GHNFAST_CACHE, else $XDG_CACHE_HOME/ghnfast, else ~/.cache/ghnfast.

    Nothing is created. Raises CheckpointError where there is no home folder to start from.
    """
    own, shared = os.environ.get("GHNFAST_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(own) if own else Path(shared or "~/.cache") / "ghnfast"
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise CheckpointError(
            f"no home folder to keep downloaded checkpoints in ({error}); set GHNFAST_CACHE to a folder"
        ) from error


def cached(entry: Published) -> Path:
    """The verified file of a published GHN, downloaded where the cache has none or a damaged one."""
    target = cache_folder() / entry.file
    assert entry.check is not None  # only files on the Hub go without
    try:
        check_regular(target)
        with open(target, "rb") as file:
            if entry.check.of(file) == entry.check.digest:
                return target
        log.info("%s is not the published file: downloading it again", target)
    except FileNotFoundError:
        log.debug("%s is not there yet", target)
    except OSError as error:
        raise CheckpointError(
            f"the cached checkpoint {target} cannot be read: {in_words(error)}; remove what is there, or set "
            "GHNFAST_CACHE to another folder"
        ) from error
    with in_cache(target.parent, "made"):
        target.parent.mkdir(parents=True, exist_ok=True)
    download(entry, target)
    return target


class CacheError(CheckpointError):
    """The cache cannot be written: nothing is wrong with the download."""


@contextlib.contextmanager
def in_cache(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the cache folder {folder} cannot be {what} ({in_words(error)}); set GHNFAST_CACHE to another"
        ) from error


def download(entry: Published, target: Path) -> None:
    """Download a published file to `target`, which appears only once it is whole and verified."""
    base = os.environ.get("GHNFAST_URL") or entry.base
    url = f"{base.rstrip('/')}/{entry.file}"
    log.info("downloading '%s' from %s to %s", entry.name, url, target)
    assert entry.check is not None
    kind, expected = entry.check
    with in_cache(target.parent, "written"), replacing(target) as file:
        try:
            fetch(url, file)
            digest = entry.check.of(file)
            if digest != expected:
                raise CheckpointError(f"what came is not the published file ({kind} {digest}, not {expected})")
        except CacheError:
            raise
        # ValueError: a malformed address in GHNFAST_URL, or one of ours. URLError and time-outs are OSErrors.
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise CheckpointError(
                f"could not download the checkpoint '{entry.name}' from {url}: {in_words(error)}. Download it "
                f"elsewhere and place it by hand at {target}, or set GHNFAST_URL to another folder's address"
            ) from error


def fetch(url: str, file: BinaryIO) -> None:
    """Stream an address into a file, in a limited time.

    A time-out of sockets starts again with each byte, also of the headers; so another thread does it, which is left
    alone where it takes too long.

    Raises:
        CheckpointError: it took too long, or fewer or more bytes came than the server announced or a file can have.
    """
    local = urllib.parse.urlsplit(url)
    if local.scheme == "file":
        check_regular(Path(urllib.request.url2pathname(local.path)))
    deadline = time.monotonic() + TOTAL_SECONDS
    failures: list[Exception] = []

    def work() -> None:
        try:
            stream(url, file, deadline)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(TOTAL_SECONDS + 1)
    if thread.is_alive():
        raise CheckpointError(too_slow())
    if failures:
        raise failures[0]


def too_slow() -> str:
    return f"it is not there after {TOTAL_SECONDS:g} seconds"


def stream(url: str, file: BinaryIO, deadline: float) -> None:
    request = urllib.request.Request(url, headers={"User-Agent": "ghnfast"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        announced = response.headers.get("Content-Length")
        total = int(announced) if announced is not None and announced.isdecimal() else None
        received = 0
        with progress(f"downloading {Path(url).name}", total, "bytes") as told:
            # What one call of the system gives: `read` would wait for all of it.
            while chunk := response.read1(CHUNK_BYTES):
                received += len(chunk)
                if received > MOST_BYTES:
                    raise CheckpointError(f"more than {MOST_BYTES} bytes came, the most that a published file can have")
                if time.monotonic() > deadline:
                    raise CheckpointError(too_slow())
                with in_cache(Path(file.name).parent, "written"):
                    file.write(chunk)
                told(len(chunk))
    with in_cache(Path(file.name).parent, "written"):
        file.flush()
    # urllib takes a connection that closes early for the end of the file.
    if announced is not None and int(announced) != received:
        raise CheckpointError(f"the connection was cut after {received} of {announced} bytes")
