"""Hostile requests are refused, and cost the server little."""

from __future__ import annotations

import json
import logging
import socket
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from tests.server.conftest import LIMITS, LOCAL_HOSTS, Served
from tests.server.hostile import SCRIPT
from tokenloc.inference import Localizer
from tokenloc.server import limits, run
from tokenloc.server.app import create_app
from tokenloc.server.hosts import valid_hosts
from tokenloc.server.limits import FORM_BYTES, Limits
from tokenloc.server.run import listen, serving

FORM = {"Content-Type": "multipart/form-data; boundary=x-x-x"}


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(), {key.lower(): value for key, value in response.getheaders()}
    finally:
        connection.close()


def form(content: bytes, name: str = "a.png") -> bytes:
    head = f'--x-x-x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n--x-x-x--\r\n"


@pytest.mark.parametrize("path", ["/", "/health", "/openapi.json", "/nothing", "/results/x"])
def test_every_response_has_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    names = ("x-content-type-options", "x-frame-options", "referrer-policy", "cross-origin-resource-policy")
    assert [headers[name] for name in names] == ["nosniff", "DENY", "no-referrer", "same-origin"]
    assert headers["cache-control"] == "no-store"
    assert not {"access-control-allow-origin", "server"} & set(headers)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "localhost.evil.example", "", "[", "0.0.0.0"])
def test_other_hosts_are_refused(client: TestClient, models: dict[str, Localizer], host: str) -> None:
    for method, path in (("GET", "/"), ("POST", "/predict")):
        response = client.request(method, path, headers={"Host": host})
        assert response.status_code == 421
        assert response.json()["error"].startswith(
            f"unknown host {host!r}; to use the server under this name, start it"
        )
    anywhere = TestClient(create_app(models, LIMITS), "http://localhost")
    assert anywhere.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("192.168.1.5:7860", True), ("[fe80::1]:7860", True), ("0.0.0.0", True), ("localhost", True),
        (socket.gethostname(), True), ("Boxes.Example.com:443", True), ("a.b.lan", True), ("lan", False), ("", False),
        ("evil.example", False), ("boxes.example.com.evil.example", False), ("1.2.3.4.evil.example", False),
    ],
)  # fmt: skip
def test_a_server_for_others_accepts_addresses_and_allowed_names(host: str, accepted: bool) -> None:
    assert valid_hosts("0.0.0.0", ["boxes.example.com", "*.lan"]).accept(host) == accepted


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7860", "127.0.0.1:1", "[::1]:7860"])
def test_local_hosts_are_served(client: TestClient, host: str) -> None:
    same_origin = client.post("/predict", headers={"Host": host, "Origin": f"http://{host}"})
    assert same_origin.status_code == 422
    assert same_origin.json() == {"error": "image: Field required; got None"}


@pytest.mark.parametrize(
    "origin", ["null", "http://evil.example", "http://localhost:8000", "https://localhost.evil.example", "file://", ""]
)
def test_other_origins_cannot_post(client: TestClient, photo: Path, origin: str) -> None:
    headers = {"Host": "localhost:7860", "Origin": origin}
    assert client.post("/predict", files={"image": photo.read_bytes()}, headers=headers).status_code == 403
    preflight = client.options("/predict", headers={**headers, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 403


def test_no_path_leads_to_a_file(served: Served, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"a secret")
    up = "/".join([".."] * 12)
    paths = [
        "/etc/passwd",
        f"{up}/etc/passwd",
        f"{up}{secret}",
        str(secret),
        "file:///etc/passwd",
        "x" * 5000,
        "app.py",
    ]
    for path in paths:
        for written in (path, quote(path), quote(quote(path)), quote(path, safe=""), path.replace("..", "%2e%2e")):
            for route in ("/", "/results/", "/results/x/annotations/", "/static/", "/assets/", "/file="):
                status, content, _ = ask(served.port, "GET", route + written)
                assert status == 404, (route, path, status)
                assert not any(word in content for word in (b"a secret", b"root:", b"import"))


def test_the_size_of_an_upload_is_limited(served: Served) -> None:
    expected = {
        LIMITS.max_bytes: (422, "a.png: not an image"),
        LIMITS.max_bytes + 1: (413, "the image is too large; the limit is 0.3 MB"),
        LIMITS.max_bytes + FORM_BYTES: (413, "the request is too large; the limit for an image is 0.3 MB"),
    }
    for size, (expected_status, message) in expected.items():
        status, content, _ = ask(served.port, "POST", "/predict", form(bytes(size)), **FORM)
        assert status == expected_status
        assert json.loads(content)["error"].startswith(message)
    assert ask(served.port, "PUT", "/predict")[0] == 405


@pytest.mark.parametrize("length", ["999999999", "9" * 5000])
def test_a_large_upload_is_refused_before_it_is_read(served: Served, length: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port), 60) as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())
        assert connection.recv(100).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_an_upload_of_unknown_size_is_refused_while_it_arrives(served: Served) -> None:
    sent = 0

    def chunks() -> Iterator[bytes]:
        nonlocal sent
        yield form(b"").removesuffix(b"\r\n--x-x-x--\r\n")
        for _ in range(20_000):
            sent += 10_000
            yield bytes(10_000)

    with suppress(OSError):  # the server closes the connection
        assert ask(served.port, "POST", "/predict", chunks(), **FORM)[0] == 413
    assert sent < 50_000_000


HEAD = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {FORM['Content-Type']}\r\n"
HALF = f"{HEAD}Content-Length: 99\r\n\r\n--x"


@pytest.mark.parametrize("seconds", ["UPLOAD_SECONDS", "STALL_SECONDS"])
def test_half_sent_uploads_end_and_do_not_hold_up_others(
    models: dict[str, Localizer], photo: Path, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    app = create_app(models, Limits(max_queue=2), LOCAL_HOSTS)
    with serving(app, listen("127.0.0.1", 0)) as url, ExitStack() as stack:
        port = int(url.rpartition(":")[2])
        address = ("127.0.0.1", port)
        waiting = [stack.enter_context(socket.create_connection(address, 60)) for _ in range(50)]
        for connection in waiting:
            connection.sendall(HALF.encode())
        assert ask(port, "POST", "/predict", form(photo.read_bytes()), **FORM)[0] == 200
        monkeypatch.setattr(limits, seconds, 0.2)
        late = stack.enter_context(socket.create_connection(address, 60))
        late.sendall(HALF.encode())
        assert late.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("before", ["", "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"])
@pytest.mark.parametrize("sent", ["", "GET / HT", "GET /health HTTP/1.1\r\nHost: localhost\r\n"])
def test_half_sent_headers_close_the_connection(
    models: dict[str, Localizer], monkeypatch: pytest.MonkeyPatch, before: str, sent: str
) -> None:
    monkeypatch.setattr(run, "HEADER_SECONDS", 0.5)
    with serving(create_app(models, LIMITS, LOCAL_HOSTS), listen("127.0.0.1", 0)) as url, ExitStack() as stack:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        connection = stack.enter_context(socket.create_connection(address, 60))
        connection.sendall(before.encode())
        while before and b'"status"' not in connection.recv(1000):
            pass
        connection.sendall(sent.encode())
        while connection.recv(1000):
            pass


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("body", ["x", "5\r\n--x", "3\r\n--xx\r\n"])
def test_an_invalid_chunk_is_refused_once(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, method: str, body: str
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)
    head = HEAD.replace("POST", method) + "Transfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), 60) as connection:
        connection.sendall(f"{head}{body}\r\n\r\nGET /\r\n".encode())
        answer = b""
        while received := connection.recv(10_000):
            answer += received
    assert answer.count(b"HTTP/1.1 ") <= 2
    assert ask(served.port, "GET", "/health")[0] == 200
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "application/json", "multipart/mixed", "\xff"])
def test_other_media_types_are_refused_before_they_are_read(served: Served, kind: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port), 60) as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\nContent-Type: {kind}\r\n\r\n"
        connection.sendall(head.encode("latin-1"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 415")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Starlette leaves a file to the GC
@pytest.mark.parametrize("body", [b"", b"--x-x-x", b"\xff" * 100, b"[" * FORM_BYTES, form(b"")[:-10], form(b"") * 2000])
def test_a_malformed_form_is_reported(client: TestClient, body: bytes) -> None:
    response = client.post("/predict", content=body, headers=FORM)
    assert response.status_code in (400, 422)
    assert response.json()["error"]


def test_a_busy_server_says_so(models: dict[str, Localizer], photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, top = threading.Event(), Localizer.top

    def wait(self: Localizer, image: Any, count: int) -> Any:
        release.wait(60)
        return top(self, image, count)

    monkeypatch.setattr(Localizer, "top", wait)
    app = create_app(models, Limits(max_queue=2), LOCAL_HOSTS)
    with serving(app, listen("127.0.0.1", 0)) as url, ThreadPoolExecutor(6) as pool:
        port, body = int(url.rpartition(":")[2]), form(photo.read_bytes())
        answers = as_completed([pool.submit(ask, port, "POST", "/predict", body, **FORM) for _ in range(6)])
        for status, content, headers in (next(answers).result() for _ in range(3)):
            assert status == 503
            assert json.loads(content) == {"error": "the server is busy: 2 requests are waiting; try again later"}
            assert headers["retry-after"] == "5"
        assert ask(port, "GET", "/health")[0] == 200
        release.set()
        assert [answer.result()[0] for answer in answers] == [200] * 3
        assert ask(port, "POST", "/predict", body, **FORM)[0] == 200


def test_nothing_is_left_on_disk(
    client: TestClient, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    token = client.post("/predict", files={"image": photo.read_bytes()}, data={"keep": True}).json()["result"]
    for name in ("coco", "yolo", "voc"):
        assert client.get(f"/results/{token}/annotations/{name}").status_code == 200
    for content in (bytes(LIMITS.max_bytes), bytes(LIMITS.max_bytes + 1), SCRIPT):
        assert client.post("/predict", files={"image": content}).status_code in (413, 422)
    assert sorted(tmp_path.rglob("*")) == before
