"""Downloads, every way they can go wrong, and the cache."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import socket
import threading
import unittest
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers.checkpoint_cases import SUFFIXES, assert_same, message, says, small
from helpers.full_disk import files_of_at_most

from ghnfast.checkpoints import Check, Published, load, read, resolve, write


def git_check(content: bytes) -> Check:
    return Check("git blob id", hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest())


def sha256_check(content: bytes) -> Check:
    return Check("sha256", hashlib.sha256(content).hexdigest())


def publish(monkeypatch: pytest.MonkeyPatch, entry: Published) -> None:
    """Within the test, this is all that is published."""
    monkeypatch.setattr("ghnfast.checkpoints.published.PUBLISHED", {entry.name: entry})


class Server(ThreadingHTTPServer):
    """One file at /files/ghn.pt, and the ways a server can fail."""

    daemon_threads = True
    request_queue_size = 32  # the default of 5 makes a sixth client at once wait for a second

    def __init__(self, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.status = 200
        self.announced: int | None = len(content)  # the Content-Length, None: none
        self.redirects = 0
        self.hits: list[str] = []
        self.hang = threading.Event()
        self.hangs = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/files"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.hits.append(self.path)
        if server.hangs:
            server.hang.wait(20)
            return
        if server.redirects:
            server.redirects -= 1
            self.send_response(302)
            self.send_header("Location", f"/moved{self.path}")
            self.end_headers()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        self.send_response(200)
        if server.announced is not None:
            self.send_header("Content-Length", str(server.announced))
        self.end_headers()
        self.wfile.write(server.content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A local server of a small checkpoint, which is then the published 'ghn-test'."""
    write(tmp_path / "original.pt", small())
    content = (tmp_path / "original.pt").read_bytes()
    server = Server(content)
    publish(monkeypatch, Published("ghn-test", "ghn.pt", git_check(content)))
    monkeypatch.setenv("GHNFAST_URL", server.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.hang.set()
    server.shutdown()
    server.server_close()
    thread.join()


def assert_download_fails(server: Server, cache: Path, *parts: object) -> None:
    text = message(resolve, "ghn-test")
    says(text, "'ghn-test'", f"{os.environ['GHNFAST_URL']}/ghn.pt", *parts)
    says(text, f"by hand at {cache / 'ghn.pt'}", "GHNFAST_URL")
    assert os.listdir(cache) == []


def test_download_once(server: Server, cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with unittest.TestCase().assertLogs("ghnfast", "INFO") as logged:
        path = resolve("ghn-test")
    assert path == cache / "ghn.pt"
    assert read(path).epoch == 7
    said = "\n".join(logged.output)
    assert server.url in said
    assert str(path) in said
    assert resolve("ghn-test") == path
    assert server.hits == ["/files/ghn.pt"]
    assert os.listdir(cache) == ["ghn.pt"]
    server.shutdown()
    assert resolve("ghn-test") == path  # offline, from the cache
    assert capfd.readouterr() == ("", "")


def test_download_by_other_ways(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.redirects = 2
    server.announced = None
    monkeypatch.setenv("GHNFAST_URL", server.url + "/")
    assert resolve("ghn-test").read_bytes() == server.content
    assert server.hits == ["/files/ghn.pt", "/moved/files/ghn.pt", "/moved/moved/files/ghn.pt"]


def test_download_of_something_else(server: Server, cache: Path) -> None:
    expected, server.content = git_check(server.content), b"x" + server.content[1:]
    found = git_check(server.content)
    assert_download_fails(server, cache, f"the published file (git blob id {found.digest}, not {expected.digest})")


@pytest.mark.parametrize("sent", [0, 100])
def test_download_cut_off(server: Server, cache: Path, sent: int) -> None:
    whole, server.content = server.content, server.content[:sent]
    assert_download_fails(server, cache, f"cut after {sent} of {len(whole)} bytes")
    server.content = whole
    assert resolve("ghn-test").read_bytes() == whole  # the next attempt is not disturbed by the last


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_download_refused(server: Server, cache: Path, status: int) -> None:
    server.status = status
    assert_download_fails(server, cache, f"the server answered {status}")


def test_download_without_an_answer(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ghnfast.checkpoints.download.TIMEOUT_SECONDS", 0.1)
    server.hangs = True
    assert_download_fails(server, cache, "timed out")


def test_download_in_circles(server: Server, cache: Path) -> None:
    server.redirects = 1000
    assert_download_fails(server, cache, "the server answered 302")


def test_download_offline(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("GHNFAST_URL", f"http://127.0.0.1:{port}/files")
    assert_download_fails(server, cache, "the server cannot be reached", "refused")


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:port/files", "http://bad host/files", "gopher://a"])
def test_download_from_a_malformed_address(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("GHNFAST_URL", url)
    assert_download_fails(server, cache)


def test_download_to_a_full_disk(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for function in ("replace", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            text = message(resolve, "ghn-test")
        says(
            text, f"the cache folder {cache} cannot be written (No space left on device); set GHNFAST_CACHE to another"
        )
        assert "by hand" not in text
        assert os.listdir(cache) == []
    with files_of_at_most(len(server.content) - 1):
        text = message(resolve, "ghn-test")
    says(text, f"the cache folder {cache} cannot be written (File too large); set GHNFAST_CACHE to another")
    assert "by hand" not in text
    assert os.listdir(cache) == []


def test_a_damaged_file_in_the_cache_is_downloaded_again(server: Server, cache: Path) -> None:
    path = resolve("ghn-test")
    for damaged in (b"", server.content[:-1], b"x" + server.content[1:], server.content + b"x"):
        path.write_bytes(damaged)
        assert resolve("ghn-test").read_bytes() == server.content
    assert len(server.hits) == 5
    assert os.listdir(cache) == ["ghn.pt"]
    path.write_bytes(b"x")
    server.status = 404
    says(message(resolve, "ghn-test"), "the server answered 404", path)


def test_a_file_placed_by_hand_is_taken(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "ghn.pt").write_bytes(server.content)
    assert resolve("ghn-test") == cache / "ghn.pt"
    assert server.hits == []


def test_caches_that_cannot_be_used(server: Server, cache: Path) -> None:
    cache.parent.write_text("a file where the folder should be")
    says(message(resolve, "ghn-test"), cache, "cannot be", "Not a directory")
    cache.parent.unlink()
    (cache / "ghn.pt").mkdir(parents=True)
    says(message(resolve, "ghn-test"), cache / "ghn.pt", "cannot be read", "Is a directory", "set GHNFAST_CACHE")


def test_downloads_at_once(server: Server, cache: Path) -> None:
    start, found = threading.Barrier(8), []

    def fetch() -> None:
        start.wait()
        found.append(resolve("ghn-test").read_bytes() == server.content)

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert os.listdir(cache) == ["ghn.pt"]


@pytest.mark.parametrize("check", [git_check, sha256_check])
def test_every_kind_of_check(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[bytes], Check]
) -> None:
    expected = check(server.content)
    publish(monkeypatch, Published("ghn-test", "ghn.pt", expected))
    assert resolve("ghn-test").read_bytes() == server.content
    (cache / "ghn.pt").unlink()
    server.content = b"x" + server.content[1:]
    wrong = f"({expected.kind} {check(server.content).digest}, not {expected.digest})"
    assert_download_fails(server, cache, "not the published file", wrong)


def test_an_entry_says_where_its_file_is(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GHNFAST_URL")
    address = f"{server.url}/of/others"
    publish(monkeypatch, Published("ghn-test", "other.pt", git_check(server.content), address))
    assert resolve("ghn-test") == cache / "other.pt"
    assert server.hits == ["/files/of/others/other.pt"]


def test_other_names_of_an_entry(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, Published("ghn-test", "ghn.pt", git_check(server.content), aliases=("test", "GHN/test")))
    assert {resolve(name) for name in ("ghn-test", "test", "GHN/test")} == {cache / "ghn.pt"}
    assert load("test").epoch == 7
    assert len(server.hits) == 1
    assert "names: ghn2-fashion, ghn2-mnist5k, ghn-test;" in message(resolve, "other")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_entry_has_the_configuration_of_a_file_without_one(
    server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    weights = small().state_dict
    path = tmp_path / f"bare{suffix}"
    if suffix == ".safetensors":
        safetensors.torch.save_file(weights, path)
    else:
        torch.save({"state_dict": weights}, path)
    server.content = path.read_bytes()
    server.announced = len(server.content)
    entry = Published("ghn-test", f"bare{suffix}", git_check(server.content), config={"max_shape": [8, 8, 3, 3]})
    publish(monkeypatch, dataclasses.replace(entry, config=None))
    assert "config" in message(load, "ghn-test")
    publish(monkeypatch, entry)
    found = load("ghn-test")
    assert found.config == {"max_shape": (8, 8, 3, 3)}
    assert_same(found.state_dict, weights)
    write(path, small())
    server.content = path.read_bytes()
    server.announced = len(server.content)
    publish(monkeypatch, dataclasses.replace(entry, check=git_check(server.content)))
    assert load("ghn-test").config == small().config  # a file's own wins
