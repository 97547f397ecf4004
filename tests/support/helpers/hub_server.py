"""A server with the addresses of the Hugging Face Hub that its client asks for: files by revision, and commits."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FILE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
API = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/(?P<what>\w+)/(?P<revision>[^/?]+)")


class Hub:
    """What the server has: {repository: {revision: {file: content}}}; and what it was asked."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.asked: list[str] = []
        self.messages: list[str] = []
        self.refuse_writes = False
        self.cut_files = False
        self.address = ""

    def put(self, repository: str, file: str, content: bytes, revision: str = "main") -> None:
        self.repositories.setdefault(repository, {}).setdefault(revision, {})[file] = content

    def commit_of(self, repository: str, revision: str) -> str:
        return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()

    def files(self, repository: str, revision: str) -> dict[str, bytes] | None:
        revisions = self.repositories[repository]
        known = {self.commit_of(repository, name): name for name in revisions}
        return revisions.get(known.get(revision, revision))


def handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if hub.cut_files and "resolve" in self.path else body)
                self.close_connection |= hub.cut_files

        def as_json(self, code: int, value: object) -> None:
            self.answer(code, json.dumps(value).encode(), Content_Type="application/json")

        def do_HEAD(self) -> None:
            self.file()

        def do_GET(self) -> None:
            self.file()

        def file(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            match = FILE.fullmatch(urllib.parse.unquote(urllib.parse.urlsplit(self.path).path))
            if match is None or match["repository"] not in hub.repositories:
                return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            files = hub.files(match["repository"], match["revision"])
            if files is None:
                return self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            commit = hub.commit_of(match["repository"], match["revision"])
            if match["file"] not in files:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            content = files[match["file"]]
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self.answer(200, content, ETag=etag, X_Repo_Commit=commit)

        def do_POST(self) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = urllib.parse.unquote(self.path)
            if hub.refuse_writes:
                return self.as_json(403, {"error": "no permission"})
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
                code = 409 if name in hub.repositories else 200
                hub.repositories.setdefault(name, {"main": {}})
                return self.as_json(code, {"url": f"{hub.address}/{name}", "name": name})
            if path == "/api/validate-yaml":
                return self.as_json(200, {"errors": [], "warnings": []})
            match = API.match(path)
            if match is None:
                return self.answer(404)
            return self.preupload(json.loads(body)) if match["what"] == "preupload" else self.commit(match, body)

        def preupload(self, asked: Any) -> None:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in asked["files"]
            ]
            self.as_json(200, {"files": files})

        def commit(self, match: re.Match[str], body: bytes) -> None:
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "header":
                    hub.messages.append(value["summary"])
                elif line["key"] == "file":
                    content = base64.b64decode(value["content"])
                    hub.put(match["repository"], value["path"], content, match["revision"])
            commit = hub.commit_of(match["repository"], match["revision"])
            url = f"{hub.address}/{match['repository']}/commit/{commit}"
            self.as_json(200, {"commitUrl": url, "commitOid": commit, "success": True})

    return Handler


@contextlib.contextmanager
def running_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub that the client talks to, with an empty cache."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
