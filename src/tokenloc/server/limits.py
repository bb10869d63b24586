"""Middleware that limits hosts, origins, media types, sizes and the time of an upload."""

from __future__ import annotations

import asyncio
import reprlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenloc.server.hosts import Hosts

FORM_TYPE = "multipart/form-data"
JSON_TYPE = "application/json"
JSON_PATHS = "/label-studio/"  # whose requests are JSON
JSON_BYTES = 4_000_000  # of a request there
FORM_BYTES = 64 * 1024  # of a request besides its image
UPLOAD_SECONDS = 120.0  # within which a request must arrive
STALL_SECONDS = 20.0  # longest pause of an upload
HEADERS = {  # of every response that does not set them itself
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_CLOSE = {"Connection": "close"}  # otherwise the server would read the rest of a refused body


@dataclass(frozen=True)
class Limits:
    """Limits of an upload's size and pixels, and of the requests that wait while another one is processed."""

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_queue: int = 32

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")


class Guard:
    """ASGI middleware that refuses requests beyond the limits and adds security headers to every response.

    Pages of other sites cannot send requests with a body (``Origin`` differs from ``Host``), nor reach a local server
    by DNS rebinding (``Host`` is not among ``hosts``).
    """

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Hosts) -> None:
        self.app = app
        self.limits = limits
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        is_json = scope["path"].startswith(JSON_PATHS)
        most = JSON_BYTES if is_json else self.limits.max_bytes + FORM_BYTES
        refused = self._refusal(Headers(scope=scope), scope["method"] not in ("GET", "HEAD"), is_json, most)
        await (refused or self.app)(scope, self._limited(receive, most), send_with_headers)

    def _refusal(self, headers: Headers, has_body: bool, is_json: bool, most: int) -> JSONResponse | None:
        host, origin, length = (headers.get(name, "").lower() for name in ("host", "origin", "content-length"))
        if not self.hosts.accept(host):
            message = f"unknown host {_short(host)}; to use the server under this name, start it with --allowed_hosts"
            return error_response(421, message, _CLOSE)
        if not has_body:
            return None
        if "origin" in headers and origin.rpartition("://")[2] != host:
            message = (
                f"requests from another origin are refused; got {_short(origin)}, expected this server, "
                f"{_short(host)}; a proxy must pass the header Host on"
            )
            return error_response(403, message, _CLOSE)
        expected = JSON_TYPE if is_json else FORM_TYPE  # the parser of other forms is slow
        kind = headers.get("content-type", expected)
        if kind.partition(";")[0].strip().lower() != expected:
            return error_response(415, f"expected {expected}; got {_short(kind)}", _CLOSE)
        if length.isdecimal() and (len(length) > 15 or int(length) > most):
            return error_response(413, self._too_large(most), _CLOSE)
        return None

    def _limited(self, receive: Receive, most: int) -> Receive:
        """Return a ``receive`` that raises HTTPException if the body is too large or takes too long."""
        received, complete, deadline = 0, False, time.monotonic() + UPLOAD_SECONDS

        async def limited() -> Message:
            nonlocal received, complete
            left = min(STALL_SECONDS, deadline - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), None if complete else left)
            except asyncio.TimeoutError:
                limit = f"the upload paused for {STALL_SECONDS:g} s, or took more than {UPLOAD_SECONDS:g} s"
                raise HTTPException(408, f"{limit}; send the image again", _CLOSE) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > most:
                raise HTTPException(413, self._too_large(most), _CLOSE)
            return message

        return limited

    def _too_large(self, most: int) -> str:
        if most == JSON_BYTES:
            return f"the request is too large; the limit is {most / 1e6:g} MB: select fewer tasks"
        return f"the request is too large; the limit for an image is {self.limits.max_bytes / 1e6:g} MB"


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the JSON of an error, ``{"error": message}``."""
    return JSONResponse({"error": message}, status, headers)


def _short(value: str) -> str:
    return reprlib.repr(value)
