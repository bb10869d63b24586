"""`tokenloc localize` that is interrupted, meets itself, or other settings; and what it leaves on the disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tokenloc.cli import main
from tokenloc.commands.journal import Finished, open_journal
from tokenloc.commands.localize import JOURNAL, RESULTS
from tokenloc.commands.review import TABLE
from tokenloc.data import create_dataset
from tokenloc.export import FORMATS, list_formats
from tokenloc.inference import Localization, LocalizationRecord, Localizer
from tokenloc.inference.threads import THREADS
from tokenloc.models.checkpoint import read_checkpoint


@pytest.fixture
def checkpoint(run: Path) -> str:
    return str(run / "checkpoints/best.ckpt")


def images(folder: Path, count: int) -> Path:
    scenes = create_dataset("scenes", None, "test", size=(46, 33), length=count)
    folder.mkdir()
    for index in range(count):
        scenes.image(index).save(folder / f"{index:03d}.png")
    return folder


def content_of(out: Path) -> Any:
    return json.loads((out / RESULTS).read_text(encoding="utf-8"))


def tree(out: Path) -> dict[str, bytes]:
    """Every file below a folder; what links lead to, too."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def interrupt(after: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make the localizer fail when it has handed on so many images; return the list of those it looks at."""
    look, looked = Localizer.look, list[str]()

    def failing(self: Localizer, images: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        for place, found in enumerate(look(self, images, *arguments, **options)):
            if place == after:
                raise KeyboardInterrupt
            looked.append(getattr(found, "id", "") or found.results[0].source)
            yield found

    monkeypatch.setattr(Localizer, "look", failing)
    return looked


def test_an_interrupted_run_goes_on_and_ends_as_one_that_was_not(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images(tmp_path / "mine", 12)
    (folder / "002.jpg").write_bytes(b"broken")
    # One by one: in other company an image's scores differ in their last bit.
    options = ["--batch_size", "1", "--top_k", "2", "--masks", "--objects", "all"]
    words = ["localize", checkpoint, str(folder), *options, "--format", *list_formats(), "--out"]
    assert main([*words, str(tmp_path / "whole")]) == 1
    with monkeypatch.context() as patched:
        first = interrupt(7, patched)
        assert main([*words, str(tmp_path / "parted")]) == 130
    assert len(first) == 7
    assert {path.name for path in (tmp_path / "parted").iterdir()} == {JOURNAL, "images", "masks"}
    noted = [line for line in (tmp_path / "parted" / JOURNAL).read_text().splitlines() if "findings" in line]
    assert 1 <= len(noted) <= 6
    second = interrupt(100, monkeypatch)
    assert main([*words, str(tmp_path / "parted")]) == 1
    assert f"{len(noted)} of 13 images were finished by an interrupted run" in capsys.readouterr().err
    assert len(second) == 13 - len(noted)  # none of what was noted down is done twice
    assert tree(tmp_path / "parted") == tree(tmp_path / "whole")


def test_killed_at_any_moment_and_two_at_once(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = images(tmp_path / "mine", 80), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--batch_size", "2", "--device", "cpu", "--out"]
    first = subprocess.Popen([sys.executable, "-m", "tokenloc.cli", *words, str(out)], stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 200
        while not (out / JOURNAL).is_file() or (out / JOURNAL).read_bytes().count(b"findings") < 3:
            assert first.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        first.send_signal(signal.SIGSTOP)
        assert main([*words, str(out)]) == 2
        assert f"another run (process {first.pid}) is writing to {out}; let it end" in capsys.readouterr().err
    finally:
        first.kill()
        first.wait()
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"file": "half wri')
    (out / "images/.partial-x.jpg").write_bytes(b"half an image")
    done = (out / JOURNAL).read_bytes().count(b"findings")
    assert main([*words, str(out)]) == 0
    assert f"{done} of 80 images were finished" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "whole")]) == 0
    assert tree(out) == tree(tmp_path / "whole")


def test_other_settings_are_refused_with_the_difference(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = images(tmp_path / "mine", 6), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--images", "false", "--out", str(out), "--threshold"]
    with monkeypatch.context() as patched:
        interrupt(4, patched)
        assert main([*words, "0.2", "--batch_size", "1"]) == 130
    before = (out / JOURNAL).read_bytes()
    assert main([*words, "0.4", "--flip"]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "an interrupted run with other settings finished" in printed
    assert "threshold: 0.2 there, 0.4 now viewing: plain there, flip now" in printed
    assert "--overwrite to begin anew" in printed
    assert "checkpoint" not in printed
    assert (out / JOURNAL).read_bytes() == before
    seen = interrupt(100, monkeypatch)
    assert main([*words, "0.4", "--flip", "--overwrite"]) == 0
    assert len(seen) == 6
    assert {item["threshold"] for item in content_of(out)["localizations"]} == {0.4}
    assert {path.name for path in out.iterdir()} == {RESULTS, TABLE}


def test_another_checkpoint_is_told_by_its_content(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = images(tmp_path / "mine", 4), tmp_path / "found"
    moved = tmp_path / "moved.ckpt"
    moved.write_bytes(Path(checkpoint).read_bytes())
    rest = [str(folder), "--images", "false", "--threshold", "0.3", "--batch_size", "1", "--out", str(out)]
    with monkeypatch.context() as patched:
        interrupt(3, patched)
        assert main(["localize", checkpoint, *rest]) == 130
    changed = tmp_path / "changed.ckpt"
    content = read_checkpoint(moved)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = content["state_dict"][name] + 1e-6
    torch.save(content, changed)
    assert main(["localize", str(changed), *rest]) == 2
    assert "model: sha256" in capsys.readouterr().err
    assert main(["localize", str(moved), *rest]) == 0  # the same one, elsewhere
    assert "of 4 images were finished by an interrupted run" in capsys.readouterr().err


def test_new_images_are_taken_in_by_a_run_that_goes_on(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = images(tmp_path / "mine", 4), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--batch_size", "1", "--out", str(out)]
    with monkeypatch.context() as patched:
        interrupt(3, patched)
        assert main(words) == 130
    (folder / "000").mkdir()
    Image.new("RGB", (20, 30), "red").save(folder / "000" / "000.jpg")  # sorted before, and of the same name
    assert main(words) == 0
    items = content_of(out)["localizations"]
    assert [Path(item["file"]).name for item in items] == ["000.png", "000.jpg", "001.png", "002.png", "003.png"]
    assert [item["image"] for item in items[:2]] == ["images/000.jpg", "images/000-2.jpg"]
    with Image.open(out / items[1]["image"]) as drawn:
        assert drawn.size == (2 * 20 + 4, 30)


def finished(name: str, place: int) -> Finished:
    boxes = np.array([[0.1 + place, 1 / 3, 10.0, 20.0]])
    finding = LocalizationRecord(
        source=name,
        label="a\nb",
        class_index=1,
        score=2 / 3,
        boxes=boxes,
        confidence=np.array([1 / 7]),
        size=(30, 40),
        threshold=0.2,
        protocol="standard",
    )
    return Finished(name, f"{place}", [finding], [{"mask": "m"}])


NAMES = [os.fsdecode(name) for name in (b"bytes \xff\xfe.jpg", b"line\nend.jpg", "🐦\u2028.jpg".encode())]


def add_and_stop(path: Path, settings: dict[str, object], places: range, before: int) -> None:
    with open_journal(path, settings) as journal:
        assert len(journal) == before
        for place in places:
            journal.add(finished(NAMES[place], place))
        raise KeyError


@pytest.mark.parametrize("cut", [1, 40, 200])
def test_the_journal_gives_back_what_it_took(tmp_path: Path, cut: int) -> None:
    path, settings = tmp_path / "new" / "journal", {"threshold": 0.1, "viewing": "plain"}
    with pytest.raises(KeyError):
        add_and_stop(path, settings, range(3), before=0)
    path.write_bytes(path.read_bytes()[:-cut])  # the last line was written in part
    with pytest.raises(KeyError):
        add_and_stop(path, settings, range(2, 3), before=2)
    with open_journal(path, settings) as journal:
        assert journal.stems == ["0", "1", "2"]
        files = [Path(name) for name in reversed(NAMES)]
        for place, one in zip((2, 1, 0), journal.finished([*files, Path("another")]), strict=True):
            expected = finished(NAMES[place], place)
            assert one.line() == expected.line()
            assert one.findings[0].boxes.tolist() == expected.findings[0].boxes.tolist()
            assert one.findings[0].confidence.tolist() == [1 / 7]
    assert not path.exists()


def test_a_journal_without_images_binds_nobody(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with pytest.raises(KeyError):
        add_and_stop(path, {"threshold": 0.1}, range(0), before=0)
    assert not path.exists()
    path.write_bytes(b'{"settings": {"thre')  # ended while it wrote its first line
    with open_journal(path, {"threshold": 0.2}) as journal:
        assert len(journal) == 0
        assert json.loads(path.read_bytes().splitlines()[0]) == {"settings": {"threshold": 0.2}}
    path.write_bytes(b"what is this\n")
    with open_journal(path, {"threshold": 0.2}) as journal:
        assert len(journal) == 0


def test_names_of_all_kinds(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "mine", tmp_path / "found"
    folder.mkdir()
    names = [
        *map(os.fsencode, NAMES),
        b"x" * 246 + b".jpg",
        "é".encode() * 122 + b".jpeg",
        b"\xff.jpg",
        b"\x1b[31m.jpg",
    ]
    for name in names:
        Image.new("RGB", (30, 20), "green").save(folder / os.fsdecode(name), "JPEG")
    (folder / os.fsdecode(b"broken \xff\n.png")).write_bytes(b"")
    (folder / "circle").symlink_to(folder)
    (folder / "itself.jpg").symlink_to(folder / "itself.jpg")
    words = ["localize", checkpoint, str(folder), "--masks", "--top_k", "2", "--out", str(out)]
    assert main([*words, "--format", *list_formats()]) == 1
    assert "2 of 9 files could not be read" in capsys.readouterr().err
    content = content_of(out)
    assert len(content["localizations"]) == 2 * len(names)
    assert sum("\ufffd" in item["file"] for item in content["localizations"]) == 2 * 3
    for kind in ("image", "mask"):
        shown = [out / item[kind] for item in content["localizations"]]
        assert all(path.is_file() for path in shown)
        assert len(set(shown)) == (len(names) if kind == "image" else 2 * len(names))
    assert {Path(item["file"]).name for item in content["unreadable"]} == {"broken \ufffd\n.png", "itself.jpg"}
    for name in list_formats():
        assert len(FORMATS[name].read(out / FORMATS[name].outputs[0])) == len(names), name


def test_masks_lie_on_the_images_own_pixels(checkpoint: str, tmp_path: Path) -> None:
    folder, out = images(tmp_path / "mine", 2), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--masks", "--images", "false", "--out", str(out)]
    assert main([*words, "--threshold", "0.3"]) == 0
    localizer = Localizer.from_checkpoint(checkpoint, "cpu", threshold=0.3)
    for item, result in zip(content_of(out)["localizations"], localizer(sorted(folder.iterdir())), strict=True):
        assert "image" not in item
        with Image.open(out / item["mask"]) as mask:
            assert (mask.mode, mask.size) == ("L", (46, 33))
            assert np.array_equal(np.asarray(mask), 255 * result.mask_on_image())
            assert np.asarray(mask).any()


def test_several_classes_and_none_of_them(checkpoint: str, tmp_path: Path) -> None:
    folder, out = images(tmp_path / "mine", 2), tmp_path / "found"
    words = ["localize", checkpoint, str(folder), "--out", str(out), "--min_score"]
    assert main([*words, "0.999", "--top_k", "3", "--format", "csv"]) == 0
    items = content_of(out)["localizations"]
    assert [Path(item["file"]).name for item in items] == ["000.png"] * 3 + ["001.png"] * 3
    for three in (items[:3], items[3:]):
        scores = [item["score"] for item in three]
        assert scores == sorted(scores, reverse=True)
        assert len({item["label"] for item in three}) == 3
        assert [item["boxes"] for item in three] == [[], [], []]
    with Image.open(out / items[0]["image"]) as drawn:
        assert drawn.size == (2 * 46 + 4, 3 * 33 + 2 * 4)  # a row for each class
    assert (out / "boxes.csv").read_text().count("\n") == 7


def test_no_localization_outlives_its_image(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, made, most = images(tmp_path / "mine", 60), list[Any](), 0
    check = Localization.__post_init__

    def counting(self: Localization) -> None:
        nonlocal most
        made.append(weakref.ref(self))
        most = max(most, sum(one() is not None for one in made))
        check(self)

    monkeypatch.setattr(Localization, "__post_init__", counting)
    words = ["localize", checkpoint, str(folder), "--batch_size", "2", "--top_k", "2", "--format", "coco"]
    assert main([*words, "--out", str(tmp_path / "found")]) == 0
    assert len(made) == 2 * 60
    # Two classes of each image: a batch, those that threads draw, and the one that is handed over.
    assert most <= 2 * (2 + 2 * THREADS + 2)


@pytest.mark.parametrize("place", ["file/found", "file"])
def test_an_output_that_cannot_be_written_is_told_before_any_work(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images(tmp_path / "mine", 1)
    (tmp_path / "file").write_text("a person's work")
    # The checkpoint is not even looked for.
    assert main(["localize", "nowhere.ckpt", str(folder), "--out", str(tmp_path / place)]) == 2
    assert "(Not a directory); choose another folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "a person's work"


def test_a_full_disk_is_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images(tmp_path / "mine", 1)
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("/dev/full, which is always full, is absent")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: full.open("wb", buffering=0))
    assert main(["localize", "nowhere.ckpt", str(folder), "--out", str(tmp_path / "found")]) == 2
    assert "(No space left on device); choose another folder" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
