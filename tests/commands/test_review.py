"""The review order of `tokenloc localize`."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.export.examples import localization
from tokenloc.cli import main
from tokenloc.commands.journal import FinishedImage, open_journal
from tokenloc.commands.results import doubtful_classes_warning
from tokenloc.commands.review import SHEET_IMAGES, write_review
from tokenloc.data import create_dataset


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "review.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def finished(name: str, *confidence: float, label: str = "bird", **outputs: str) -> FinishedImage:
    boxes = [[0.0, 0.0, 5.0, 5.0]] * len(confidence)
    result = localization(name, boxes, classes=[label], score=0.5, size=(10, 10))
    record = replace(result.record(), confidence=np.array(confidence))
    return FinishedImage(name, "", Path(name).stem, [record], [outputs])


def test_the_least_confident_come_first(tmp_path: Path) -> None:
    (tmp_path / "review.jpg").touch()  # of an earlier run
    with open_journal(tmp_path / "journal", {}) as journal:
        journal.append(finished("b.jpg", 0.5, 0.1))
        journal.append(finished("=a.jpg", 0.25, label="\x07+"))
        journal.append(finished("none.jpg"))
        files = [Path(name) for name in ("b.jpg", "=a.jpg", "broken.jpg", "none.jpg")]
        write_review(tmp_path, tmp_path, files, journal)
    assert [list(row.values()) for row in read_table(tmp_path)] == [
        ["0.0", "none.jpg", "bird", "0.5", "0", ""],
        ["0.25", "'=a.jpg", "\ufffd+", "0.5", "1", ""],
        ["0.5", "b.jpg", "bird", "0.5", "2", ""],
    ]
    assert not (tmp_path / "review.jpg").exists()


def test_the_sheet_shows_the_first_images(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal", {}) as journal:
        names = [f"{index:02d}.jpg" for index in range(SHEET_IMAGES + 3)]
        for index, name in enumerate(names):
            Image.new("RGB", (48, 24), "red" if index < 3 else "blue").save(tmp_path / name)
            journal.append(finished(name, index / 20, image=name))
        write_review(tmp_path, tmp_path, [Path(name) for name in reversed(names)], journal)
    with Image.open(tmp_path / "review.jpg") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    height = 240  # each is scaled to a width of 480
    assert pixels.shape == (30 + 4 * height + 3 * 4, 3 * 480 + 2 * 4, 3)
    top, rest = pixels[30 : 30 + height], pixels[30 + height + 4 :]
    assert ((top[..., 0] > 200) & (top[..., 2] < 60)).mean() > 0.95
    assert ((rest[..., 2] > 200) & (rest[..., 0] < 60)).mean() > 0.9


def test_localize_writes_confidence_and_review_order(run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    scenes = create_dataset("scenes", None, "test", size=40, length=6)
    for index in range(6):
        scenes.image(index).save(tmp_path / "photos" / f"{index}.png")
    words = ["localize", str(run / "checkpoints/best.ckpt"), str(tmp_path / "photos"), "--out", str(tmp_path)]
    assert main([*words, "--objects", "all", "--top_k", "2", "--format", "csv", "label-studio"]) == 0
    entries = json.loads((tmp_path / "localizations.json").read_text())["localizations"]
    assert all(len(entry["confidence"]) == len(entry["boxes"]) for entry in entries)
    assert all(0 <= confidence <= entry["score"] + 1e-4 for entry in entries for confidence in entry["confidence"])
    first = {entry["file"]: entry["confidence"][0] for entry in entries[::2]}
    rows = read_table(tmp_path)
    assert [row["file"] for row in rows] == sorted(first, key=lambda file: first[file])
    assert [float(row["confidence"]) for row in rows] == pytest.approx([first[row["file"]] for row in rows], abs=2e-6)
    for row in rows:
        with Image.open(tmp_path / row["image"]) as drawn:
            assert drawn.width > 40
    with Image.open(tmp_path / "review.jpg") as sheet:
        assert sheet.width == 3 * 480 + 2 * 4
    with (tmp_path / "boxes.csv").open(encoding="utf-8", newline="") as file:
        cells = [float(row["confidence"]) for row in csv.DictReader(file) if row["confidence"]]
    assert cells == pytest.approx([confidence for entry in entries for confidence in entry["confidence"]], abs=1e-6)
    tasks = json.loads((tmp_path / "label-studio.json").read_text())
    assert [task["predictions"][0]["score"] for task in tasks] == pytest.approx(list(first.values()), abs=2e-6)


def test_classes_of_low_confidence_are_reported() -> None:
    low, high = (
        [finished(f"{i}", 0.1 * i, 0.9, label="low").records[0] for i in range(5)],
        finished("a", 0.9).records * 5,
    )
    none, few = finished("b", label="empty").records * 9, finished("c", 0.1, label="few").records * 4
    warning = doubtful_classes_warning([*low, *high, *none, *few])
    assert warning is not None
    assert "most boxes of 1 of 2 classes seem to be wrong (mean confidence: low 0.20)" in warning
    assert doubtful_classes_warning([*high, *none, *few]) is None
