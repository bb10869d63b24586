"""Pascal VOC as torchvision reads it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import VOCDetection

from tests.export.examples import CLASSES, HOSTILE, localization
from tokenloc.export import FORMATS
from tokenloc.export.voc import voc_box


def test_torchvision_reads_it(tmp_path: Path) -> None:
    boxes = [[0, 0, 1, 1], [10.25, 5.5, 80, 40]]
    FORMATS["voc"].write([localization("a.jpg", boxes, 1), localization("b.jpg", [])], CLASSES, tmp_path)
    devkit = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "ImageSets/Main"):
        (devkit / folder).mkdir(parents=True)
    (tmp_path / "voc/Annotations").rename(devkit / "Annotations")
    (devkit / "ImageSets/Main/train.txt").write_text("a\nb\n")
    for name in "ab":
        Image.new("RGB", (80, 40)).save(devkit / f"JPEGImages/{name}.jpg")
    (_, first), (_, second) = VOCDetection(tmp_path, "2012", "train")
    corners = [{key: int(value) for key, value in one["bndbox"].items()} for one in first["annotation"]["object"]]
    assert corners == [
        {"xmin": 1, "ymin": 1, "xmax": 1, "ymax": 1},
        {"xmin": 11, "ymin": 7, "xmax": 80, "ymax": 40},
    ]
    assert [one["name"] for one in first["annotation"]["object"]] == [CLASSES[1]] * 2
    assert first["annotation"]["filename"] == "a.jpg"
    assert first["annotation"]["size"] == {"width": "80", "height": "40", "depth": "3"}
    assert "object" not in second["annotation"] or second["annotation"]["object"] == []


@given(st.integers(1, 3000).flatmap(lambda side: st.tuples(st.just(side), st.floats(0, side), st.floats(0, side))))
def test_pixels_are_inside_the_image_and_within_one_pixel_of_the_box(case: tuple[int, float, float]) -> None:
    side, start, end = case[0], *sorted(case[1:])
    assume(end - start >= 1e-9)
    xmin, ymin, xmax, ymax = voc_box((start, start, end, end))
    assert (xmin, xmax) == (ymin, ymax)
    assert 1 <= xmin <= xmax <= side
    assert max(abs(xmin - 1 - start), abs(xmax - end)) <= (0.5 if end - start >= 1 else 1)


def test_every_file_is_xml_with_one_object(tmp_path: Path) -> None:
    results = [localization(f"<{index}> & ]]>.jpg", index=index, classes=HOSTILE) for index in range(len(HOSTILE))]
    FORMATS["voc"].write(results, HOSTILE, tmp_path)
    files = list((tmp_path / "voc").rglob("*.xml"))
    assert len(files) == len(HOSTILE)
    for path in files:
        assert len(list(ElementTree.parse(path).getroot().iter("object"))) == 1


@pytest.mark.parametrize("source", ["../../out.jpg", "/out.jpg", "a/../../../out.jpg", ".."])
def test_no_file_escapes_the_folder(source: str, tmp_path: Path) -> None:
    FORMATS["voc"].write([localization(source)], CLASSES, tmp_path / "in/here")
    (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert path.is_relative_to(tmp_path / "in/here/voc/Annotations")


def test_images_that_differ_in_suffix_or_case_have_different_files(tmp_path: Path) -> None:
    FORMATS["voc"].write(
        [localization(name) for name in ("a/x.jpg", "a/x.png", "a/X.jpg", "b/x.jpg")], CLASSES, tmp_path
    )
    files = sorted(path.relative_to(tmp_path / "voc/Annotations").as_posix() for path in tmp_path.rglob("*.xml"))
    assert files == ["a/X-3.xml", "a/x-2.xml", "a/x.xml", "b/x.xml"]


def test_an_image_beside_a_folder_of_its_annotation_files_name(tmp_path: Path) -> None:
    names = ["a.jpg", "a.xml/b.jpg", "A.XML/c.jpg", "d/" + "\ufffd" * 80 + "/e.jpg", "a.xml.jpg"]
    FORMATS["voc"].write([localization(name) for name in names], CLASSES, tmp_path)
    written = [ElementTree.parse(path).findtext("filename") for path in (tmp_path / "voc").rglob("*.xml")]
    assert sorted(map(str, written)) == sorted(names)
