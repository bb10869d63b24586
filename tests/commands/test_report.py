"""`tokenloc report` on the command line: accepted folders, refused input, messages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.evaluations import SCENES, named_samples, scenes, with_column, write_evaluation
from tokenloc._files import write_text
from tokenloc.cli import main
from tokenloc.commands.report import find_evaluation
from tokenloc.reporting.drawing import save_image
from tokenloc.reporting.runs import read_run

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of scenes; tests change copies of it."""
    return write_evaluation(tmp_path_factory.mktemp("made") / "mine", scenes(), data=SCENES)


def refused(capsys: Capture, *words: str | Path) -> str:
    """Return the message for input that is refused, without writing a report."""
    out = Path(str(words[0])).parent / "refused.html"
    assert main(["report", *map(str, words), "--out", str(out)]) == 2
    assert not out.exists()
    return " ".join(capsys.readouterr().err.split())


def test_a_trained_and_an_evaluated_run_have_a_report(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert main(["evaluate", str(run / "checkpoints/best.ckpt"), "--threshold", "0.6", "--out", str(other)]) == 0
    out = tmp_path / "new/report.html"
    assert main(["report", str(run), str(other), "--out", str(out), "--title", "Two <b>"]) == 0
    text = out.read_text(encoding="utf-8")
    assert "<title>Two &lt;b&gt; - tokenloc report</title>" in text
    assert text.count('type="text/plain"') == 24
    assert "tscam on vit_tiny_patch16_224" in text
    assert text.count('type="range"') == 2
    assert not list(tmp_path.glob("new/.partial*"))


def test_the_evaluation_of_a_run_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("flip", "sat"):
        write_text(run / "evaluation" / name / "metrics.json", "{}")
    with pytest.raises(ValueError, match=r"several evaluations: flip, sat; choose one with --evaluation NAME"):
        find_evaluation(run)
    assert find_evaluation(run, "sat") == run / "evaluation/sat"
    assert find_evaluation(run / "evaluation/flip") == run / "evaluation/flip"
    with pytest.raises(FileNotFoundError, match=r"has no evaluation 'ten'; it has: flip, sat"):
        find_evaluation(run, "ten")
    write_text(run / "evaluation/standard/metrics.json", "{}")
    assert find_evaluation(run) == run / "evaluation/standard"
    shutil.rmtree(run / "evaluation/standard")
    shutil.rmtree(run / "evaluation/sat")
    assert find_evaluation(run) == run / "evaluation/flip"


def test_folders_without_an_evaluation_are_refused(made: Path, tmp_path: Path, capsys: Capture) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty has no evaluation: no metrics.json in it or in evaluation/NAME" in refused(capsys, empty)
    copy = shutil.copytree(made, tmp_path / "copy")
    (copy / "images.csv").unlink()
    assert "`tokenloc evaluate`" in refused(capsys, copy)
    for broken in ("{", "[]", '{"protocol": "sat"}'):
        (copy / "metrics.json").write_text(broken)
        assert "copy/metrics.json is not the result of an evaluation" in refused(capsys, copy)


def test_damaged_files_are_refused(made: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    text = (copy / "images.csv").read_text()
    (copy / "images.csv").write_text("\n".join(text.splitlines()[:-1]))
    assert "has 17 images, metrics.json has 18: they are not from one evaluation" in refused(capsys, copy)
    (copy / "images.csv").write_text(text)
    with_column(copy, "largest", ["much"] * 18)
    assert "copy/images.csv has 'much'" in refused(capsys, copy)
    (copy / "images.csv").write_text(text)
    (copy / "figures/threshold.csv").write_text("threshold,0.5\n0.1,x\n")
    assert "threshold.csv is damaged" in refused(capsys, copy)


def test_runs_that_cannot_be_compared_are_refused(made: Path, tmp_path: Path, capsys: Capture) -> None:
    sat = write_evaluation(tmp_path / "sat", scenes(), protocol="sat")
    expected = "mine is under protocol 'standard', sat under 'sat': their metrics cannot be compared"
    assert expected in refused(capsys, made, sat)
    other = write_evaluation(tmp_path / "other", named_samples(["a", "b"], ["one", "two"]))
    assert "mine and other have different images or classes" in refused(capsys, made, other)
    renamed = shutil.copytree(made, tmp_path / "renamed")
    with_column(renamed, "label", ["other"] * 18)
    assert "mine and renamed have different images or classes" in refused(capsys, made, renamed)
    reversed_ = shutil.copytree(made, tmp_path / "reversed")
    first, *lines = (made / "images.csv").read_text().splitlines(keepends=True)
    (reversed_ / "images.csv").write_text("".join([first, *lines[::-1]]))
    assert "in different orders" in refused(capsys, made, reversed_)
    assert "1 to 6 runs, got 7" in refused(capsys, *[made] * 7)
    assert "images must be at least 1, or all, got 0" in refused(capsys, made, "--images", "0")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda path: path.unlink(), "copy/boxes.npz: `tokenloc evaluate` writes it"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "boxes.npz is damaged"),
        (lambda path: shutil.copy(path.parents[1] / "other/boxes.npz", path), "is from another evaluation"),
    ],
)
def test_without_matching_boxes_a_report_has_no_slider(
    made: Path, tmp_path: Path, change: Callable[[Path], object], expected: str, capsys: Capture
) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    write_evaluation(tmp_path / "other", scenes(), seed=9)
    change(copy / "boxes.npz")
    assert main(["report", str(copy), "--out", str(tmp_path / "report.html")]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert expected in printed
    assert "there is no threshold slider" in printed
    assert 'type="range"' not in (tmp_path / "report.html").read_text()


def test_notes_name_images_that_no_metric_covers(made: Path) -> None:
    missing = {"boxes": ["a", "b"], "masks": [], "later": ["c"]}
    unreadable = [{"id": "x/<1>.jpg", "reason": "empty"}]
    run = read_run(made)
    assert replace(run, content={**run.content, "missing": missing, "unreadable": unreadable}).notes == [
        "2 images have no true box, although others have, and are in no box metric: a, b",
        "1 image could not be read: x/<1>.jpg",
    ]


def test_moved_images_are_found_by_their_root(tmp_path: Path, capsys: Capture) -> None:
    for name in ("a/1.jpg", "b/2.jpg"):
        save_image(Image.new("RGB", (60, 40), "teal"), tmp_path / "photos" / name)
    data = {"name": "folder", "root": str(tmp_path / "before"), "split": "all", "options": {}}
    run = write_evaluation(tmp_path / "run", named_samples(["a/1.jpg", "b/2.jpg"], ["a", "b"]), data=data)
    out = tmp_path / "report.html"
    words = ["report", str(run), "--out", str(out)]
    assert main(words) == 0
    assert "give their folder with --root FOLDER" in " ".join(capsys.readouterr().err.split())
    assert 'type="text/plain"' not in out.read_text()
    assert main([*words, "--root", str(tmp_path / "photos")]) == 0
    assert out.read_text().count('type="text/plain"') == 2
    assert main([*words[:2], "--out", str(out / "report.html")]) == 2  # below a file
