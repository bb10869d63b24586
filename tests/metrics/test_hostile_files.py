"""Stored maps, boxes and tables of an evaluation are untrusted: what they state is compared with what they have."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluations import SCENES, scenes, write_evaluation
from tokenloc._arrays import read_member
from tokenloc._plain import require_types
from tokenloc.boxes import Frame
from tokenloc.cli import main
from tokenloc.metrics.images import read_table
from tokenloc.metrics.stored_boxes import open_boxes
from tokenloc.metrics.stored_maps import open_maps, writing_maps
from tokenloc.reporting.runs import read_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluation(tmp_path_factory.mktemp("made") / "evaluation", scenes(), data=SCENES)


@pytest.fixture
def evaluation(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "evaluation"))


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    with writing_maps(tmp_path / "maps", {"input_frame": "crop"}) as writer:
        for id_ in ("a", "b"):
            writer.add(id_, np.ones((4, 4)), [0, 1], Frame.identity((8, 8)))
    return tmp_path / "maps"


def header(shape: tuple[int, ...], dtype: str = "<f8") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(64)


def array(values: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def replace(path: Path, member: str, content: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, old in members.items():
            archive.writestr(name, content if name == f"{member}.npy" else old)


HEADERS = [
    (header((10**12,)), "8000000000000 bytes, of"),
    (header((2**40, 2**40)), "bytes, of"),
    (header((-1,)), "its dtype is float64"),
    (header((4,), "|O"), "its dtype is object"),
    (header((4,), "|V999999999"), "its dtype is"),
    (array(np.zeros(1000))[:-800], "bytes, of"),
]


@pytest.mark.parametrize(("content", "message"), HEADERS)
def test_an_array_states_no_more_than_it_has(content: bytes, message: str, tmp_path: Path, maps: Path) -> None:
    (tmp_path / "others").mkdir()
    (tmp_path / "others/a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.npy is not a \.npy file.*{message}"):
        open_maps(tmp_path / "others").load("a")
    replace(maps / "maps-00000.npz", "maps", content)
    with pytest.raises(ValueError, match=rf"maps-00000\.npz is not.*{message}"):
        open_maps(maps).load("a")


@pytest.mark.parametrize("size", [(2.0**40, 40), (100_000, 100_000)])
@pytest.mark.parametrize("first", [0, 2])  # of the original and of the input size
def test_the_frame_of_a_map_has_a_plausible_size(first: int, size: tuple[float, float], maps: Path) -> None:
    with np.load(maps / "maps-00000.npz") as stored:
        frames = stored["frames"]
    frames[0, first : first + 2] = size
    replace(maps / "maps-00000.npz", "frames", array(frames))
    with pytest.raises(
        ValueError, match=rf"maps-00000\.npz is not.*a frame has {int(size[0])} x {int(size[1])} pixels"
    ):
        open_maps(maps).load("a")


@pytest.mark.parametrize("member", ["about", "thresholds", "frames", "truth", "truth_images"])
@pytest.mark.parametrize("content", [HEADERS[0][0], array(np.zeros((3, 3))), array(np.zeros(0))])
def test_boxes_state_no_more_than_they_have(member: str, content: bytes, evaluation: Path) -> None:
    replace(evaluation / "boxes.npz", member, content)
    with pytest.raises(ValueError, match=r"boxes\.npz is damaged"):
        dict(open_boxes(evaluation / "boxes.npz").images({0}))
    (note,) = read_run(evaluation).notes
    assert "there is no threshold slider" in note


@pytest.mark.parametrize("member", ["boxes", "iou"])
def test_rows_of_boxes_are_as_many_as_thresholds(member: str, evaluation: Path) -> None:
    replace(evaluation / "boxes.npz", member, header((18, 10**12, 4), "<i2"))
    with pytest.raises(ValueError, match=rf"{member} has shape \(18, 1000000000000, 4\), expected \(18, 101"):
        dict(open_boxes(evaluation / "boxes.npz").images({0}))


def test_a_bomb_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokenloc._arrays.MOST_BYTES", 1000)
    np.savez_compressed(tmp_path / "bomb.npz", zeros=np.zeros(10**6))
    with zipfile.ZipFile(tmp_path / "bomb.npz") as archive, pytest.raises(ValueError, match="8000000 bytes"):
        read_member(archive, "zeros")


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../maps-00000.npz": ["a"]}},
        {"files": {"maps-00000.npz": [1]}},
        {"files": []},
        {"about": {"threshold": "0.5"}},
        {"about": {"classes": ["a", 1]}},
        {"about": 3},
    ],
)
def test_a_manifest_is_checked(change: dict[str, Any], maps: Path) -> None:
    content = json.loads((maps / "manifest.json").read_text())
    (maps / "manifest.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match="manifest.json is not of the format"):
        open_maps(maps)


def test_predicted_classes_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with writing_maps(tmp_path / "maps", {}) as writer:
        for index, sample in enumerate(scenes()):
            writer.add(sample.id, np.eye(4), [999 if index == 0 else 0], Frame.identity((40, 40)))
    words = ["evaluate", "--maps", str(tmp_path / "maps"), "--data.name", "scenes", "--protocol", "sat"]
    assert main([*words, "--data.options", json.dumps(SCENES["options"]), "--out", str(tmp_path / "out")]) == 1
    assert "its predicted classes are [999], of 6 classes" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("protocol"), "protocol must be str, not None"),
        (lambda content: content.pop("threshold"), "it lacks threshold"),
        (lambda content: content.update(images="18"), "images must be int, not '18'"),
        (lambda content: content["metrics"].update(gt_known="99"), "metrics must be dict"),
        (lambda content: content.update(missing={"boxes": 3}), "missing must be dict"),
        (lambda content: content.update(unreadable=["x"]), "unreadable must be list"),
        (lambda content: content.update(confidence=[1]), "confidence must be dict"),
        (lambda content: content.update(data={"name": "scenes"}), "split must be str, not None"),
        (lambda content: content.update(model={"method": "cam"}), "backbone must be str, not None"),
        (lambda content: content.update(constant_boxes={"centre": {}}), "0.5 must be float, not None"),
        (lambda content: content.update(unreadable=[{"path": "x"}]), "id must be str, not None"),
    ],
)
@pytest.mark.parametrize("command", ["report", "compare"])
def test_altered_metrics_are_named(
    change: Callable[[dict[str, Any]], None],
    message: str,
    command: str,
    evaluation: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = json.loads((evaluation / "metrics.json").read_text())
    change(content)
    (evaluation / "metrics.json").write_text(json.dumps(content))
    assert main([command, str(evaluation), "--out", str(evaluation / "out")]) == 2
    assert f"metrics.json is not the result of an evaluation ({message}" in capsys.readouterr().err


def test_metrics_with_nulls_are_read(evaluation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((evaluation / "metrics.json").read_text())
    nothing = dict.fromkeys(("data", "model", "confidence", "constant_boxes", "missing", "unreadable"))
    (evaluation / "metrics.json").write_text(json.dumps({**content, **nothing}))
    assert main(["report", str(evaluation), "--out", str(evaluation / "out.html")]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("text", ["[" * 200_000, '{"x": NaN}', "[]", "\xff"])
def test_metrics_that_are_no_json_of_ours(text: str, evaluation: Path) -> None:
    (evaluation / "metrics.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"metrics\.json is not the result of an evaluation"):
        read_run(evaluation)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("largest", "nan", "'nan' as largest, expected a number"),
        ("id", "", "no id for"),
        ("label", "", "no label for"),
        ("object_fraction", "", "no object_fraction for"),
        ("error", "odd", "'odd' as error, expected correct"),
        ("id", "x" * 200_000, "is not a CSV table"),
        ("id", "\udcff", "is not a CSV table"),
    ],
)
def test_an_altered_table_is_named(column: str, value: str, message: str, evaluation: Path) -> None:
    path = evaluation / "images.csv"
    head, first, *rest = path.read_text().splitlines()
    cells = dict(zip(head.split(","), first.split(","), strict=True)) | {column: value}
    text = "\n".join([head, ",".join(cells.values()), *rest])
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_table(path)


def test_types_of_nested_values() -> None:
    types = {"a": dict[str, list[float] | None], "b": list[dict[str, Any]], "c": bool}
    require_types({"a": {"x": [1, 2.5], "y": None}, "b": [{"z": object()}], "c": True}, types)
    for change in ({"a": {"x": ["1"]}}, {"a": {"x": [True]}}, {"b": {}}, {"c": 1}, {"a": {"x": [float("inf")]}}):
        with pytest.raises(ValueError, match="must be"):
            require_types({"a": {}, "b": [], "c": False, **change}, types)
