"""What `tokenloc localize` says to check first."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenloc.cli import main
from tokenloc.commands.check_first import SHOWN, write_check_first
from tokenloc.commands.journal import Finished, open_journal
from tokenloc.data import create_dataset
from tokenloc.inference import Finding


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "check_first.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def finished(name: str, *trust: float, label: str = "bird", shown: dict[str, str] | None = None) -> Finished:
    finding = Finding(
        source=name,
        label=label,
        class_index=0,
        score=0.5,
        boxes=np.array([[0.0, 0.0, 5.0, 5.0]] * len(trust)).reshape(-1, 4),
        trust=np.array(trust),
        size=(10, 10),
        threshold=0.2,
        protocol="standard",
    )
    return Finished(name, Path(name).stem, [finding], [shown or {}])


def test_the_least_trusted_stand_at_the_top(tmp_path: Path) -> None:
    (tmp_path / "check_first.jpg").touch()  # of an earlier run
    with open_journal(tmp_path / "journal", {}) as journal:
        journal.add(finished("b.jpg", 0.5, 0.1))
        journal.add(finished("=a.jpg", 0.25, label="\x07+"))
        journal.add(finished("none.jpg"))
        write_check_first(tmp_path, [Path(name) for name in ("b.jpg", "=a.jpg", "broken.jpg", "none.jpg")], journal)
    assert [list(row.values()) for row in table_of(tmp_path)] == [
        ["0.0", "none.jpg", "bird", "0.5", "0", ""],
        ["0.25", "'=a.jpg", "\ufffd+", "0.5", "1", ""],
        ["0.5", "b.jpg", "bird", "0.5", "2", ""],
    ]
    assert not (tmp_path / "check_first.jpg").exists()


def test_a_sheet_shows_the_first_of_them(tmp_path: Path) -> None:
    with open_journal(tmp_path / "journal", {}) as journal:
        names = [f"{place:02d}.jpg" for place in range(SHOWN + 3)]
        for place, name in enumerate(names):
            Image.new("RGB", (48, 24), "red" if place < 3 else "blue").save(tmp_path / name)
            journal.add(finished(name, place / 20, shown={"picture": name}))
        write_check_first(tmp_path, [Path(name) for name in reversed(names)], journal)
    with Image.open(tmp_path / "check_first.jpg") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    height = 240  # each is scaled to a width of 480
    assert pixels.shape == (28 + 4 * (height + 4), 3 * 480 + 2 * 4, 3)
    top, rest = pixels[28 : 28 + height], pixels[28 + height + 4 :]
    assert ((top[..., 0] > 200) & (top[..., 2] < 60)).mean() > 0.95
    assert ((rest[..., 2] > 200) & (rest[..., 0] < 60)).mean() > 0.9


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    scenes = create_dataset("scenes", None, "test", size=40, length=6)
    for index in range(6):
        scenes.image(index).save(folder / f"{index}.png")
    return folder


def test_localize_writes_trust_and_the_table(run: Path, photographs: Path, tmp_path: Path) -> None:
    words = ["localize", str(run / "checkpoints/best.ckpt"), str(photographs), "--out", str(tmp_path)]
    assert main([*words, "--objects", "all", "--top_k", "2", "--format", "csv", "label-studio"]) == 0
    entries = json.loads((tmp_path / "localizations.json").read_text())["localizations"]
    assert all(len(entry["trust"]) == len(entry["boxes"]) for entry in entries)
    assert all(0 <= trust <= entry["score"] + 1e-4 for entry in entries for trust in entry["trust"])
    first = {entry["file"]: entry["trust"][0] for entry in entries[::2]}
    rows = table_of(tmp_path)
    assert [row["file"] for row in rows] == sorted(first, key=lambda file: first[file])
    assert [float(row["trust"]) for row in rows] == pytest.approx([first[row["file"]] for row in rows], abs=2e-6)
    for row in rows:
        with Image.open(tmp_path / row["picture"]) as drawn:
            assert drawn.width > 40
    with Image.open(tmp_path / "check_first.jpg") as sheet:
        assert sheet.width == 3 * 480 + 2 * 4
    with (tmp_path / "boxes.csv").open(encoding="utf-8", newline="") as file:
        cells = [float(row["trust"]) for row in csv.DictReader(file) if row["trust"]]
    assert cells == pytest.approx([trust for entry in entries for trust in entry["trust"]], abs=1e-6)
    tasks = json.loads((tmp_path / "label-studio.json").read_text())
    assert [task["predictions"][0]["score"] for task in tasks] == pytest.approx(list(first.values()), abs=2e-6)


def test_a_photograph_without_a_box_is_checked_first(run: Path, photographs: Path, tmp_path: Path) -> None:
    words = ["localize", str(run / "checkpoints/best.ckpt"), str(photographs), "--out", str(tmp_path)]
    assert main([*words, "--min_score", "1", "--pictures", "false"]) == 0
    assert [(row["trust"], row["boxes"], row["picture"]) for row in table_of(tmp_path)] == [("0.0", "0", "")] * 6
    assert not (tmp_path / "check_first.jpg").exists()
