"""A server with tiny models, once for all tests of the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenloc.inference import Localizer
from tokenloc.server import Limits, Models, private_folder, serving

MARKUP = "<img src=x onerror=alert(1)> ${1+1} {{value}} & <script>alert(2)</script>"
GRADIO_WARNS = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio.queueing")
"""Gradio's queue does what pandas is about to drop."""

LIMITS = Limits(max_bytes=300_000, max_pixels=1_000_000, max_queue=16)


@dataclass(frozen=True)
class Served:
    address: str
    folder: Path
    localizer: Localizer
    models: Models

    @property
    def port(self) -> int:
        return int(self.address.rstrip("/").rpartition(":")[2])


@pytest.fixture(scope="session")
def localizer(run: Path) -> Localizer:
    return Localizer.from_checkpoint(run / "checkpoints" / "best.ckpt", "cpu", 0.4)


@pytest.fixture(scope="session")
def served(localizer: Localizer) -> Iterator[Served]:
    """Two models: "tiny", and "marked", whose classes are called as an attacker would call them."""
    pytest.importorskip("gradio")
    classes = tuple(f"{MARKUP} {index}" for index in range(len(localizer.metadata.classes)))
    marked = Localizer(localizer.model, replace(localizer.metadata, classes=classes), 0.7)
    models = Models({"tiny": localizer, "marked": marked}, LIMITS.max_pixels)
    with private_folder() as folder, serving(models, folder, "127.0.0.1", 0, LIMITS) as address:
        yield Served(address, folder, localizer, models)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "my photo (1) é.png"
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (60, 90, 3), np.uint8)).save(path)
    return path
