"""A stand-in for Label Studio, a document root, and a backend that reads images from both."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.server.conftest import LIMITS
from tests.server.label_studio.stand_in import LOCAL, Client, LabelStudio
from tokenloc.inference import Localizer
from tokenloc.server.task_images import TaskImages


@pytest.fixture
def label_studio(photo: Path) -> Iterator[str]:
    LabelStudio.photo, LabelStudio.asked = photo.read_bytes(), []
    with ThreadingHTTPServer(("127.0.0.1", 0), LabelStudio) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def root(tmp_path: Path, photo: Path) -> Path:
    """A document root with a photograph, and a link and files outside of it."""
    folder = tmp_path / "root"
    (folder / "photos").mkdir(parents=True)
    (folder / "photos" / Path(LOCAL).name).write_bytes(photo.read_bytes())
    (folder / "out.png").symlink_to(photo)
    (folder / "inside.png").symlink_to(folder / "photos" / Path(LOCAL).name)
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.fixture
def images(label_studio: str, root: Path) -> TaskImages:
    return TaskImages(label_studio, "legacy", root, LIMITS.max_bytes)


@pytest.fixture
def backend(localizer: Localizer, tmp_path: Path, images: TaskImages) -> Iterator[Client]:
    opened = Client(localizer, tmp_path / "corrections", images)
    yield opened
    opened.close()
