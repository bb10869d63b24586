"""`tokenloc report` on the command line: which folders it takes, what it refuses, what it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.evaluations import SCENES, named_samples, scenes, with_column, write_evaluation
from tokenloc.cli import main
from tokenloc.commands.report import find_evaluation, read_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of scenes; tests copy what they change."""
    return write_evaluation(tmp_path_factory.mktemp("made") / "mine", scenes(), data=SCENES)


def told(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """What the command says of input that it refuses; nothing must be written."""
    out = Path(str(words[0])).parent / "refused.html"
    assert main(["report", *map(str, words), "--out", str(out)]) == 2
    assert not out.exists()
    return " ".join(capsys.readouterr().err.split())


def test_a_trained_and_measured_run_has_a_report(run: Path, tmp_path: Path) -> None:
    """From the real commands: the run as training left it, beside an evaluation at another threshold."""
    other = tmp_path / "other"
    assert main(["evaluate", str(run / "checkpoints/best.ckpt"), "--threshold", "0.6", "--out", str(other)]) == 0
    words = ["report", str(run), str(other), "--out", str(tmp_path / "new/report.html"), "--title", "Two <b>"]
    assert main(words) == 0
    text = (tmp_path / "new/report.html").read_text(encoding="utf-8")
    assert "<title>Two &lt;b&gt; - tokenloc report</title>" in text
    assert text.count('type="text/plain"') == 24
    assert "tscam on vit_tiny_patch16_224" in text
    assert text.count('type="range"') == 2
    assert not list(tmp_path.glob("new/.partial*"))


def test_the_evaluation_that_is_meant_is_found(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("flip", "sat"):
        shutil.copytree(made, run / "evaluation" / name)
    with pytest.raises(ValueError, match=r"several evaluations: flip, sat; choose one by --evaluation NAME"):
        find_evaluation(run)
    assert find_evaluation(run, "sat") == run / "evaluation/sat"
    assert find_evaluation(run / "evaluation/flip") == run / "evaluation/flip"
    with pytest.raises(FileNotFoundError, match=r"has no evaluation 'ten'; it has: flip, sat"):
        find_evaluation(run, "ten")
    shutil.copytree(made, run / "evaluation/standard")
    assert find_evaluation(run) == run / "evaluation/standard"
    shutil.rmtree(run / "evaluation/standard")
    shutil.rmtree(run / "evaluation/sat")
    assert find_evaluation(run) == run / "evaluation/flip"


def test_folders_that_are_no_runs_are_told(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "empty is no evaluation: there is no metrics.json in it, nor in evaluation/NAME" in told(capsys, empty)
    copy = shutil.copytree(made, tmp_path / "copy")
    (copy / "images.csv").unlink()
    assert "copy/images.csv: `tokenloc evaluate` writes it" in told(capsys, copy)
    for broken in ("{", "[]", '{"protocol": "sat"}'):
        (copy / "metrics.json").write_text(broken)
        assert "copy/metrics.json is no evaluation" in told(capsys, copy)


def test_damaged_files_are_told(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    lines = (copy / "images.csv").read_text().splitlines(keepends=True)
    (copy / "images.csv").write_text("".join(lines[:-1]))
    assert "has 17 images, metrics.json beside it 18: they are not of one evaluation" in told(capsys, copy)
    (copy / "images.csv").write_text("".join(lines))
    with_column(copy, "largest", ["much"] * 18)
    assert "has 'much' for largest, expected a number" in told(capsys, copy)
    (copy / "images.csv").write_text("".join(lines))
    (copy / "figures/threshold.csv").write_text("threshold,0.5\n0.1,x\n")
    assert "threshold.csv is damaged" in told(capsys, copy)


def test_runs_that_cannot_stand_side_by_side_are_told(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sat = write_evaluation(tmp_path / "sat", scenes(), protocol="sat")
    said = told(capsys, made, sat)
    assert "mine is under protocol 'standard', sat under 'sat': their numbers cannot be compared" in said
    other = write_evaluation(tmp_path / "other", named_samples(["a", "b"], ["one", "two"]))
    assert "mine and other are of different images or classes" in told(capsys, made, other)
    renamed = shutil.copytree(made, tmp_path / "renamed")
    with_column(renamed, "label", ["other"] * 18)
    assert "mine and renamed are of different images or classes" in told(capsys, made, renamed)
    turned = shutil.copytree(made, tmp_path / "turned")
    first, *lines = (made / "images.csv").read_text().splitlines(keepends=True)
    (turned / "images.csv").write_text("".join([first, *lines[::-1]]))
    assert "in another order" in told(capsys, made, turned)
    assert "1 to 6 runs, got 7" in told(capsys, *[made] * 7)
    assert "images must be at least 1, or all, got 0" in told(capsys, made, "--images", "0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "there is no"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "is damaged, or not of the form"),
        (lambda path: shutil.copy(path.parents[1] / "other/boxes.npz", path), "is of another evaluation"),
    ],
)
def test_without_boxes_of_its_own_a_report_has_no_slider(
    made: Path, tmp_path: Path, change: object, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    write_evaluation(tmp_path / "other", scenes(), seed=9)
    assert callable(change)
    change(copy / "boxes.npz")
    assert main(["report", str(copy), "--out", str(tmp_path / "report.html")]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert said in printed
    assert "there is no threshold slider" in printed
    assert 'type="range"' not in (tmp_path / "report.html").read_text()


def test_what_is_in_no_number_is_said(made: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    content = json.loads((copy / "metrics.json").read_text())
    content["unreadable"] = [{"id": "x/<1>.jpg", "reason": "empty"}]
    content["missing"] = {"boxes": ["a", "b"], "masks": [], "later": ["c"]}
    (copy / "metrics.json").write_text(json.dumps(content))
    notes = read_run(copy, "copy").notes
    assert notes == [
        "2 images have no true box, where others have, and are in no box metric: a, b",
        "1 images could not be read: x/<1>.jpg",
    ]


def test_images_elsewhere_are_found_by_their_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name in ("a/1.jpg", "b/2.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True)
        Image.new("RGB", (60, 40), "teal").save(path)
    dataset = named_samples(["a/1.jpg", "b/2.jpg"], ["a", "b"])
    data = {"name": "folder", "root": str(tmp_path / "before"), "split": "all", "options": {}}
    run = write_evaluation(tmp_path / "run", dataset, data=data)
    words = ["report", str(run), "--out", str(tmp_path / "report.html")]
    assert main(words) == 0
    assert "--root FOLDER says where they are" in " ".join(capsys.readouterr().err.split())
    assert 'type="text/plain"' not in (tmp_path / "report.html").read_text()
    assert main([*words, "--root", str(tmp_path / "photos")]) == 0
    assert (tmp_path / "report.html").read_text().count('type="text/plain"') == 2


def test_an_output_that_cannot_be_written_is_told_at_once(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", str(made), "--out", str(tmp_path / "file/report.html")]) == 2
