"""Limits on what the server accepts: hosts, origins, sizes, and the number of waiting requests.

``Guard`` is an ASGI middleware (https://asgi.readthedocs.io). It refuses a request before its body is read wherever
that is possible, and otherwise while the body arrives.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_HOSTS = frozenset(("localhost", "127.0.0.1", "::1"))
FORM_BYTES = 64 * 1024
"""Bytes that a request may have beside its image: the other form fields and the multipart boundaries."""

UPLOAD_SECONDS = 120.0
"""Time within which the body of a request must arrive, so that slow clients cannot fill the queue."""

RETRY_SECONDS = 5
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response that does not set them itself."""


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_bytes: largest size of an uploaded file.
        max_pixels: largest width times height of an image.
        max_queue: number of requests that may wait while another is processed.

    Raises:
        ValueError: if a limit is below 1.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    max_queue: int = 32

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1; got {value}")


class Guard:
    """ASGI middleware that refuses requests beyond the limits and adds security headers to every response.

    A page of another site can neither send requests with a body (its ``Origin`` differs from ``Host``) nor reach a
    local server under a name of its own (DNS rebinding: ``Host`` is not in ``hosts``).

    Args:
        app: the application.
        limits: sizes, and the length of the queue.
        hosts: host names that ``Host`` may have; None for any.
    """

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Collection[str] | None = None) -> None:
        self.app = app
        self.limits = limits
        self.hosts = hosts
        self._active = 0

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

        has_body = scope["method"] not in ("GET", "HEAD")
        refused = self._check_host(scope) or (self._check_body(scope) if has_body else None)
        self._active += has_body
        try:
            await (refused or self.app)(scope, self._limited(receive), send_with_headers)
        finally:
            self._active -= has_body

    def _check_host(self, scope: Scope) -> JSONResponse | None:
        host = Headers(scope=scope).get("host", "")
        if self.hosts is None or _host_name(host) in self.hosts:
            return None
        return error_response(421, f"unknown host {host!r}; expected one of {', '.join(sorted(self.hosts))}")

    def _check_body(self, scope: Scope) -> JSONResponse | None:
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        if origin is not None and origin.rpartition("://")[2].lower() != headers.get("host", "").lower():
            return error_response(403, f"requests from another origin are refused; got {origin!r}")
        length = headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 15 or int(length) > self._max_body):
            return error_response(413, self._too_large)
        if self._active > self.limits.max_queue:
            message = f"the server is busy: {self.limits.max_queue} requests are waiting; try again later"
            return error_response(503, message, {"Retry-After": str(RETRY_SECONDS)})
        return None

    @property
    def _max_body(self) -> int:
        return self.limits.max_bytes + FORM_BYTES

    @property
    def _too_large(self) -> str:
        return f"the request is too large; the limit for an image is {self.limits.max_bytes / 1e6:g} MB"

    def _limited(self, receive: Receive) -> Receive:
        """Return a ``receive`` that raises HTTPException if the body is too large or takes too long."""
        received, complete, deadline = 0, False, time.monotonic() + UPLOAD_SECONDS

        async def limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except asyncio.TimeoutError:
                raise HTTPException(408, f"the upload took more than {UPLOAD_SECONDS:g} s", _CLOSE) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self._max_body:
                raise HTTPException(413, self._too_large, _CLOSE)
            return message

        return limited


_CLOSE = {"Connection": "close"}  # otherwise the server would read the rest of the body


def error_response(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return the JSON of an error, ``{"error": message}``; the connection is closed."""
    return JSONResponse({"error": message}, status, {**_CLOSE, **(headers or {})})


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _host_name(host: str) -> str:
    """Return the name in a ``Host`` header, without its port.

    >>> _host_name("LOCALHOST:7860"), _host_name("[::1]:7860"), _host_name("[")
    ('localhost', '::1', '')
    """
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
