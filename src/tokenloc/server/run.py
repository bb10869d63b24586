"""Loads models, listens at a port, starts and stops the server, and removes its temporary files."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from tokenloc._files import UniqueNames, exclusive_lock
from tokenloc.inference import Localizer

LAST_PORT = 65535
MAX_CONNECTIONS = 400  # further ones get status 503; each needs up to two of the 1024 files that a process may open
HEADER_SECONDS = 15  # within which the headers of a request must arrive
SCRATCH = "tokenloc-serve-"


def load_models(checkpoints: Sequence[str | Path], device: str = "auto") -> dict[str, Localizer]:
    """Load checkpoints, each under the name of its run such as sat-0/best; raise ValueError if one is given twice."""
    if len({Path(path).resolve() for path in checkpoints}) < len(checkpoints):
        raise ValueError(f"a checkpoint is given twice: {', '.join(map(str, checkpoints))}")
    models: dict[str, Localizer] = {}
    names = UniqueNames("")
    for path in map(Path, checkpoints):
        folder = path.absolute().parent
        name = f"{folder.parent.name}/{path.stem}" if folder.name == "checkpoints" else path.stem
        models[names.take(name)] = Localizer.from_checkpoint(path, device)
    return models


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 is any free one. An OSError names the next free port."""
    if not 0 <= port <= LAST_PORT:
        raise OSError(f"port must be in 0 … {LAST_PORT}; got {port}")
    try:
        return _listen(host, port)
    except socket.gaierror as error:
        raise OSError(f"unknown host {host!r} ({error.strerror}); try 127.0.0.1") from error
    except OSError as error:
        later = range(port + 1, min(port + 100, LAST_PORT) + 1)
        hint = next((f"; --port {other} is free" for other in later if _is_free(host, other)), "")
        raise OSError(f"cannot listen at port {port} of {host} ({os.strerror(error.errno or 0)}){hint}") from error


def _listen(host: str, port: int) -> socket.socket:
    family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address, family=family)


def _is_free(host: str, port: int) -> bool:
    with suppress(OSError), _listen(host, port):
        return True
    return False


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a private temporary folder, removed at the end; first remove those of servers that were killed."""
    if sys.platform != "win32":  # where nothing is locked
        for folder in Path(gettempdir()).glob(f"{SCRATCH}*"):
            with suppress(OSError, ValueError):  # of a running server, or not a folder
                if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                    with exclusive_lock(folder):
                        shutil.rmtree(folder)
    with TemporaryDirectory(prefix=SCRATCH) as name, exclusive_lock(name):
        yield Path(name)


class _StrictProtocol(H11Protocol):
    """Closes a connection if a request's headers take too long, for which uvicorn would wait once it has one byte.

    It also ends a request whose body turns out to be invalid; uvicorn would answer it twice, with a traceback.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        timer, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        super().data_received(data)
        if timer and (self.cycle is None or self.cycle.response_complete):  # no new request yet
            self.timeout_keep_alive_task = timer
        elif timer:
            timer.cancel()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # an answer has begun
            self.transport.close()


@contextmanager
def serving(app: FastAPI, listener: socket.socket) -> Iterator[str]:
    """Serve an application in a thread while the block runs, then close the socket; yield the URL."""
    config = uvicorn.Config(
        app,
        http=_StrictProtocol,
        ws="none",
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=HEADER_SECONDS,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="tokenloc-serve", daemon=True)
    host, port = listener.getsockname()[:2]
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start; see the messages above")
            time.sleep(0.01)
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
