"""COCO JSON and Pascal VOC XML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tokenloc.data.annotations import half_open, match, read_json, read_voc

COCO: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a\\1.jpg", "width": 30, "height": 20}, {"id": 8, "file_name": "2.jpg"}],
    "annotations": [
        {"image_id": 7, "category_id": 3, "bbox": [1.5, 2, 10, 5]},
        {"image_id": 7, "category_id": 3, "bbox": [0, 0, 30, 20], "iscrowd": 1},
        {"image_id": 7, "category_id": 4, "bbox": [0, 0, 3, 2]},
        {"image_id": 8, "category_id": 4, "segmentation": []},
    ],
    "categories": [{"id": 3, "name": "cat"}],
}


def test_coco_is_read(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(COCO))
    first, second = read_json(path)
    assert (first.file_name, first.size) == ("a/1.jpg", (30, 20))
    assert first.objects == (("cat", (1.5, 2, 11.5, 7)), ("", (0, 0, 3, 2)))
    assert (second.file_name, second.objects, second.size) == ("2.jpg", (), None)
    assert first.boxes_of("cat", ["cat", "dog"]).tolist() == [[1.5, 2, 11.5, 7], [0, 0, 3, 2]]
    assert first.boxes_of("dog", ["cat", "dog"]).tolist() == [[0, 0, 3, 2]]
    assert first.boxes_of("dog", ["cat", "dog", ""]).shape == (0, 4)


def _coco_of(number: str) -> str:
    image = '{"id": 1, "file_name": "a"}'
    return f'{{"images": [{image}], "annotations": [{{"image_id": 1, "bbox": [1, 2, 3, {number}]}}]}}'


def _task_of(labels: str) -> str:
    value = f'{{"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": {labels}}}'
    region = f'{{"type": "rectanglelabels", "original_width": 40, "original_height": 40, "value": {value}}}'
    return f'[{{"data": {{"image": "1.png"}}, "annotations": [{{"result": [{region}]}}]}}]'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"coco.json: not valid COCO or Label Studio tasks \(JSONDecodeError.*export it again"),
        ('{"images": []}', r"coco.json: not valid COCO \(KeyError: 'annotations'\)"),
        ('{"images": [{"id": 1}], "annotations": []}', r"coco.json: not valid COCO \(KeyError: 'file_name'\)"),
        ('{"images": [], "annotations": [{"image_id": 5}]}', r"image_id 5 is not among the images"),
        ('{"images": 3, "annotations": []}', r"coco.json: not valid COCO \(TypeError"),
        (
            '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3]}]}',
            r"coco.json: not valid COCO \(ValueError",
        ),
        (
            _coco_of("Infinity"),
            r"coco.json: not valid COCO or .* \(ValueError: Infinity is not a JSON number",
        ),
        (_coco_of("1" * 400), r"coco.json: not valid COCO \(OverflowError"),
        ("[" * 200_000, r"coco.json: not valid COCO or Label Studio tasks \(ValueError: it is nested too deeply"),
        (_task_of("[]"), r"a box has \[\] as its rectanglelabels, expected the name of a class; label it"),
        (_task_of('"cat"'), "a box has 'cat' as its rectanglelabels"),
        (_task_of("[3]"), r"a box has \[3\] as its rectanglelabels"),
    ],
)
def test_invalid_coco_is_reported(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "coco.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_json(path)
    with pytest.raises(FileNotFoundError, match=r"no.json: no such annotation file; check option annotations"):
        read_json(tmp_path / "no.json")


def _voc(folder: Path, body: str) -> Path:
    (folder / "1.xml").write_text(f"<annotation><filename>cat/one.jpg</filename>{body}</annotation>")
    return folder / "1.xml"


BOX = "<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>20.5</ymax></bndbox>"


def test_voc_counts_from_1_and_includes_the_last_pixel(tmp_path: Path) -> None:
    size = "<size><width>30</width><height>20</height></size>"
    annotation = read_voc(_voc(tmp_path, f"{size}<object><name> cat </name>{BOX}</object>"))
    assert annotation.objects == (("cat", (0, 2, 10, 20.5)),)
    assert (annotation.file_name, annotation.size) == ("cat/one.jpg", (30, 20))
    assert read_voc(tmp_path / "1.xml", counted_from=0).objects == (("cat", (1, 3, 10, 20.5)),)
    assert read_voc(_voc(tmp_path, "<size><width>0</width><height>0</height></size>")).size is None
    annotation = read_voc(_voc(tmp_path, f"<object>{BOX.replace('>1<', '>0<')}</object>"))
    assert (annotation.objects, annotation.size) == ((("", (0, 2, 10, 20.5)),), None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("<object>", r"1.xml: not a Pascal VOC XML file \(mismatched tag.*remove it"),
        ("<object><name>cat</name></object>", r"1.xml: an object lacks a bndbox with xmin, ymin, xmax, ymax"),
        (f"<object>{BOX.replace('20.5', 'x')}</object>", r"1.xml: 'x' is not a number"),
    ],
)
def test_invalid_voc_is_reported(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_voc(_voc(tmp_path, body))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_never_expanded(tmp_path: Path, encoding: str) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("42")
    entities = "".join(f'<!ENTITY a{n} "&a{n - 1};&a{n - 1};">' for n in range(1, 60))
    bombs = [
        f'<!DOCTYPE annotation [<!ENTITY a0 "x">{entities}]><annotation>&a59;</annotation>',
        f'<!DOCTYPE annotation [<!ENTITY s SYSTEM "{secret.as_uri()}">]><annotation>&s;</annotation>',
        '<!DOCTYPE annotation SYSTEM "nowhere.dtd"><annotation/>',
    ]
    for bomb in bombs:
        (tmp_path / "1.xml").write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>{bomb}'.encode(encoding))
        with pytest.raises(ValueError, match=r"1.xml: not a Pascal VOC XML file \(it has a document type declaration"):
            read_voc(tmp_path / "1.xml")


def test_names_match_folder_by_folder() -> None:
    ids = {name: name for name in ("train/cat/1.jpg", "train/dog/1.jpg", "train/cat/2.jpg")}
    names = ["cat/1.jpg", "home/data/train/dog/1.jpg", "2.jpg", "at/2.jpg", "3.jpg"]
    assert match(names, ids, Path("x")) == {
        "train/cat/1.jpg": "cat/1.jpg",
        "train/dog/1.jpg": "home/data/train/dog/1.jpg",
        "train/cat/2.jpg": "2.jpg",
    }


def test_ambiguous_names_are_refused() -> None:
    ids = {name: name for name in ("cat/1.jpg", "dog/1.jpg")}
    with pytest.raises(ValueError, match=r"x: 1.jpg matches several images: cat/1.jpg, dog/1.jpg; add its folder"):
        match(["1.jpg"], ids, Path("x"))
    with pytest.raises(ValueError, match=r"x: a/cat/1.jpg and cat/1.jpg both match cat/1.jpg; keep one"):
        match(["a/cat/1.jpg", "cat/1.jpg"], ids, Path("x"))


def test_corners_become_half_open_boxes() -> None:
    assert half_open([1, 1, 12, 8], 1) == half_open([0, 0, 12, 8], 0) == (0, 0, 12, 8)  # the whole image of 12x8
    assert half_open([3, 4, 3, 4], 1) == (2, 3, 3, 4)  # one pixel
    assert half_open([0, 5, 9, 9], 1) == (0, 4, 9, 9)
    assert half_open([-3, -1, 9, 9], 0) == (-3, -1, 9, 9)  # impossible, which check() reports
