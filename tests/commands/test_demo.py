"""The demo's settings; the demo itself takes minutes and is run by `make demo`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tokenloc.commands import demo as demo_module
from tokenloc.commands.train import train
from tokenloc.data import create_dataset
from tokenloc.methods import list_methods


@pytest.mark.parametrize("methods", [None, ["tscam", "tscam"]])
def test_the_demo_trains_and_measures(
    methods: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(demo_module, "train", lambda **settings: asked.append(settings))
    demo_module.demo(out=tmp_path, methods=methods)
    assert len(asked) == len(methods or ["one"])


def test_the_demo_shrunk_runs_through(tmp_path: Path) -> None:
    settings = demo_module.demo_settings("tscam", tmp_path / "demo", seed=0, epochs=1)
    settings["data"].options |= {"length": 16}
    train(**settings, device="cpu")
    assert json.loads((tmp_path / "demo/metrics.json").read_text())["images"] == 16


def test_scenes_cannot_be_guessed_from_the_pictures_frame() -> None:
    """The whole picture and its centre hit at IoU 0.5 in few scenes, so the demo's table means something."""
    boxes = np.array([sample.boxes[0] for sample in create_dataset("scenes", None, "test", length=300)])
    for share in (0.7, 1.0):
        low, high = 96 * (1 - share) / 2, 96 * (1 + share) / 2
        width = np.minimum(boxes[:, 2], high) - np.maximum(boxes[:, 0], low)
        height = np.minimum(boxes[:, 3], high) - np.maximum(boxes[:, 1], low)
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        hits = shared / (areas + (high - low) ** 2 - shared) >= 0.5
        assert hits.mean() < 0.25
    assert "tscam" in list_methods()
