"""`tokenloc autolabel`, and the labels of folders."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.docs.trees import CLASSES, images
from tokenloc.cli import main
from tokenloc.models.checkpoint import read_metadata

SMALL = {
    "model.pretrained": "false",
    "backbone": "vit_tiny_patch16_224",
    "model.backbone_options": "{patch_size: 8, embed_dim: 24, depth: 2, num_heads: 2}",
    "data.resize": "48",
    "data.crop": "32",
    "epochs": "1",
    "batch": "8",
    "device": "cpu",
}


def read(out: Path) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads((out / "localizations.json").read_text())["localizations"]
    return results


def test_from_photographs_to_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "test"):  # without val
        images(tmp_path / "photos" / split, CLASSES, 4, split)
    command = [
        "autolabel",
        str(tmp_path / "photos"),
        "--out",
        str(tmp_path / "out"),
        *(f"--{flag}={value}" for flag, value in SMALL.items()),
    ]
    assert main(command) == 0, capsys.readouterr()
    results = read(tmp_path / "out")
    assert len(results) == 24
    assert all(Path(result["file"]).parent.name == result["label"] for result in results)
    threshold = read_metadata(tmp_path / "out/training/checkpoints/best.ckpt").threshold
    assert threshold is not None
    assert threshold.source.startswith("chosen without boxes, by evidence on train of folder (9 images)")
    assert {result["threshold"] for result in results} == {threshold.value}
    assert len(json.loads((tmp_path / "out/coco.json").read_text())["images"]) == 24
    with (tmp_path / "out/review.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24
    assert main(command) == 2  # nothing is overwritten
    assert "coco.json" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    assert read(tmp_path / "out") == results


def test_an_output_folder_among_the_photographs_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["autolabel", str(tmp_path), "--out", str(tmp_path / "a/b")]) == 2
    assert "of which every image is learned; choose a folder elsewhere" in capsys.readouterr().err
