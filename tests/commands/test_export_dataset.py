"""`tokenloc export-dataset`: what Ultralytics and pycocotools read of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from pycocotools.coco import COCO

from tests.export.examples import localization
from tests.export.test_yolo import read_as_ultralytics
from tokenloc.cli import main

SIZE = (80, 40)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of `tokenloc localize`: ten images of each of two classes, with confidences 0.1 to 1."""
    records: list[dict[str, Any]] = []
    monkeypatch.chdir(tmp_path)
    for index, label in enumerate(("cat", "dog")):
        for number in range(10):
            image = Path(f"photos/{label}/{number}.png")  # the names are the same in both folders
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE, (index, number, 0)).save(image)
            result = localization(str(image), [[number, 5, 60, 30.5]], index, classes=("cat", "dog"), size=SIZE)
            records.append({**result.to_dict(), "confidence": [(number + 1) / 10]})
    records[0] = {**records[0], "boxes": [[0, 5, 60, 30.5], [70, 0, 80, 40]], "confidence": [0.2, 0.1]}
    records[10] = {**records[10], "boxes": [], "confidence": []}
    second_class = {**records[3], "label": "dog", "class_index": 1}
    save([*records[:4], second_class, *records[4:]])
    return Path("found")


def save(records: list[dict[str, Any]]) -> None:
    Path("found").mkdir(exist_ok=True)
    unreadable = [{"file": "photos/cat/broken.png", "reason": "it is empty"}]
    Path("found/localizations.json").write_text(json.dumps({"localizations": records, "unreadable": unreadable}))


def run(*words: str) -> int:
    return main(["export-dataset", "found", "--out", "dataset", *words])


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_as_pycocotools(split: str) -> dict[bytes, list[tuple[str, list[float]]]]:
    """Return the class and box of each object by the pixels of the image."""
    coco, read = COCO(f"dataset/{split}.json"), {}
    for image in coco.loadImgs(coco.getImgIds()):
        with Image.open(Path("dataset/images", split, image["file_name"])) as opened:
            assert opened.size == (image["width"], image["height"])
            pixels = opened.tobytes()
        objects = coco.loadAnns(coco.getAnnIds(image["id"]))
        read[pixels] = [(coco.loadCats(one["category_id"])[0]["name"], one["bbox"]) for one in objects]
    return read


@pytest.mark.usefixtures("results")
def test_both_formats_have_the_confident_boxes_of_their_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--min_confidence", "0.2", "--val_fraction", "0.25") == 0
    printed = capsys.readouterr().err
    assert "dataset: 15 images in train and 4 in val, 19 boxes\n" in printed
    assert "left out: 1 box below the confidence 0.2, 1 image without a box, 1 unreadable image" in printed
    data = yaml.safe_load(Path("dataset/data.yaml").read_text())
    assert data == {"train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}}
    labels: list[str] = []
    for split, count in (("train", 15), ("val", 4)):
        found = read_as_pycocotools(split)
        assert len(found) == count
        for pixels, objects in found.items():
            label, number = ("cat", "dog")[pixels[0]], pixels[1]
            assert objects == [(label, [number, 5, 60 - number, 25.5])]
        labels += [label for ((label, _),) in found.values()]
        Path("one.yaml").write_text(yaml.safe_dump({**data, "val": f"dataset/images/{split}"}))
        boxes = read_as_ultralytics(Path("one.yaml"))
        assert len(boxes) == count
        for image, ((index, x, y, width, height),) in boxes.items():
            with Image.open(image) as opened:
                red, number = opened.tobytes()[:2]
            assert (index, width, height) == (red, pytest.approx((60 - number) / 80), pytest.approx(25.5 / 40))
            assert (x, y) == (pytest.approx((60 + number) / 160), pytest.approx(35.5 / 80))
    assert sorted(labels) == ["cat"] * 10 + ["dog"] * 9


def test_a_class_may_lose_all_its_images(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = json.loads((results / "localizations.json").read_text())["localizations"]
    save(
        [
            {**record, "confidence": [0.1] * len(record["boxes"])} if record["label"] == "cat" else record
            for record in records
        ]
    )
    assert run("--min_confidence", "0.2") == 0
    assert "no image is left of 1 class: cat" in capsys.readouterr().err
    assert yaml.safe_load(Path("dataset/data.yaml").read_text())["names"] == {0: "dog"}


def test_images_without_an_object_stay(results: Path) -> None:
    records = json.loads((results / "localizations.json").read_text())["localizations"]
    empty = {"label": "_background", "boxes": [], "confidence": []}
    save([record if record["label"] == "dog" else {**record, **empty} for record in records])
    assert run() == 0
    coco = COCO("dataset/train.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["dog"]
    assert (len(coco.getImgIds()), len(coco.getAnnIds())) == (15, 7)
    lines = [path.read_text().split() for path in Path("dataset/labels/train").iterdir()]
    assert sorted(line[0] for line in lines if line) == ["0"] * 7
    assert lines.count([]) == 8


def test_the_split_depends_on_seed_and_relative_names_only(results: Path, tmp_path: Path) -> None:
    assert run() == 0
    first = files(Path("dataset"))
    assert run() == 2
    assert run("--overwrite", "--images", "copy") == 0
    assert files(Path("dataset")) == first
    assert run("--overwrite", "--seed", "1") == 0
    assert files(Path("dataset")) != first
    (results / "localizations.json").write_text(
        (results / "localizations.json").read_text().replace("photos/", f"{tmp_path}/photos/")
    )
    assert run("--overwrite") == 0
    assert files(Path("dataset")) == first


@pytest.mark.usefixtures("results")
@pytest.mark.parametrize(
    ("images", "links", "symbolic"), [("hardlink", 2, False), ("symlink", 1, True), ("copy", 1, False)]
)
def test_images_are_linked_or_copied(images: str, links: int, symbolic: bool) -> None:
    assert run("--images", images) == 0
    placed = [path for split in ("train", "val") for path in Path("dataset/images", split).iterdir()]
    assert len(placed) == 19
    assert {path.is_symlink() for path in placed} == {symbolic}
    assert {path.stat().st_nlink for path in placed} == {links}


@pytest.mark.parametrize(
    ("words", "change", "message"),
    [
        (["--min_confidence", "1.5"], {}, "no box in found has a confidence of 1.5; the highest is 1"),
        (["--val_fraction", "1"], {}, "fractions must be above 0"),
        (
            ["--min_confidence", "0.95"],
            {},
            "too few images to have every class in all 2 parts: cat with 1",
        ),
        (["--min_confidence", "-1"], None, "no box in found has a confidence of -1; there is no box"),
        ([], {"file": "photos/gone.png"}, "no such images (1): photos/gone.png; run this in the folder in which"),
        ([], {"boxes": [[0, 0, 90, 40]]}, "photos/dog/9.png: a box is invalid"),
        ([], {"confidence": []}, "not every box has a confidence"),
        (["--out", "photos", "--overwrite"], {}, "photos holds no data set to replace: it has no data.yaml"),
    ],
)
def test_refused(
    results: Path, words: list[str], change: dict[str, Any] | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records = json.loads((results / "localizations.json").read_text())["localizations"]
    if change is None:
        save([{**record, "boxes": [], "confidence": []} for record in records])
    else:
        save([*records[:-1], {**records[-1], **change}])
    photos = files(Path("photos"))
    assert run(*words) == 2
    assert message in capsys.readouterr().err
    assert not Path("dataset").exists()
    assert files(Path("photos")) == photos
