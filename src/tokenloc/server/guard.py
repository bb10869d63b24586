"""What stands before Gradio: what the server answers at all, how much it takes in, and which files may be named.

Gradio has an API beside its page, fetches addresses that a client names as its files, and serves more than one folder.
None of it is needed here, so none of it passes. An ASGI middleware, https://asgi.readthedocs.io.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

API = "/gradio_api"
FILE = f"{API}/file="
UPLOAD = f"{API}/upload"
JOIN = f"{API}/queue/join"

_READ = re.compile(
    "/|/config|/theme.css|/favicon.ico|/manifest.json|/(assets|static|svelte)/.+|"
    f"{API}/(info|app_id|startup-events|theme.css|upload_progress|queue/data|heartbeat/[^/]+|file=.+)"
)
_WRITTEN = re.compile(f"{API}/(upload|queue/join|cancel|reset)")

ENVELOPE = 64 * 1024  # bytes: of any message but an upload, and what stands around the file in one
MOST_UPLOADS = 64  # that lie in the folder at a time, each of the largest size

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_PAGE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; frame-ancestors 'none'"
)
_UPLOADED = "default-src 'none'; sandbox"


class RefusedError(Exception):
    """A request that is not served, with its HTTP status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Guard:
    """Lets pass what the page needs, within limits, and refuses the rest in words.

    Args:
        app: what is guarded.
        folder: the one folder whose files may be named: uploads and annotations.
        max_bytes: of an uploaded file.
    """

    def __init__(self, app: App, folder: Path, max_bytes: int) -> None:
        self.app = app
        self.folder = folder.resolve()
        self.max_bytes = max_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        # A websocket, which the page has none of, ends with this call.

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        answered = False

        async def send_guarded(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                message["headers"] = [*message["headers"], *_headers(scope["path"])]
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, await self._limited(scope, receive), send_guarded)
        except RefusedError as refused:
            if not answered:
                await _answer(send_guarded, refused)

    def _check(self, scope: Message) -> None:
        path: str = scope["path"]
        wanted = _READ if scope["method"] in ("GET", "HEAD") else _WRITTEN
        if not wanted.fullmatch(path):
            raise RefusedError(404, f"{scope['method']} {path} is not served here")
        if path == "/":
            scope["query_string"] = b""  # Gradio would look for a stored page by it
        if path.startswith(FILE):
            self.check_file(path[len(FILE) :])
        if path == UPLOAD and _size_of(self.folder) > MOST_UPLOADS * self.max_bytes:
            raise RefusedError(507, "the server holds as many images as it may; try again in a while")

    def check_file(self, path: str) -> None:
        """Raise RefusedError where a path leads out of the folder, also by a link, or is an address."""
        try:
            inside = Path(path).resolve().is_relative_to(self.folder) and Path(path).is_absolute()
        except (OSError, ValueError, RuntimeError):  # too long, a zero byte, links in a circle
            inside = False
        if not inside:
            raise RefusedError(403, "only uploaded images and their annotations are served")

    async def _limited(self, scope: Message, receive: Receive) -> Receive:
        """Return a ``receive`` that ends with RefusedError beyond the size that is taken."""
        most = ENVELOPE + (self.max_bytes if scope["path"] == UPLOAD else 0)
        if int(dict(scope["headers"]).get(b"content-length", b"0")) > most:
            raise _too_large(most)
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > most:
                raise _too_large(most)
            return message

        return await self._checked(limited) if scope["path"] == JOIN else limited

    async def _checked(self, receive: Receive) -> Receive:
        """Read a request to the queue, whose files must lie in the folder; return a ``receive`` that gives it again."""
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        try:
            pending = [json.loads(body)]
        except (ValueError, RecursionError):
            raise RefusedError(400, "expected JSON") from None
        while pending:
            value = pending.pop()
            if isinstance(value, dict) and isinstance(value.get("path"), str):
                self.check_file(value["path"])
            pending += value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        again = [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Message:
            return again.pop() if again else await receive()

        return replayed


def _too_large(most: int) -> RefusedError:
    return RefusedError(413, f"more than the {most / 1e6:.1f} MB that are taken here")


def _size_of(folder: Path) -> int:
    """Return the bytes below a folder; files may vanish meanwhile."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.lstat().st_size
    return total


def _headers(path: str) -> list[tuple[bytes, bytes]]:
    policy = _UPLOADED if path.startswith(FILE) else _PAGE
    headers = {**_HEADERS, "Content-Security-Policy": policy}
    return [(name.lower().encode("ascii"), value.encode("ascii")) for name, value in headers.items()]


async def _answer(send: Send, refused: RefusedError) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": str(refused).encode("utf-8", "replace")})
