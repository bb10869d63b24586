"""`tokenloc localize` with images of extreme shape, pipes, replaced images, and disks that are full or read-only."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.commands.test_localize_resume import contents, interrupt, read_results, save_scenes
from tokenloc.cli import main
from tokenloc.commands import localize as command
from tokenloc.commands.journal import open_journal
from tokenloc.commands.localize import JOURNAL
from tokenloc.inference import Localizer, Prediction
from tokenloc.inference.localizer import KEPT_SIDE
from tokenloc.reporting.drawing import draw_localization, save_sheet


@pytest.fixture
def checkpoint(run: Path) -> str:
    return str(run / "checkpoints/best.ckpt")


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with two good images, two of extreme shape, a pipe and a socket."""
    folder = save_scenes(tmp_path / "mine", 2)
    for name, size in (("high.png", (20, 8000)), ("wide.png", (9000, 1))):
        Image.new("RGB", size, "red").save(folder / name)
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket.png"))
    return folder


def test_images_of_any_shape_are_drawn_and_what_is_no_file_is_reported(
    checkpoint: str, odd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    assert main(["localize", checkpoint, str(odd), "--masks", "--format", "voc", "--out", str(out)]) == 1
    results, unreadable = read_results(out).values()
    assert [Path(one["file"]).name for one in results] == ["000.png", "001.png", "high.png", "wide.png"]
    assert [(one["width"], one["height"]) for one in results[2:]] == [(20, 8000), (9000, 1)]
    assert [Path(one["file"]).name for one in unreadable] == ["pipe.jpg", "socket.png"]
    assert all("a pipe, socket or device" in one["reason"] for one in unreadable)
    assert "2 of 6 files could not be read" in capsys.readouterr().err
    for name in ("high", "wide"):
        with Image.open(out / "images" / f"{name}.jpg") as drawn, Image.open(out / "masks" / f"{name}.png") as mask:
            assert max(drawn.size) <= 2 * KEPT_SIDE + 4
            assert mask.size == {"high": (20, 8000), "wide": (9000, 1)}[name]
    with Image.open(out / "review.jpg") as sheet:
        assert sheet.height <= 2 * 4 * 480 + 100


def test_boxes_of_a_reduced_copy_are_drawn_where_they_belong(checkpoint: str) -> None:
    localizer = Localizer.from_checkpoint(checkpoint, "cpu", threshold=0.5)
    large = Image.new("RGB", (4 * KEPT_SIDE, 200), "white")
    (found,) = localizer.predict([large], keep_images=True)
    assert isinstance(found, Prediction)
    assert found.image is not None
    assert found.image.size == (KEPT_SIDE, 50)
    assert found.results[0].size == large.size
    drawing = draw_localization(found.image, found.results[0], [[3200, 40, 4000, 160]])
    green = (np.asarray(drawing)[:, :KEPT_SIDE] == (64, 220, 96)).all(axis=-1)
    rows, columns = (np.flatnonzero(green.any(axis=axis)) for axis in (1, 0))
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (800, 999, 10, 39)
    np.testing.assert_array_equal(np.asarray(draw_localization(large, found.results[0])).shape, (50, 3204, 3))


def test_drawings_of_many_classes_stay_small(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_scenes(tmp_path / "mine", 1)
    monkeypatch.setattr(command, "DRAWN_SIDE", 40)
    assert main(["localize", checkpoint, str(folder), "--top_k", "4", "--out", str(tmp_path / "found")]) == 0
    with Image.open(tmp_path / "found/images/000.jpg") as drawn:
        assert drawn.size == (2 * 20 + 4, 4 * 14 + 3 * 4)


def test_a_sheet_of_high_images_is_bounded(tmp_path: Path) -> None:
    save_sheet([Image.new("RGB", (1, 65000)), Image.new("RGB", (60, 40))], tmp_path / "sheet.jpg", "title")
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.size == (2 * 480 + 4, 4 * 480 + 30)


@pytest.mark.slow
def test_large_images_are_localized_in_little_memory(checkpoint: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (6000, 5000), (number, 90, 0)).save(folder / f"{number}.png", compress_level=1)
    words = ["localize", checkpoint, str(folder), "--masks", "--device", "cpu", "--out", str(tmp_path / "found")]
    code = "import resource, sys; from tokenloc.cli import main; status = main(sys.argv[1:]); "
    code += "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000)"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    status, megabytes = map(int, done.stdout.split())
    assert status == 0
    assert megabytes < 3000  # of which PyTorch takes up to 1000


def test_a_replaced_image_is_localized_again(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = save_scenes(tmp_path / "mine", 5), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--batch_size", "1", "--masks", "--format", "coco", "--out"]
    with monkeypatch.context() as patched:
        interrupt(4, patched)
        assert main([*words, str(out)]) == 130
    Image.new("RGB", (33, 46), "blue").save(folder / "000.png")
    (folder / "001.png").write_bytes(b"broken")
    assert main([*words, str(out)]) == 1
    assert "2 images have changed since the interrupted run" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "at once")]) == 1
    assert contents(out) == contents(tmp_path / "at once")


def damaged(line: bytes) -> list[bytes]:
    """Return a line of a journal with one thing wrong each."""
    record = json.loads(line)
    changes: list[dict[str, Any]] = [
        {"records": []},
        {"records": [{"boxes": "x"}]},
        {"records": [{**record["records"][0], "score": float("nan")}]},
        {"outputs": [{"image": "../../precious.jpg"}]},
        {"stem": 3},
        {"more": 1},
    ]
    return [json.dumps({**record, **change}).encode() + b"\n" for change in changes] + [b"[" * 100_000 + b"\n", b"{}\n"]


def test_an_altered_journal_is_repaired(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = save_scenes(tmp_path / "mine", 4), tmp_path / "found"
    with monkeypatch.context() as patched:
        interrupt(3, patched)
        words = ["localize", checkpoint, str(folder), "--batch_size", "1", "--out", str(out)]
        assert main(words) == 130
    lines = (out / JOURNAL).read_bytes().splitlines(keepends=True)
    assert len(lines) >= 2
    settings = json.loads(lines[0])["settings"]
    for line in damaged(lines[1]):
        path = tmp_path / "journal"
        path.write_bytes(lines[0] + line + lines[1])
        with open_journal(path, settings) as journal:
            assert len(journal) == 0
    for header in (b"{}\n", b'{"format": 3}\n', b'{"format": 3, "settings": 1}\n'):
        path.write_bytes(header)
        with open_journal(path, settings) as journal:
            assert len(journal) == 0
    path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="journal: a pipe, socket or device"), open_journal(path, settings):
        pass


def test_a_full_disk_is_reported_with_the_file(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_scenes(tmp_path / "mine", 1)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8)).save(folder / "a.png")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert main(["localize", checkpoint, str(folder), "--out", str(tmp_path / "found")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'found/images/a.jpg'} ({os.strerror(errno.EFBIG)})" in " ".join(message.split())


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "gone.ckpt", "--out", "file/out"),
        ("evaluate", "gone.ckpt", "--out", "out", "--save_maps", "file/maps"),
        ("export", "gone.ckpt", "--out", "file/model.onnx"),
        ("compare", "gone", "--out", "file/out"),
        ("demo", "--out", "file/out"),
        ("report", "gone", "--out", "file/report.html"),
    ],
)
def test_unwritable_targets_are_found_first(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("not a folder")
    assert main(words) == 2
    assert "cannot write to file" in capsys.readouterr().err


def test_names_that_differ_in_invalid_bytes_stay_different(checkpoint: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "mine", tmp_path / "found"
    folder.mkdir()
    for name in (b"\xff.png", b"\xfe.png"):
        Image.new("RGB", (30, 20)).save(folder / os.fsdecode(name))
    assert main(["localize", checkpoint, str(folder), "--format", "coco", "voc", "--out", str(out)]) == 0
    names = [[Path(one["file"]).name for one in read_results(out)["localizations"]]]
    names.append([one["file_name"] for one in json.loads((out / "coco.json").read_text())["images"]])
    names.append([f"{path.stem}.png" for path in (out / "voc").rglob("*.xml")])
    assert [sorted(each) for each in names] == 3 * [["\ufffdfe.png", "\ufffdff.png"]]


@pytest.mark.parametrize("name", ["pipe.jpg", "pipe.ckpt"])
def test_a_pipe_as_an_argument_does_not_block(checkpoint: str, name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    words = [checkpoint, str(tmp_path / name)] if name == "pipe.jpg" else [str(tmp_path / name), str(tmp_path)]
    assert main(["localize", *words, "--out", str(tmp_path / "found")]) in (1, 2)
