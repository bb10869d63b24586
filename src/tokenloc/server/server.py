"""A page on the network: started and ended, with a folder of its own that goes with it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tokenloc._extras import library
from tokenloc.server.guard import Guard
from tokenloc.server.models import Models
from tokenloc.server.page import CSS, Limits, Page, make_page

KEPT_SECONDS = 3600.0
"""How long an upload stays; its session need not end for it to go."""

SWEPT_SECONDS = 60.0
MOST_SESSIONS = 500
NEXT_PORTS = 100
LAST_PORT = 65535


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new folder for all that Gradio writes, which only this user can read; it goes with the block.

    Gradio is imported, and asks the environment for the folder then and later.

    Raises:
        ImportError: where Gradio is not installed, with the command that installs it.
    """
    before = os.environ.get("GRADIO_TEMP_DIR")
    with TemporaryDirectory(prefix="tokenloc-serve-") as name:
        os.environ["GRADIO_TEMP_DIR"] = name
        try:
            library("gradio", "web")
            yield Path(name)
        finally:
            del os.environ["GRADIO_TEMP_DIR"]
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


@contextmanager
def serving(models: Models, folder: Path, host: str, port: int, limits: Limits) -> Iterator[str]:
    """Serve a page while the block runs; yield its address.

    Args:
        models: that look at images.
        folder: of ``private_folder``.
        host: the address to listen at.
        port: there; 0 for any free one.
        limits: how much is taken in.

    Raises:
        OSError: a port in use, or an address that is not this machine's; see ``free_port``.
    """
    port = free_port(host, port)

    async def start() -> tuple[Any, str]:
        blocks = make_page(Page(models, folder), limits)
        return blocks, _launch(blocks, host, port, folder, limits)

    with _swept(folder):
        # Where no event loop runs, Gradio would make some for the calling thread, and leave them open.
        with ThreadPoolExecutor(1) as thread:
            blocks, address = thread.submit(asyncio.run, start()).result()
        try:
            yield address
        finally:
            blocks.close(verbose=False)


def _launch(blocks: Any, host: str, port: int, folder: Path, limits: Limits) -> str:
    """Start Gradio without all that reaches outside, whatever its environment variables say; return the address."""
    gr = library("gradio", "web")
    fonts = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]  # the default theme's come from the network
    guard = library("starlette.middleware", "web").Middleware(Guard, folder=folder, max_bytes=limits.max_bytes)
    _, address, _ = blocks.launch(
        server_name=f"[{host}]" if ":" in host else host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        pwa=False,
        num_workers=0,
        footer_links=[],
        allowed_paths=[],
        max_file_size=limits.max_bytes,
        state_session_capacity=MOST_SESSIONS,
        app_kwargs={"middleware": [guard]},
        theme=gr.themes.Default(font=fonts[0], font_mono=fonts[1]),
        css=CSS,
        _frontend=False,  # a look at its own page, which fails on a busy machine after three seconds
    )
    return str(address)


def free_port(host: str, port: int) -> int:
    """Return ``port``, or for 0 any free one.

    Raises:
        OSError: where it is in use, naming the next free one, or ``host`` is not an address of this machine.
    """
    if not 0 <= port <= LAST_PORT:
        raise OSError(f"port {port} must lie in 0 … {LAST_PORT}")
    try:
        return _bound(host, port)
    except socket.gaierror as error:
        raise OSError(f"host {host!r} is not known ({error.strerror}); try 127.0.0.1") from error
    except OSError as error:
        other = next(
            (free for free in range(port + 1, min(port + NEXT_PORTS, LAST_PORT) + 1) if _is_free(host, free)), None
        )
        hint = f"; --port {other} is free" if other else ""
        raise OSError(f"port {port} of {host} cannot be used ({error.strerror}){hint}") from error


def _is_free(host: str, port: int) -> bool:
    try:
        return _bound(host, port) == port
    except OSError:
        return False


def _bound(host: str, port: int) -> int:
    """Bind a port for a moment; return it."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind(address)
        return int(trial.getsockname()[1])


@contextmanager
def _swept(folder: Path) -> Iterator[None]:
    """Remove what grows old in a folder; Gradio's ``delete_cache`` knows nothing of uploads that were broken off."""
    ended = threading.Event()

    def sweep() -> None:
        while not ended.wait(SWEPT_SECONDS):
            remove_older(folder, time.time() - KEPT_SECONDS)

    thread = threading.Thread(target=sweep, name="tokenloc-sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def remove_older(folder: Path, moment: float) -> None:
    """Remove what is below ``folder`` and was last changed before ``moment`` (seconds), but for folders in use."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        with suppress(OSError):
            if path.lstat().st_mtime < moment:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
