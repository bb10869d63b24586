"""A small version of the demo; the full one takes minutes and is run by `make demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tokenloc.commands import demo as demo_module
from tokenloc.commands.demo import demo
from tokenloc.data import create_dataset


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = demo_module.demo_settings

    def few(*args: Any) -> dict[str, Any]:
        chosen = settings(*args)
        chosen["data"].options["length"] = 16
        return chosen

    monkeypatch.setattr(demo_module, "demo_settings", few)
    monkeypatch.setattr(demo_module, "LENGTHS", {"val": 6, "test": 8})


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_demo_compares_methods_and_refined_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo(out=tmp_path, methods=["tscam", "tokencut"], epochs=1)
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert list(content["methods"]) == ["tscam", "tokencut"]
    for method, results in content["methods"].items():
        assert results["plain"]["images"] == results["refined"]["images"] == 8
        assert results["plain"]["constant_boxes"]["whole-image box"]["0.5"] < 50
        run = json.loads((tmp_path / method / "metrics.json").read_text())
        assert run["metrics"] == results["plain"]["metrics"]
    with Image.open(tmp_path / "figures/summary.png") as image:
        assert image.width > 3 * 144
        assert image.height > 8 * 144
    printed = capsys.readouterr().err
    assert all(text in printed for text in ("tokencut", "centre 70 % box", "IoU.9*"))


@pytest.mark.usefixtures("small")
def test_an_unknown_method_is_reported_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown method 'tscan'; did you mean 'tscam'"):
        demo(out=tmp_path, methods=["cam", "tscan"])
    assert not list(tmp_path.iterdir())


def test_boxes_that_ignore_the_image_rarely_hit() -> None:
    """The whole image and its centre reach IoU 0.5 in few scenes, so the demo's table is meaningful."""
    boxes = np.array([sample.boxes[0] for sample in create_dataset("scenes", None, "test", length=300)])
    for fraction in (0.7, 1.0):
        low, high = 96 * (1 - fraction) / 2, 96 * (1 + fraction) / 2
        sides = np.minimum(boxes[:, 2:], high) - np.maximum(boxes[:, :2], low)
        intersection = np.maximum(sides, 0).prod(axis=1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
        hits = intersection / (areas + (high - low) ** 2 - intersection) >= 0.5
        assert hits.mean() < 0.25
