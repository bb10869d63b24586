"""The split files of `wsol-eval`, and tables in text and MATLAB files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data import builders as build
from tokenloc.data import create_dataset
from tokenloc.data.lists import Listing, read_mat, read_split_files, require, require_kind, rows

FILES = {
    "image_ids.txt": "a/1.jpg\nb/2.jpg\nb/3, left.jpg\n",
    "class_labels.txt": "a/1.jpg,0\nb/2.jpg,1\nb/3, left.jpg,1\nc/4.jpg,2\n",
    "localization.txt": "a/1.jpg,1,2,30,40\nb/2.jpg,5,6,7,8\na/1.jpg,9,9,20.5,20\nc/4.jpg,0,0,1,1\n",
    "image_sizes.txt": "a/1.jpg,100,80\nb/2.jpg,50,60\nc/4.jpg,1,1\n",
}
MASKS = "a/1.jpg,m/1a.png,m/ignore.png\na/1.jpg,m/1b.png,\nb/2.jpg,m/2.png,\nc/4.jpg,m/4.png,\n"


def _read(folder: Path) -> Listing:
    return read_split_files(folder, lambda name, label: f"{name[0]}{label}")


def _write(folder: Path, **changed: str | None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in {**FILES, **{f"{stem}.txt": text for stem, text in changed.items()}}.items():
        if text is not None:
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("slash", ["/", "\\"])
def test_split_files_are_read(tmp_path: Path, slash: str) -> None:
    def written(**changed: str) -> Path:
        for path in _write(tmp_path, **changed).iterdir():
            path.write_text(path.read_text().replace("/", slash))
        return tmp_path

    split = _read(written())
    assert list(split.class_of.items()) == [("a/1.jpg", "a0"), ("b/2.jpg", "b1"), ("b/3, left.jpg", "b1")]
    assert split.classes == ("a0", "b1")
    boxes = {name: several.tolist() for name, several in split.boxes.items()}
    assert boxes == {"a/1.jpg": [[1, 2, 30, 40], [9, 9, 20.5, 20]], "b/2.jpg": [[5, 6, 7, 8]]}
    assert split.sizes == {"a/1.jpg": (100, 80), "b/2.jpg": (50, 60)}
    assert split.masks == {}
    split = _read(written(localization=MASKS))
    assert split.boxes == {}
    assert split.masks == {"a/1.jpg": ("m/1a.png", "m/1b.png", "m/ignore.png"), "b/2.jpg": ("m/2.png", "")}


def test_localization_and_sizes_are_optional(tmp_path: Path) -> None:
    split = _read(_write(tmp_path, localization=None, image_sizes=None))
    assert (split.boxes, split.sizes, split.masks) == ({}, {}, {})


def test_windows_lines_blank_lines_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    folder = _write(tmp_path, class_labels="a/1.jpg,0\r\n\r\nb/2.jpg,1\r\nb/3, left.jpg,1")
    (folder / "image_ids.txt").write_bytes(b"\xef\xbb\xbfa/1.jpg\r\n\nb/2.jpg\r\n")
    assert _read(folder).class_of == {"a/1.jpg": "a0", "b/2.jpg": "b1"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"class_labels": "a/1.jpg,zero\n"}, r"class_labels.txt, line 1: 'zero' is not a whole number; correct it"),
        ({"class_labels": "a/1.jpg\n"}, r"class_labels.txt, line 1: expected 2 values, got 'a/1.jpg'; correct it"),
        ({"class_labels": "a/1.jpg,0\n"}, r"class_labels.txt has no line for listed images \(2\): b/2.jpg, b/3, left"),
        ({"localization": "a/1.jpg,1,2,x,4\n"}, r"localization.txt, line 1: 'x' is not a number; correct it"),
        ({"localization": "a/1.jpg,1,2,3,4\nb/2.jpg,1\n"}, r"localization.txt, line 2: expected 5 values, got 'b/2"),
        ({"image_sizes": "a/1.jpg,1.5,2\n"}, r"image_sizes.txt, line 1: '1.5' is not a whole number"),
        ({"image_ids": "a/1.jpg\n.\\a\\1.jpg\n"}, r"image_ids.txt lists images more than once \(1\): a/1.jpg;"),
    ],
)
def test_damaged_lines_are_reported(tmp_path: Path, changed: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _read(_write(tmp_path, **changed))


def test_missing_files_are_reported_with_their_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing files in .* \(1\): class_labels.txt.*wsolevaluation"):
        _read(_write(tmp_path, class_labels=None))
    (tmp_path / "a.txt").touch()
    message = r"missing files in .* \(1\): b.txt; expected a.txt, b.txt; unpack the whole dataset there: here"
    with pytest.raises(FileNotFoundError, match=message):
        require([tmp_path / "a.txt", tmp_path / "b.txt"], "here")


def test_rows_are_split_by_white_space_or_separator(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("1 a b.jpg\n")
    assert [cells for _, cells in rows(path, 2)] == [["1", "a b.jpg"]]
    path.write_text("a,b.jpg,7\n")
    assert list(rows(path, 2, ",")) == [(f"{path}, line 1", ["a,b.jpg", "7"])]
    assert list(rows(tmp_path / "no.txt", 2, optional=True)) == []
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"t.txt: not a text file in UTF-8 .*download it again"):
        list(rows(path, 1))


def test_matlab_variables_are_read_as_lists(tmp_path: Path) -> None:
    table = build.structures([{"x": 1, "name": "cat"}])
    path = build.mat(tmp_path / "a.mat", names=["cat"], annotations=table, n=np.ones(1))
    assert (read_mat(path, "names"), read_mat(path, "n")) == (["cat"], [1.0])
    assert read_mat(path, "annotations", ("name", "x")) == [["cat"], [1]]
    with pytest.raises(ValueError, match=r"a.mat: annotations lack y; they have \('x', 'name'\)"):
        read_mat(path, "annotations", ("y",))
    with pytest.raises(ValueError, match=r"a.mat: no variable other; it holds annotations, n, names"):
        read_mat(path, "other")
    path.write_bytes(b"not MATLAB")
    with pytest.raises(ValueError, match=r"a.mat: cannot be read as a MATLAB file"):
        read_mat(path, "names")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed or took too long"),
        ("print('[')", "crashed or took too long"),
        ("while True: pass", "crashed or took too long"),
    ],
)
def test_a_crash_of_the_matlab_reader_is_an_error(
    tmp_path: Path, code: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reader.py").write_text(code)
    monkeypatch.setattr("tokenloc._matlab.__file__", str(tmp_path / "reader.py"))
    monkeypatch.setattr("tokenloc.data.lists.MAT_SECONDS", 1)
    with pytest.raises(ValueError, match=rf"a\.mat: cannot be read as a MATLAB file .*{reason}"):
        read_mat(build.mat(tmp_path / "a.mat", names=["cat"]), "names")


def test_a_huge_matlab_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.mat").open("wb") as file:
        file.truncate(300_000_000)
    with pytest.raises(ValueError, match=r"a\.mat: larger than 256,000,000 bytes"):
        read_mat(tmp_path / "a.mat", "names")


@pytest.mark.parametrize("dataset", ["cub", "cub metadata", "stanford_cars", "stanford_dogs", "fgvc_aircraft"])
def test_lists_cannot_name_files_outside_the_folder(tmp_path: Path, dataset: str) -> None:
    name = "001.Ant/../../../secret/x.jpg"
    secret = build.image(tmp_path / "secret/x.jpg").with_suffix("")
    root, options = tmp_path / "data/deep", {}
    if dataset.startswith("cub"):
        folder = build.cub(root)
        if dataset == "cub":
            (folder / "images.txt").write_text((folder / "images.txt").read_text().replace("001.Ant/Ant_0.jpg", name))
        else:
            options = {"metadata": build.split_files(tmp_path / "lists", {name: 0})}
    elif dataset == "stanford_cars":
        row = {"relative_im_path": name, "class": 1, "test": 0}
        row |= dict.fromkeys(("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"), 1)
        build.mat(root / "cars_annos.mat", annotations=build.structures([row]), class_names=["a"])
    elif dataset == "stanford_dogs":
        build.voc(secret, "x", [[1, 1, 2, 2]])
        lists = {"file_list": ["n1-a/0.jpg"], "annotation_list": [str(Path(name).with_suffix(""))]}
        build.mat(build.images(root, ["Images/n1-a/0.jpg"]) / "train_list.mat", **lists, labels=np.ones(1))
        (root / "Annotation").mkdir()
    else:
        build.text(root / "variants.txt", ["a"])
        build.text(root / "images_variant_train.txt", [f"{Path(name).with_suffix('')} a"])
        build.text(root / "images_box.txt", [f"{Path(name).with_suffix('')} 1 1 2 2"])
    with pytest.raises(ValueError, match=r"names '.*secret/x(\.jpg)?', which is outside its folder"):
        create_dataset(dataset.split()[0], root, "train", **options)


@pytest.mark.parametrize(("values", "kind"), [(["a", 1.0], "text"), ([1, "1"], "numbers")])
@pytest.mark.parametrize("more", [[], [None], [[]]])
def test_values_of_another_kind_are_refused(values: list[object], kind: Any, more: list[object]) -> None:
    with pytest.raises(
        ValueError, match=rf"a\.mat: values that are not {kind} \({1 + len(more)}\): .*download it again"
    ):
        require_kind([*values, *more], kind, Path("a.mat"))
    require_kind(values[:1], kind, Path("a.mat"))


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf"), "1", None])
def test_labels_must_be_whole_numbers(value: object) -> None:
    require_kind([1, 2.0], "whole numbers", Path("a.mat"))
    with pytest.raises(ValueError, match="values that are not whole numbers"):
        require_kind([value], "whole numbers", Path("a.mat"))
