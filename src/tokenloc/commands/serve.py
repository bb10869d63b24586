"""``tokenloc serve``: a web page and a REST API."""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from tokenloc.commands.console import print_message


def serve(
    checkpoints: list[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    max_megabytes: float = 20.0,
    max_megapixels: float = 50.0,
    max_queue: int = 32,
) -> None:
    """Serve a web page and a REST API: upload an image, see its boxes and heatmap, download the annotation.

    Nothing is sent to another machine, and no image is stored: results stay in memory for ten minutes.

    Args:
        checkpoints: checkpoints of `tokenloc train`; the first one is the default model.
        host: address to listen at; 0.0.0.0 admits everyone who can reach this machine, without a password.
        port: port to listen at; 0 for any free one.
        device: auto, cpu, cuda or mps.
        max_megabytes: largest size of an uploaded file, in millions of bytes.
        max_megapixels: largest width times height of an image, in millions.
        max_queue: number of requests that may wait; further ones get status 503.
    """
    from tokenloc.server.app import create_app
    from tokenloc.server.limits import Limits
    from tokenloc.server.run import listen, load_models, serving

    limits = Limits(round(max_megabytes * 1e6), round(max_megapixels * 1e6), max_queue)
    hosts = {"localhost", "127.0.0.1", "::1", host} if is_loopback(host) else None
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with listen(host, port) as listener:  # before models are loaded, to report a port in use at once
            models = load_models(checkpoints, device)
            with serving(create_app(models, limits, hosts), listener) as url:
                if hosts is None:
                    print_message(f"warning: everyone who can reach {host} can use this server; there is no password")
                print_message(f"serving {', '.join(models)}: open {url} in a browser; press Ctrl-C to stop")
                while True:
                    time.sleep(3600)
    except KeyboardInterrupt:
        print_message("server stopped")
    finally:
        signal.signal(signal.SIGTERM, handler)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"
