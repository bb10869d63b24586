"""A local hub with enough of the protocol for the real client to create, fill and read model repositories."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "a" * 40


class Hub:
    """The repositories and the requests received."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.writable = True
        self.requests: list[str] = []

    def downloaded(self) -> set[str]:
        return {path.rpartition("/")[2] for path in self.requests if path.startswith("GET") and "/resolve/" in path}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} {path}")
        words = path.removeprefix("api/models/").split("/")
        name, action = "/".join(words[:2]), words[2:]
        files = self.hub.repositories.get(name)
        if files is None or name in self.hub.private:
            self._answer(401 if name in self.hub.private else 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif action[1:2] and action[1] not in ("main", COMMIT):
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif action[0] == "resolve":
            self._send_file(files, "/".join(action[2:]))
        elif action[0] == "tree":
            self._json(
                [{"type": "file", "oid": _id(data), "size": len(data), "path": at} for at, data in files.items()]
            )
        else:
            self._json({"_id": "1", "id": name, "sha": COMMIT, "siblings": [{"rfilename": at} for at in files]})

    def do_POST(self) -> None:
        path = urlsplit(self.path).path.strip("/")
        self.hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        name = "/".join(path.split("/")[2:4])
        if not self.hub.writable:
            self._answer(403, json.dumps({"error": "You may not write here"}).encode(), {})
        elif path == "api/repos/create":
            request = json.loads(body)
            name = f"{request.get('organization') or 'user'}/{request['name']}"
            self.hub.repositories.setdefault(name, {})
            self._json({"url": f"http://{self.headers['Host']}/{name}"})
        elif path == "api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "preupload" in path:
            paths = [one["path"] for one in json.loads(body)["files"]]
            self._json({"files": [{"path": at, "uploadMode": "regular", "shouldIgnore": False} for at in paths]})
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.hub.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"http://{self.headers['Host']}/{name}"})

    def _send_file(self, files: dict[str, bytes], at: str) -> None:
        if at not in files:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        self._answer(200, files[at], {"ETag": f'"{_id(files[at])}"', "X-Repo-Commit": COMMIT})

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _id(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def serving(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a hub, and let the client use it with an empty cache."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    point_client_at(f"http://127.0.0.1:{server.server_port}", cache, monkeypatch)
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def point_client_at(endpoint: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
