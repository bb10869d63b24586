"""`tokenloc boxes`: annotation files from maps of other code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.test_cli import images as scenes
from tests.export.examples import read_annotations
from tokenloc.cli import main
from tokenloc.inference import Localizer
from tokenloc.metrics.stored_maps import open_maps, writing_maps


def images(folder: Path, names: tuple[str, ...] = ("cat/1.jpg", "dog/2.png")) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (448, 336)).save(folder / name)
    return folder


def save_map(path: Path, box: tuple[int, int, int, int], size: tuple[int, int], low: float, high: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    map_ = np.full(size[::-1], low, np.float32)
    x0, y0, x1, y1 = box
    map_[y0:y1, x0:x1] = high
    np.save(path, map_)


def test_boxes_of_maps_of_any_size_and_range(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos, maps, out = images(tmp_path / "photos"), tmp_path / "maps", tmp_path / "out"
    save_map(maps / "cat/1.npy", (112, 84, 336, 252), (448, 336), -3.0, 40.0)  # as large as its image
    save_map(maps / "dog/2.npy", (4, 4, 12, 12), (16, 16), 0.0, 0.5)  # a grid of patches
    words = ["boxes", str(photos), "--maps", str(maps), "--out", str(out), "--format", "coco,voc"]
    assert main([*words, "--labels_from_folders", "--threshold", "0.5"]) == 0
    for name in ("coco", "voc"):
        cat, dog = read_annotations(name, out)
        assert [label for label, _ in cat.objects + dog.objects] == ["cat", "dog"]
        assert cat.objects[0][1] == (112, 84, 336, 252)
        assert dog.objects[0][1] == pytest.approx((112, 84, 336, 252), abs=2)  # half a pixel of 224
    assert main(words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--threshold", "0.5", "--label", "animal"]) == 0
    assert {label for one in read_annotations("coco", out) for label, _ in one.objects} == {"animal"}


def test_all_objects_and_the_default_threshold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = images(tmp_path / "photos", ("1.jpg",))
    map_ = np.zeros((336, 448), np.float32)
    map_[10:110, 10:210], map_[200:300, 300:400] = 1.0, 0.3
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/1.npy", map_)
    words = ["boxes", str(photos / "*.jpg"), "--maps", str(tmp_path / "maps"), "--out", str(tmp_path / "out")]
    assert main([*words, "--objects", "all"]) == 0
    assert "map threshold 0.2, the default; change it with --threshold" in capsys.readouterr().err
    (only,) = read_annotations("coco", tmp_path / "out")
    assert only.objects == (("object", (10, 10, 210, 110)), ("object", (300, 200, 400, 300)))


def test_images_without_a_map_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = images(tmp_path / "photos", ("1.jpg", "2.jpg", "3.jpg"))
    save_map(tmp_path / "maps/1.npy", (2, 2, 9, 9), (14, 14), 0.0, 1.0)
    save_map(tmp_path / "maps/9.npy", (2, 2, 9, 9), (14, 14), 0.0, 1.0)
    (tmp_path / "maps/2.npy").write_bytes(b"no map")
    words = ["boxes", str(photos), "--maps", str(tmp_path / "maps"), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert all(part in printed for part in ("1 maps match no image: 9", "2 of 3 images", "2.npy", "3.jpg has no map"))
    assert [one.file_name for one in read_annotations("coco", tmp_path / "out")] == ["1.jpg"]


def test_boxes_of_saved_maps_are_those_of_localize(run: Path, tmp_path: Path) -> None:
    photos, localizer = scenes(tmp_path / "photos"), Localizer.from_checkpoint(run, "cpu")
    found = [localizer(path) for path in sorted(photos.iterdir())]
    with writing_maps(tmp_path / "maps", {"threshold": localizer.threshold, "input_frame": "resize"}) as writer:
        for result in found:
            tensor, frame = localizer.predictor.transform(Image.open(result.source))
            map_ = localizer.predictor.class_maps(tensor[None]).maps[0, 0].numpy()
            writer.add(Path(result.source).name, map_, [result.class_index], frame, result.score)
    assert len(open_maps(tmp_path / "maps").ids) == 3
    words = ["boxes", str(photos), "--maps", str(tmp_path / "maps"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    stored = json.loads((tmp_path / "out/coco.json").read_text())["annotations"]
    corners = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in stored)]
    np.testing.assert_allclose(corners, np.concatenate([result.boxes for result in found]), atol=1e-3)
