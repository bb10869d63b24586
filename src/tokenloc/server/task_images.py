"""Reading the images of Label Studio's tasks: from a folder, from Label Studio itself, and from nowhere else."""

from __future__ import annotations

import base64
import json
import math
import string
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tokenloc._files import open_regular, require_inside
from tokenloc._plain import load_json, require_types
from tokenloc.data.annotations import LOCAL_FILES

DATA = "/data/"  # where Label Studio serves uploads and local files
TOKEN = "LABEL_STUDIO_API_KEY"
SECONDS = 10.0  # without an answer from Label Studio
ACCESS_SECONDS = 60.0  # for which an access token is used; it is valid for five minutes


class TaskImages:
    """Reads the image that a task names.

    A task may come from anyone, so it can name images below ``folder`` and below ``DATA`` of one Label Studio only.

    Args:
        url: of Label Studio, such as http://localhost:8080.
        token: of a user, a personal access token or a legacy token; None for images that need none.
        folder: Label Studio's document root, from which local files are read instead of from ``url``.
        max_bytes: the largest size of an image's file.

    Raises:
        ValueError: if ``url`` is not one of HTTP, or ``folder`` is not a folder.
    """

    def __init__(self, url: str, token: str | None, folder: Path | None, max_bytes: int) -> None:
        self._base = urlsplit(url.rstrip("/"))
        if self._base.scheme not in ("http", "https") or not self._base.hostname or "@" in url or "?" in url:
            raise ValueError(f"--label_studio must be an address such as http://localhost:8080; got {url!r}")
        if folder is not None and not folder.is_dir():
            raise ValueError(f"--images must be a folder, Label Studio's document root; {folder} is none")
        self._token = token
        self._folder = folder
        self._max_bytes = max_bytes
        self._opener = build_opener(_NoRedirect)
        self._access = (-math.inf, "")  # when it was made, and the access token

    def read(self, address: str) -> bytes:
        """Return the content of the file at an address in a task's data.

        Raises:
            ValueError: if the address leads elsewhere, or the file is missing or too large; without local paths.
        """
        if address.startswith("data:"):
            return self._limited(_inline(address))
        split = urlsplit(address)
        if split.netloc and split[:2] != self._base[:2]:
            raise ValueError(self._elsewhere(address))
        path = split.path.removeprefix(self._base.path)
        if self._folder is not None and f"{path}?d=" == LOCAL_FILES:
            return self._local(self._folder, parse_qs(split.query).get("d", [""])[0])
        if not path.startswith(DATA) or ".." in unquote(unquote(path)).split("/") or "\\" in path:
            raise ValueError(self._elsewhere(address))
        query = f"?{split.query}" if split.query else ""
        return self._request(quote(f"{path}{query}", safe=string.punctuation), self._authorization())

    def _local(self, folder: Path, name: str) -> bytes:
        """Return a file below a folder; a link in it must not lead out of it."""
        require_inside([name], "the task")
        folder = folder.resolve()
        try:
            path = (folder / name).resolve(strict=True)
            if not path.is_relative_to(folder):
                raise ValueError("a link that leads out of the folder")
            with open_regular(path) as file:
                return self._limited(file.read(self._max_bytes + 1))
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a circle of links, before Python 3.13
            reason = getattr(error, "strerror", None) or str(error).replace(str(folder), "")
            raise ValueError(f"{name!r:.200} cannot be read from the folder of --images ({reason})") from error

    def _authorization(self) -> dict[str, str]:
        """Return the header with the token; a personal one is exchanged for another one that is valid for minutes."""
        if self._token is None:
            return {}
        if self._token.count(".") != 2:
            return {"Authorization": f"Token {self._token}"}
        made, access = self._access
        if time.monotonic() > made + ACCESS_SECONDS:
            body = json.dumps({"refresh": self._token}).encode()
            answer = load_json(self._request("/api/token/refresh/", {"Content-Type": "application/json"}, body))
            require_types(answer, {"access": str})
            self._access = made, access = time.monotonic(), answer["access"]
        return {"Authorization": f"Bearer {access}"}

    def _request(self, path: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
        """Return what Label Studio answers at a path below its address."""
        url = f"{self._base.geturl()}{path}"
        try:
            with self._opener.open(Request(url, body, headers), timeout=SECONDS) as answer:
                return self._limited(answer.read(self._max_bytes + 1))
        except HTTPError as error:
            error.close()
            hint = f"; set {TOKEN} to an access token of Label Studio" if error.code in (302, 401, 403) else ""
            raise ValueError(f"{path:.200}: Label Studio answers {error.code} ({error.reason}){hint}") from error
        except (HTTPException, OSError) as error:
            raise ValueError(f"{path:.200} cannot be read from Label Studio ({error})") from error

    def _limited(self, content: bytes) -> bytes:
        if len(content) > self._max_bytes:
            raise ValueError(f"the image has more than {self._max_bytes / 1e6:g} MB; raise --max_megabytes")
        return content

    def _elsewhere(self, address: str) -> str:
        return f"images are read from {self._base.geturl()}{DATA} only; the task names {address!r:.200}"


class _NoRedirect(HTTPRedirectHandler):
    """Reports a redirect, which may lead to another host, as an HTTPError."""

    def redirect_request(self, *_: Any) -> None: ...


def _inline(address: str) -> bytes:
    head, comma, content = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError(f"expected an image such as data:image/png;base64,…; got {head!r:.80}")
    return base64.b64decode(content, validate=True)
