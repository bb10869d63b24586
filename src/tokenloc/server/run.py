"""Loads models, listens at a port, starts and stops the server."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from tokenloc.inference import Localizer

LAST_PORT = 65535


def load_models(checkpoints: Sequence[str | Path], device: str = "auto") -> dict[str, Localizer]:
    """Load checkpoints, each under the name of its run such as sat-0/best; raise ValueError if one is given twice."""
    models: dict[str, Localizer] = {}
    for path in map(Path, checkpoints):
        folder = path.absolute().parent
        name = f"{folder.parent.name}/{path.stem}" if folder.name == "checkpoints" else path.stem
        models[f"{name} ({path})" if name in models else name] = Localizer.from_checkpoint(path, device)
    if len(models) < len(checkpoints):
        raise ValueError(f"a checkpoint is given twice: {', '.join(map(str, checkpoints))}")
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
def serving(app: FastAPI, listener: socket.socket) -> Iterator[str]:
    """Serve an application in a thread while the block runs, then close the socket; yield the URL."""
    config = uvicorn.Config(app, ws="none", log_level="warning", server_header=False, timeout_graceful_shutdown=5)
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
