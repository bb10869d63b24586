"""FGVC-Aircraft in the official layout: levels, boxes, the banner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data import builders as build
from tokenloc.data import create_dataset
from tokenloc.data.fgvc_aircraft import BANNER, FgvcAircraftDataset
from tokenloc.data.images import read_image

SIZE = (30, 50)
SPLITS = {"train": "0034309", "val": "0034958", "test": "1025794"}
CLASSES = {
    "variant": ("variants.txt", {"0034309": "737-700", "0034958": "F-16A/B", "1025794": "737-700"}),
    "family": ("families.txt", {"0034309": "Boeing 737", "0034958": "F-16", "1025794": "Boeing 737"}),
    "manufacturer": ("manufacturers.txt", {"0034309": "Boeing", "0034958": "Lockheed Martin", "1025794": "Boeing"}),
}


def _aircraft(data: Path) -> Path:
    build.images(data / "images", [f"{number}.jpg" for number in SPLITS.values()], SIZE)
    build.text(data / "images_box.txt", ["0034309 1 1 30 30", "0034958 3 4 3 4", "1025794 2 3 20 25"])
    for level, (file, names) in CLASSES.items():
        build.text(data / file, sorted(set(names.values())))
        lines = {split: f"{number} {names[number]}" for split, number in SPLITS.items()}
        for split, line in lines.items():
            build.text(data / f"images_{level}_{split}.txt", [line])
        build.text(data / f"images_{level}_trainval.txt", [lines["train"], lines["val"]])
    return data


@pytest.mark.parametrize("level", CLASSES)
def test_classes_depend_on_the_level(tmp_path: Path, level: str) -> None:
    data = _aircraft(tmp_path / "fgvc-aircraft-2013b/data")
    names = CLASSES[level][1]
    for root in (tmp_path, data.parent, data):
        both = create_dataset("fgvc_aircraft", root, "trainval", level=level)
        assert both.classes == tuple(sorted(set(names.values())))
        assert [(sample.id, both.classes[sample.label]) for sample in both] == [
            (f"{number}.jpg", names[number]) for number in ("0034309", "0034958")
        ]
        assert both[1].path == data / "images/0034958.jpg"
        assert [sample.boxes.tolist() for sample in both] == [[[0, 0, 30, 30]], [[2, 3, 3, 4]]]
        assert both.check() == []
        for split, number in SPLITS.items():
            assert list(create_dataset("fgvc_aircraft", root, split).ids) == [f"{number}.jpg"]


def test_the_banner_is_cut_off(tmp_path: Path) -> None:
    data = _aircraft(tmp_path)
    test = FgvcAircraftDataset(data, "test")
    whole = np.asarray(read_image(data / "images/1025794.jpg"))
    np.testing.assert_array_equal(np.asarray(test.image(0)), whole[:-BANNER])
    kept = FgvcAircraftDataset(data, "test", keep_banner=True)
    np.testing.assert_array_equal(np.asarray(kept.image(0)), whole)
    assert kept.subset([0]).image(0).size == SIZE
    assert test.subset([0]).image(0).size == (30, 30)


def test_the_banner_of_a_smaller_decoding_is_cut_off(tmp_path: Path) -> None:
    data = _aircraft(tmp_path)
    build.image(data / "images/1025794.jpg", (800, 400))
    test = FgvcAircraftDataset(data, "test")
    assert test.image(0, (200, 100)).size == (400, 190)
    assert test.image(0).size == (800, 380)
    build.image(data / "images/1025794.jpg", (30, 10))  # all banner
    assert test.image(0).size == (30, 1)


def test_missing_lists_and_images_are_reported(tmp_path: Path) -> None:
    data = _aircraft(tmp_path / "data")
    (data / "images_variant_train.txt").unlink()
    message = r"missing files in .*: images_variant_train.txt; expected variants.txt, .*images_box.txt.*robots.ox.ac.uk"
    with pytest.raises(FileNotFoundError, match=message):
        FgvcAircraftDataset(tmp_path, "train")
    assert len(FgvcAircraftDataset(tmp_path, "test")) == 1


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("images_box.txt", ["0034958 1 1 2 2"], r"images_box.txt has no line for listed images \(1\): 1025794.jpg"),
        ("images_variant_test.txt", ["1025794 747"], r"uses classes that are not in .*variants.txt \(1\): 747"),
        ("images_variant_test.txt", ["1025794 737-700"] * 2, r"lists images more than once \(1\): 1025794.jpg"),
    ],
)
def test_damaged_lists_are_reported(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    build.text(_aircraft(tmp_path) / name, lines)
    with pytest.raises(ValueError, match=message):
        FgvcAircraftDataset(tmp_path, "test")


def test_options_are_validated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown value of option level: 'familiy'; did you mean 'family'\?"):
        create_dataset("fgvc_aircraft", _aircraft(tmp_path), "test", level="familiy")
