"""Applications and running servers with tiny models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from tokenloc.inference import Localizer
from tokenloc.server.app import create_app
from tokenloc.server.hosts import valid_hosts
from tokenloc.server.limits import Limits
from tokenloc.server.run import listen, serving

MARKUP = "<img src=x onerror=alert(1)> ${1+1} {{value}} & <script>alert(2)</script>"
LIMITS = Limits(max_bytes=300_000, max_pixels=1_000_000, max_queue=16)
LOCAL_HOSTS = valid_hosts("127.0.0.1")


@dataclass(frozen=True)
class Served:
    url: str
    app: FastAPI

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@pytest.fixture(scope="session")
def localizer(run: Path) -> Localizer:
    return Localizer.from_checkpoint(run / "checkpoints" / "best.ckpt", "cpu", 0.4)


@pytest.fixture(scope="session")
def models(localizer: Localizer) -> dict[str, Localizer]:
    """Two models: "tiny", and one whose name and classes contain markup."""
    classes = tuple(f"{MARKUP} {index}" for index in range(len(localizer.metadata.classes)))
    marked = Localizer(localizer.model, replace(localizer.metadata, classes=classes), 0.7)
    return {"tiny": localizer, MARKUP: marked}


@pytest.fixture
def client(models: dict[str, Localizer]) -> Iterator[TestClient]:
    """A client of an application of its own."""
    app = create_app(models, LIMITS, LOCAL_HOSTS)
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as opened:
        yield opened


@pytest.fixture(scope="session")
def served(models: dict[str, Localizer]) -> Iterator[Served]:
    """A running server."""
    app = create_app(models, LIMITS, LOCAL_HOSTS)
    with serving(app, listen("127.0.0.1", 0)) as url:
        yield Served(url, app)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "my photo (1) é.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 90, 3), np.uint8)).save(path)
    return path
