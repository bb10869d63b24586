"""What `tokenloc localize` says to check first."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenloc.cli import main
from tokenloc.commands.journal import Finished, open_journal
from tokenloc.commands.review import SHOWN, write_review
from tokenloc.data import create_dataset
from tokenloc.inference import LocalizationRecord


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "review.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def finished(name: str, *confidence: float, label: str = "bird", shown: dict[str, str] | None = None) -> Finished:
    finding = LocalizationRecord(
        source=name,
        label=label,
        class_index=0,
        score=0.5,
        boxes=np.array([[0.0, 0.0, 5.0, 5.0]] * len(confidence)).reshape(-1, 4),
        confidence=np.array(confidence),
        size=(10, 10),
        threshold=0.2,
        protocol="standard",
    )
    return Finished(name, Path(name).stem, [finding], [shown or {}])


def test_the_least_trusted_stand_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "review.jpg").touch()  # of an earlier run
    with open_journal(tmp_path / "journal", {}) as journal:
        journal.add(finished("b.jpg", 0.5, 0.1))
        journal.add(finished("=a.jpg", 0.25, label="\x07+"))
        journal.add(finished("none.jpg"))
        write_review(tmp_path, [Path(name) for name in ("b.jpg", "=a.jpg", "broken.jpg", "none.jpg")], journal)
    assert [list(row.values()) for row in table_of(tmp_path)] == [
        ["0.0", "none.jpg", "bird", "0.5", "0", ""],
        ["0.25", "'=a.jpg", "\ufffd+", "0.5", "1", ""],
        ["0.5", "b.jpg", "bird", "0.5", "2", ""],
    ]
    assert not (tmp_path / "review.jpg").exists()


def test_a_sheet_shows_the_first_of_them(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal", {}) as journal:
        names = [f"{place:02d}.jpg" for place in range(SHOWN + 3)]
        for place, name in enumerate(names):
            Image.new("RGB", (48, 24), "red" if place < 3 else "blue").save(tmp_path / name)
            journal.add(finished(name, place / 20, shown={"image": name}))
        write_review(tmp_path, [Path(name) for name in reversed(names)], journal)
    with Image.open(tmp_path / "review.jpg") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    height = 240  # each is scaled to a width of 480
    assert pixels.shape == (28 + 4 * (height + 4), 3 * 480 + 2 * 4, 3)
    top, rest = pixels[28 : 28 + height], pixels[28 + height + 4 :]
    assert ((top[..., 0] > 200) & (top[..., 2] < 60)).mean() > 0.95
    assert ((rest[..., 2] > 200) & (rest[..., 0] < 60)).mean() > 0.9


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    scenes = create_dataset("scenes", None, "test", size=40, length=6)
    for index in range(6):
        scenes.image(index).save(folder / f"{index}.png")
    return folder


def test_localize_writes_trust_and_the_table(run: Path, images: Path, tmp_path: Path) -> None:
    words = ["localize", str(run / "checkpoints/best.ckpt"), str(images), "--out", str(tmp_path)]
    assert main([*words, "--objects", "all", "--top_k", "2", "--format", "csv", "label-studio"]) == 0
    entries = json.loads((tmp_path / "localizations.json").read_text())["localizations"]
    assert all(len(entry["confidence"]) == len(entry["boxes"]) for entry in entries)
    assert all(0 <= confidence <= entry["score"] + 1e-4 for entry in entries for confidence in entry["confidence"])
    first = {entry["file"]: entry["confidence"][0] for entry in entries[::2]}
    rows = table_of(tmp_path)
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


def test_a_image_without_a_box_is_checked_first(run: Path, images: Path, tmp_path: Path) -> None:
    words = ["localize", str(run / "checkpoints/best.ckpt"), str(images), "--out", str(tmp_path)]
    assert main([*words, "--min_score", "1", "--images", "false"]) == 0
    assert [(row["confidence"], row["boxes"], row["image"]) for row in table_of(tmp_path)] == [("0.0", "0", "")] * 6
    assert not (tmp_path / "review.jpg").exists()
