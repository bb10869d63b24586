"""What the server answers to requests that no page of ours would send."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.server.conftest import GRADIO_WARNS, LIMITS, Served
from tokenloc.server.guard import ENVELOPE
from tokenloc.server.page import Page

pytestmark = GRADIO_WARNS

Answer = tuple[int, bytes, dict[str, str]]
BOUNDARY = "x-x-x"


def ask(served: Served, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read(), {key.lower(): value for key, value in response.getheaders()}
    finally:
        connection.close()


def uploaded(name: str, content: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def upload(served: Served, name: str, content: bytes) -> Answer:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return ask(served, "POST", "/gradio_api/upload", uploaded(name, content), **{"Content-Type": kind})


def join(served: Served, upload: object, **changes: object) -> str:
    """Ask as the page would, for a file of one's own; return all that the queue answers."""
    config = json.loads(ask(served, "GET", "/config")[1])
    index = next(one["id"] for one in config["dependencies"] if len(one["inputs"]) == 8)
    wish = {
        "upload": upload, "model": "tiny", "refinement": "none", "threshold": 0.4, "objects": "all", "count": 1,
        "form": "coco", "previous": None, **changes,
    }  # fmt: skip
    body = json.dumps({"data": list(wish.values()), "fn_index": index, "session_hash": "abcdef"})
    status, said, _ = ask(served, "POST", "/gradio_api/queue/join", body, **{"Content-Type": "application/json"})
    if status != 200:
        return f"{status} {said.decode()}"
    return ask(served, "GET", "/gradio_api/queue/data?session_hash=abcdef")[1].decode()


def test_the_page_and_its_parts_are_served(served: Served) -> None:
    status, page, headers = ask(served, "GET", "/")
    assert status == 200
    assert b"tokenloc" in page
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    # Whatever addresses the page names for a share on social media are never asked for: see the browser's tests.
    assert ask(served, "GET", "/config")[0] == 200


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    path = tmp_path / "secret.png"
    path.write_bytes(b"a secret")
    return path


def test_no_file_outside_of_the_folder_is_read(served: Served, outside: Path) -> None:
    up = "/".join([".."] * 12)
    link = served.folder / "link.png"
    link.symlink_to(outside)
    paths = [
        "/etc/passwd", "../../etc/passwd", f"{served.folder}/{up}/etc/passwd", f"{served.folder}/{up}{outside}",
        f"{served.folder}-else/x", str(outside), str(link), "C:\\windows\\win.ini", "file:///etc/passwd", "\0",
        "x" * 5000, "http://127.0.0.1:1/x", "https://example.org/x", str(Path.cwd() / "pyproject.toml"),
    ]  # fmt: skip
    try:
        for path in paths:
            for written in (quote(path), quote(quote(path)), quote(path, safe=""), path.replace("..", "%2e%2e")):
                if re.search(r"[\0\\]", written):
                    continue
                for route in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/gradio_api/proxy="):
                    status, said, _ = ask(served, "GET", route + written)
                    assert status in (403, 404), (route, path, status)
                    assert b"secret" not in said or b"not served" in said
                    assert b"root:" not in said
    finally:
        link.unlink()


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/run/predict", "/gradio_api/call/show", "/gradio_api/api/show", "/gradio_api/component_server",
        "/gradio_api/process_recording", "/gradio_api/vibe-edit", "/login", "/gradio_api/stream/x",
        "/gradio_api/openapi.json", "/monitoring", "/monitoring/summary", "/docs", "/openapi.json",
        "/gradio_api/deep_link", "/gradio_api/runs",
        "/gradio_api/custom_component/0/client/x/../../x", "/assets/../../../../../etc/passwd",
        "/static/%2e%2e/%2e%2e/routes.py",
        "/gradio_api/mcp", "/dev/reload", "/gradio_api/profiling/traces",
    ],
)  # fmt: skip
def test_there_is_no_api(served: Served, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        status, said, _ = ask(served, method, path, b"{}" if method != "GET" else None)
        assert status in (403, 404), (method, status, said)
        assert b"import" not in said
        assert b"root:" not in said


def test_nothing_is_told_of_an_api(served: Served) -> None:
    told = json.loads(ask(served, "GET", "/gradio_api/info")[1])
    assert told == {"named_endpoints": {}, "unnamed_endpoints": {}}


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/cron.d/x", "..", "....//x", "a/b\\..\\c.png", "x" * 300, "%2e%2e%2fx"]
)
def test_a_path_in_an_uploads_name_leads_nowhere(served: Served, name: str) -> None:
    status, said, _ = upload(served, name, name.encode())
    if status == 200:
        (stored,) = json.loads(said)
        assert Path(stored).resolve().is_relative_to(served.folder.resolve())
        assert Path(stored).parent.parent == served.folder
        assert Path(stored).read_bytes() == name.encode()
    else:
        assert status == 400


def test_a_file_of_the_largest_size_is_taken_and_no_larger_one(served: Served) -> None:
    assert upload(served, "a.png", bytes(LIMITS.max_bytes))[0] == 200
    before = sorted(served.folder.rglob("*"))
    assert upload(served, "a.png", bytes(LIMITS.max_bytes + 1))[0] == 413
    status, said, _ = upload(served, "a.png", bytes(LIMITS.max_bytes + ENVELOPE))
    assert (status, said) == (413, b"more than the 0.4 MB that are taken here")
    assert [path for path in sorted(served.folder.rglob("*")) if path not in before and path.suffix] == []


def test_a_size_that_is_not_stated_is_counted(served: Served) -> None:
    def chunks() -> Iterator[bytes]:
        yield uploaded("a.png", b"")[:90]
        for _ in range(200):
            yield bytes(10_000)

    kind = f"multipart/form-data; boundary={BOUNDARY}"
    try:
        status, *_ = ask(served, "POST", "/gradio_api/upload", chunks(), **{"Content-Type": kind})
        assert status == 413
    except OSError:
        pass  # it hung up while we were sending
    assert sum(path.stat().st_size for path in served.folder.rglob("*") if path.is_file()) < 2_000_000


def test_a_message_to_the_queue_has_a_largest_size(served: Served) -> None:
    status, said, _ = ask(served, "POST", "/gradio_api/queue/join", bytes(ENVELOPE + 1))
    assert (status, said) == (413, b"more than the 0.1 MB that are taken here")
    for body in (b"{", b"[" * ENVELOPE, b"\xff"):
        assert ask(served, "POST", "/gradio_api/queue/join", body)[0] == 400


def test_the_queue_takes_files_of_the_folder_only(served: Served, outside: Path) -> None:
    for path in ("/etc/passwd", str(outside), "http://127.0.0.1:1/x.png", "https://example.org/x.png", "x", "../x"):
        meta = {"path": path, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
        assert join(served, meta).startswith("403 only uploaded images"), path
        assert join(served, {"deep": [meta]}).startswith("403 "), path
        assert join(served, None, model=meta).startswith("403 "), path


def test_the_queue_answers_what_the_page_would_show(served: Served, photo: Path) -> None:
    (stored,) = json.loads(upload(served, photo.name, photo.read_bytes())[1])
    meta = {"path": stored, "orig_name": photo.name, "meta": {"_type": "gradio.FileData"}}
    answered = join(served, meta)
    assert '"success":true' in answered
    assert served.localizer(photo).label in answered
    for wish in ({"model": "x"}, {"refinement": "x"}, {"objects": "x"}, {"form": "../x"}, {"form": "x"}):
        assert "unknown" in join(served, meta, **wish), wish
    assert "a map threshold must be in" in join(served, meta, threshold=7)
    assert "must lie in 1 … 10; got 9999" in json.loads(f'"{join_text(join(served, meta, count=9999))}"')
    for odd in ("x", None, [], {}, 1e999):
        assert "Traceback" not in join(served, meta, threshold=odd, count=odd)


def test_no_client_says_which_folder_goes(served: Served, photo: Path) -> None:
    (stored,) = json.loads(upload(served, photo.name, photo.read_bytes())[1])
    meta = {"path": stored, "orig_name": photo.name, "meta": {"_type": "gradio.FileData"}}
    for folder in (photo.parent, Path(stored).parent):
        assert '"success":true' in join(served, meta, previous=str(folder))
        assert folder.is_dir()
    page = Page(served.models, served.folder)
    page.forget(str(photo.parent))
    page.forget(str(served.folder / ".." / photo.parent.name))
    assert photo.exists()


def join_text(answered: str) -> str:
    found = re.search(r'role=\\"alert\\">(.*?)</p>', answered)
    return found[1] if found else ""


def test_an_uploaded_page_is_not_run(served: Served) -> None:
    for name in ("x.svg", "x.html"):
        (stored,) = json.loads(upload(served, name, b"<svg onload='alert(1)'/>")[1])
        status, _, headers = ask(served, "GET", f"/gradio_api/file={quote(stored)}")
        assert status == 200
        assert headers["content-disposition"].startswith("attachment")
        assert headers["content-type"] == "application/octet-stream"
        assert headers["content-security-policy"] == "default-src 'none'; sandbox"
