"""`tokenloc localize`: interruption and resuming, concurrent runs, changed settings, and its output files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.export.examples import localization, read_annotations
from tokenloc.cli import main
from tokenloc.commands.journal import FinishedImage, open_journal
from tokenloc.commands.localize import JOURNAL, RESULTS
from tokenloc.commands.review import TABLE
from tokenloc.data import create_dataset
from tokenloc.export import FORMATS
from tokenloc.inference import Localization, Localizer
from tokenloc.inference.inputs import THREADS
from tokenloc.models.checkpoint import read_checkpoint


@pytest.fixture
def checkpoint(run: Path) -> str:
    return str(run / "checkpoints/best.ckpt")


def save_scenes(folder: Path, count: int) -> Path:
    scenes = create_dataset("scenes", None, "test", size=(46, 33), length=count)
    folder.mkdir()
    for index in range(count):
        scenes.image(index).save(folder / f"{index:03d}.png")
    return folder


def read_results(out: Path) -> Any:
    return json.loads((out / RESULTS).read_text(encoding="utf-8"))


def contents(out: Path) -> dict[str, bytes]:
    """All files of a folder, also behind links."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def interrupt(after: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Interrupt the localizer after ``after`` images; return the list that the processed images are added to."""
    predict, processed = Localizer.predict, list[str]()

    def interrupted(self: Localizer, images: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        for index, prediction in enumerate(predict(self, images, *arguments, **options)):
            if index == after:
                raise KeyboardInterrupt
            processed.append(getattr(prediction, "id", "") or prediction.results[0].source)
            yield prediction

    monkeypatch.setattr(Localizer, "predict", interrupted)
    return processed


def test_an_interrupted_run_resumes_with_the_same_result(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_scenes(tmp_path / "mine", 12)
    (folder / "002.jpg").write_bytes(b"broken")
    # Batches of one: the last bit of a score depends on the batch.
    options = ["--batch_size", "1", "--top_k", "2", "--masks", "--objects", "all"]
    words = ["localize", checkpoint, str(folder), *options, "--format", *FORMATS.names(), "--out"]
    assert main([*words, str(tmp_path / "at once")]) == 1
    with monkeypatch.context() as patched:
        assert len(interrupt(7, patched)) == 0
        assert main([*words, str(tmp_path / "resumed")]) == 130
    assert {path.name for path in (tmp_path / "resumed").iterdir()} == {JOURNAL, "images", "masks"}
    done = (tmp_path / "resumed" / JOURNAL).read_text().count("records")
    assert 1 <= done <= 6
    processed = interrupt(100, monkeypatch)
    assert main([*words, str(tmp_path / "resumed")]) == 1
    assert f"{done} of 13 images were finished by an interrupted run" in capsys.readouterr().err
    assert len(processed) == 13 - done
    assert contents(tmp_path / "resumed") == contents(tmp_path / "at once")


def test_a_resumed_run_keeps_the_batches(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last bits of a score depend on the other images of a batch."""
    folder = save_scenes(tmp_path / "mine", 10)
    words = ["localize", checkpoint, str(folder), "--batch_size", "4", "--images", "false", "--format", "coco", "--out"]
    assert main([*words, str(tmp_path / "at once")]) == 0
    with monkeypatch.context() as patched:
        interrupt(7, patched)
        assert main([*words, str(tmp_path / "resumed")]) == 130
    done = (tmp_path / "resumed" / JOURNAL).read_text().count("records")
    (tmp_path / "resumed/coco.json").write_text("of a run that was killed while its files moved into place")
    processed = interrupt(100, monkeypatch)
    assert main([*words, str(tmp_path / "resumed")]) == 0
    assert [Path(name).name for name in processed] == [f"{index:03d}.png" for index in range(done // 4 * 4, 10)]
    assert contents(tmp_path / "resumed") == contents(tmp_path / "at once")


@pytest.mark.slow
def test_a_killed_run_resumes_and_two_runs_exclude_each_other(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = save_scenes(tmp_path / "mine", 80), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--batch_size", "2", "--device", "cpu", "--out"]
    first = subprocess.Popen([sys.executable, "-m", "tokenloc.cli", *words, str(out)], stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 200
        while not (out / JOURNAL).is_file() or (out / JOURNAL).read_bytes().count(b"records") < 3:
            assert first.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)
        assert main([*words, str(out)]) == 2
        assert f"{out} is in use by another run (process {first.pid} on " in capsys.readouterr().err
    finally:
        first.kill()
        first.wait()
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"file": "half wri')
    (out / "images/.partial-x.jpg").write_bytes(b"half an image")
    done = (out / JOURNAL).read_bytes().count(b"records")
    assert main([*words, str(out)]) == 0
    assert f"{done} of 80 images were finished" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "at once")]) == 0
    assert contents(out) == contents(tmp_path / "at once")


def test_other_settings_are_refused_with_the_difference(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = save_scenes(tmp_path / "mine", 6), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--images", "false", "--out", str(out), "--threshold"]
    with monkeypatch.context() as patched:
        interrupt(4, patched)
        assert main([*words, "0.2", "--batch_size", "1"]) == 130
    before = (out / JOURNAL).read_bytes()
    assert main([*words, "0.4", "--flip"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "an interrupted run with other settings finished" in message
    assert "threshold: 0.2 then, 0.4 now options: plain then, flip now" in message
    assert "--overwrite to start over" in message
    assert "model" not in message
    assert (out / JOURNAL).read_bytes() == before
    processed = interrupt(100, monkeypatch)
    assert main([*words, "0.4", "--flip", "--overwrite"]) == 0
    assert len(processed) == 6
    assert {item["threshold"] for item in read_results(out)["localizations"]} == {0.4}
    assert {path.name for path in out.iterdir()} == {RESULTS, TABLE}


def test_a_checkpoint_is_recognised_by_its_content(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = save_scenes(tmp_path / "mine", 4), tmp_path / "found"
    moved, changed = tmp_path / "moved.ckpt", tmp_path / "changed.ckpt"
    moved.write_bytes(Path(checkpoint).read_bytes())
    rest = [str(folder), "--images", "false", "--threshold", "0.3", "--batch_size", "1", "--out", str(out)]
    with monkeypatch.context() as patched:
        interrupt(3, patched)
        assert main(["localize", checkpoint, *rest]) == 130
    content = read_checkpoint(moved)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = content["state_dict"][name] + 1e-6
    torch.save(content, changed)
    assert main(["localize", str(changed), *rest]) == 2
    assert "model: sha256" in capsys.readouterr().err
    assert main(["localize", str(moved), *rest]) == 0
    assert "of 4 images were finished by an interrupted run" in capsys.readouterr().err


def test_a_resumed_run_includes_new_images(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, out = save_scenes(tmp_path / "mine", 4), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--batch_size", "1", "--out", str(out)]
    with monkeypatch.context() as patched:
        interrupt(3, patched)
        assert main(words) == 130
    (folder / "000").mkdir()
    Image.new("RGB", (20, 30), "red").save(folder / "000" / "000.jpg")  # with the stem of another image
    assert main(words) == 0
    items = read_results(out)["localizations"]
    assert [Path(item["file"]).name for item in items] == ["000.png", "000.jpg", "001.png", "002.png", "003.png"]
    assert [item["image"] for item in items[:2]] == ["images/000.jpg", "images/000-2.jpg"]
    with Image.open(out / items[1]["image"]) as drawn:
        assert drawn.size == (2 * 20 + 4, 30)


NAMES = [os.fsdecode(name) for name in (b"bytes \xff\xfe.jpg", b"line\nend.jpg", "🐦\u2028.jpg".encode())]


def finished(index: int) -> FinishedImage:
    result = localization(NAMES[index], [[0.1 + index, 1 / 3, 10, 20]], classes=["a\nb"], score=2 / 3)
    return FinishedImage(NAMES[index], "7 1e9", f"{index}", [result.record()], [{"mask": "m"}])


def plain(image: FinishedImage) -> dict[str, Any]:
    records = [{name: np.asarray(value).tolist() for name, value in vars(record).items()} for record in image.records]
    return {**vars(image), "records": records}


def append_and_fail(path: Path, settings: dict[str, object], indices: range, before: int = 0) -> None:
    with suppress(KeyError), open_journal(path, settings) as journal:
        assert len(journal) == before
        for index in indices:
            journal.append(finished(index))
        raise KeyError


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_the_journal_restores_what_was_appended(tmp_path: Path, cut: int) -> None:
    path, settings = tmp_path / "new" / "journal", {"threshold": 0.1, "options": "plain"}
    append_and_fail(path, settings, range(3))
    path.write_bytes(path.read_bytes()[:-cut])  # the process was killed while it wrote the last line
    append_and_fail(path, settings, range(2, 3), before=2)
    with open_journal(path, settings) as journal:
        assert journal.stems == ["0", "1", "2"]
        files = [Path(name) for name in reversed(NAMES)]
        for index, image in zip((2, 1, 0), journal.read([*files, Path("another")]), strict=True):
            assert plain(image) == plain(finished(index))
    assert not path.exists()


def test_a_journal_without_images_does_not_restrict_the_settings(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    append_and_fail(path, {"threshold": 0.1}, range(0))
    assert not path.exists()
    for content in (b'{"settings": {"thre', b"what is this\n"):
        path.write_bytes(content)
        with open_journal(path, {"threshold": 0.2}) as journal:
            assert len(journal) == 0
            assert json.loads(path.read_bytes())["settings"] == {"threshold": 0.2}


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(old := b'{"settings": {"threshold": 0.2}}\n{"process": 7}\n{"file": "a.jpg", "findings": []}\n')
    with (
        pytest.raises(ValueError, match="journal: .* written by another version of tokenloc; .*--overwrite"),
        open_journal(path, {"threshold": 0.2}),
    ):
        pass
    assert path.read_bytes() == old
    with open_journal(path, {"threshold": 0.2}, overwrite=True) as journal:
        assert len(journal) == 0


def test_unusual_file_names(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "mine", tmp_path / "found"
    folder.mkdir()
    others = (b"x" * 246 + b".jpg", "é".encode() * 122 + b".jpeg", b"\xff.jpg", b"\x1b[31m.jpg")
    names = [*NAMES, *map(os.fsdecode, others)]
    for name in names:
        Image.new("RGB", (30, 20), "green").save(folder / name, "JPEG")
    (folder / os.fsdecode(b"broken \xff\n.png")).write_bytes(b"")
    (folder / "circle").symlink_to(folder)
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    words = ["localize", checkpoint, str(folder), "--masks", "--top_k", "2", "--out", str(out)]
    assert main([*words, "--format", *FORMATS.names()]) == 1
    assert "2 of 9 files could not be read" in capsys.readouterr().err
    items, unreadable = read_results(out).values()
    assert len(items) == 2 * len(names)
    assert sum("\ufffd" in item["file"] for item in items) == 2 * 3
    for kind, count in (("image", len(names)), ("mask", 2 * len(names))):
        files = {out / item[kind] for item in items}
        assert len(files) == count
        assert all(path.is_file() for path in files)
    assert {Path(item["file"]).name for item in unreadable} == {"broken \ufffdff\n.png", "itself.jpg"}
    for name in FORMATS.names():
        assert len(read_annotations(name, out)) == len(names), name


def test_masks_are_in_original_pixels(checkpoint: str, tmp_path: Path) -> None:
    folder, out = save_scenes(tmp_path / "mine", 2), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--masks", "--images", "false", "--out", str(out)]
    assert main([*words, "--threshold", "0.3"]) == 0
    localizer = Localizer.from_checkpoint(checkpoint, "cpu", threshold=0.3)
    for item, result in zip(read_results(out)["localizations"], localizer(sorted(folder.iterdir())), strict=True):
        assert "image" not in item
        with Image.open(out / item["mask"]) as mask:
            assert (mask.mode, mask.size) == ("L", (46, 33))
            assert np.array_equal(np.asarray(mask), 255 * result.mask_on_image())
            assert np.asarray(mask).any()


def test_several_classes_below_the_minimum_score(checkpoint: str, tmp_path: Path) -> None:
    folder, out = save_scenes(tmp_path / "mine", 2), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--out", str(out), "--min_score"]
    assert main([*words, "0.999", "--top_k", "3", "--format", "csv"]) == 0
    items = read_results(out)["localizations"]
    assert [Path(item["file"]).name for item in items] == ["000.png"] * 3 + ["001.png"] * 3
    for classes in (items[:3], items[3:]):
        scores = [item["score"] for item in classes]
        assert scores == sorted(scores, reverse=True)
        assert len({item["label"] for item in classes}) == 3
        assert [item["boxes"] for item in classes] == [[], [], []]
    with Image.open(out / items[0]["image"]) as drawn:
        assert drawn.size == (2 * 46 + 4, 3 * 33 + 2 * 4)  # one row per class
    assert (out / "boxes.csv").read_text().count("\n") == 7


def test_localizations_are_freed_one_by_one(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made, most = save_scenes(tmp_path / "mine", 60), list[Any](), 0
    validate = Localization.__post_init__

    def counting(self: Localization) -> None:
        nonlocal most
        made.append(weakref.ref(self))
        most = max(most, sum(one() is not None for one in made))
        validate(self)

    monkeypatch.setattr(Localization, "__post_init__", counting)
    words = ["localize", checkpoint, str(folder), "--batch_size", "2", "--top_k", "2", "--format", "coco"]
    assert main([*words, "--out", str(tmp_path / "found")]) == 0
    assert len(made) == 2 * 60
    assert most <= 2 * (2 + 2 * THREADS + 2)  # two classes: of a batch, of the threads that draw, of the current image


def test_an_unusable_output_folder_is_reported_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["localize", "missing.ckpt", str(save_scenes(tmp_path / "mine", 1)), "--out"]
    (tmp_path / "file").write_text("mine")
    for out in ("file/found", "file"):
        assert main([*words, str(tmp_path / out)]) == 2
        assert "(Not a directory)" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    full = Path("/dev/full")
    if full.exists():
        monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full.open("wb", buffering=0))
        assert main([*words, str(tmp_path / "found")]) == 2
        assert "(No space left on device)" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
