"""``tokenloc serve``: a web page and a REST API."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from tokenloc.commands.console import print_message
from tokenloc.models.hub import run_folder


def serve(
    checkpoints: list[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    device: str = "auto",
    max_megabytes: float = 20.0,
    max_megapixels: float = 50.0,
    max_queue: int = 32,
    allowed_hosts: list[str] | None = None,
    label_studio: str | None = None,
    images: Path | None = None,
    corrections: Path | None = None,
) -> None:
    """Serve a web page and a REST API: upload an image, see its boxes and heatmap, download the annotation.

    Nothing is sent to another machine, and no image is stored: results stay in memory for ten minutes. With
    label_studio, the first model is also an ML backend for it, at /label-studio.

    Args:
        checkpoints: checkpoints of `tokenloc train`; the first one is the default model.
        host: address to listen at; 0.0.0.0 admits everyone who can reach this machine, without a password.
        port: port to listen at; 0 for any free one.
        device: auto, cpu, cuda or mps.
        max_megabytes: largest size of an uploaded file, in millions of bytes.
        max_megapixels: largest width times height of an image, in millions.
        max_queue: number of requests that may wait; further ones get status 503.
        allowed_hosts: further host names in the address of the page, behind a proxy or in a local network, such as
            boxes.example.com, *.example.com, or * for any; a server that listens to others always accepts IP addresses.
        label_studio: address of Label Studio, such as http://localhost:8080, whose tasks get predictions. The
            environment variable LABEL_STUDIO_API_KEY has the access token with which their images are read.
        images: Label Studio's document root, to read its local files from there.
        corrections: folder for the corrections from Label Studio; by default label-studio in the run's folder.
    """
    from tokenloc.server.app import create_app
    from tokenloc.server.hosts import is_loopback, valid_hosts
    from tokenloc.server.label_studio import open_backend
    from tokenloc.server.limits import Limits
    from tokenloc.server.run import listen, load_models, scratch_folder, serving
    from tokenloc.server.task_images import TOKEN, TaskImages

    if label_studio is None and (images or corrections):
        raise ValueError("--images and --corrections need --label_studio URL, such as http://localhost:8080")
    limits = Limits(round(max_megabytes * 1e6), round(max_megapixels * 1e6), max_queue)
    hosts = valid_hosts(host, allowed_hosts or ())
    handlers = {number: signal.signal(number, signal.default_int_handler) for number in _signals()}
    try:
        with ExitStack() as stack:
            listener = stack.enter_context(listen(host, port))  # first, to report a port in use at once
            models = load_models(checkpoints, device)
            backend = None
            if label_studio is not None:
                folder = corrections or run_folder(checkpoints[0]) / "label-studio"
                reader = TaskImages(label_studio, os.environ.get(TOKEN), images, limits.max_bytes)
                backend = stack.enter_context(open_backend(models, reader, folder, limits))
            app = create_app(models, limits, hosts, stack.enter_context(scratch_folder()), backend)
            with serving(app, listener) as url:
                if backend is not None:
                    print_message(f"ML backend for Label Studio: {url}/label-studio, {backend.version}")
                if not is_loopback(host):
                    print_message(f"warning: everyone who can reach {host} can use this server; there is no password")
                    names = ", ".join(sorted(set(hosts.names) - {host}))
                    print_message(f"it answers to IP addresses and {names}; add other names with --allowed_hosts")
                print_message(f"serving {', '.join(models)}: open {url} in a browser; press Ctrl-C to stop")
                while True:
                    time.sleep(3600)
    except KeyboardInterrupt:
        with suppress(OSError):  # after SIGHUP the terminal may be gone
            print_message("server stopped")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _signals() -> list[signal.Signals]:
    """Return the signals that end the server as Ctrl-C does: SIGTERM, and SIGHUP unless nohup ignores it."""
    wanted = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    return [number for number in wanted if signal.getsignal(number) is not signal.SIG_IGN]
