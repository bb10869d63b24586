"""``tokenloc serve``: a page to drop images on."""

from __future__ import annotations

import signal
import time
from ipaddress import ip_address
from pathlib import Path

from tokenloc.commands.console import print_message
from tokenloc.server import Limits, free_port, load_models, private_folder, serving


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
    """Serve a page in the browser: drop an image, see boxes and heatmap, download the annotation.

    Ends with Ctrl-C. Nothing is sent to any other machine; uploaded images lie in a temporary folder, for an hour at
    most, which goes when the server ends.

    Args:
        checkpoints: checkpoints of `tokenloc train`; each is one entry of the page's list of models.
        host: the address to listen at. By default only this machine can reach the page; 0.0.0.0 lets everyone who
            reaches this machine use it, without a password.
        port: at that address; 0 takes any free one.
        device: auto, cpu, cuda or mps.
        max_megabytes: largest file that is taken, in millions of bytes.
        max_megapixels: largest width times height of an image, in millions.
        max_queue: requests that may wait; more are told that the server is busy.
    """
    limits = _limits(max_megabytes, max_megapixels, max_queue)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the images go then, too
    try:
        with private_folder() as folder:
            free_port(host, port)  # what is wrong with it is told before models are loaded
            models = load_models(checkpoints, device, limits.max_pixels)
            with serving(models, folder, host, port, limits) as address:
                if not is_loopback(host):
                    print_message(f"warning: everyone who reaches {host} can use this page; there is no password")
                print_message(f"{', '.join(models.localizers)}: open {address} in a browser; Ctrl-C ends")
                while True:
                    time.sleep(3600)
    except KeyboardInterrupt:
        print_message("ended; the uploaded images are removed")
    finally:
        signal.signal(signal.SIGTERM, before)


def _limits(max_megabytes: float, max_megapixels: float, max_queue: int) -> Limits:
    limits = Limits(round(max_megabytes * 1e6), round(max_megapixels * 1e6), max_queue)
    for name, value in vars(limits).items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    return limits


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address.

    >>> is_loopback("localhost"), is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
