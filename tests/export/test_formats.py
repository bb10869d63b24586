"""What every format must do, and what several do at once."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.examples import CLASSES, HOSTILE, found, golden_results
from tokenloc.export import FORMATS, Destination, list_formats, parquet, writing
from tokenloc.inference import Localization

GOLDEN = Path(__file__).parent / "golden"
STREAMED = ("coco", "csv", "label-studio", "parquet")


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_names_of_the_formats() -> None:
    assert list_formats() == ["coco", "csv", "label-studio", "parquet", "voc", "yolo"]
    assert list_formats("*o") == ["coco", "label-studio", "yolo"]


def test_golden_files(tmp_path: Path) -> None:
    """All but Parquet, which is no text; look at a difference before you copy it to tests/export/golden."""
    root = Path("/nowhere/photos")
    destination = Destination(tmp_path, CLASSES, root)
    with writing([name for name in list_formats() if name != "parquet"], destination) as add:
        for result in golden_results(root):
            add(result)
    written, golden = files_of(tmp_path), files_of(GOLDEN)
    assert written.keys() == golden.keys()
    for name, content in golden.items():
        assert written[name].decode() == content.decode(), name


@pytest.mark.parametrize("name", list_formats())
def test_outputs_are_the_paths_that_are_returned(name: str, tmp_path: Path) -> None:
    paths = FORMATS[name].write(golden_results("p"), CLASSES, tmp_path / "new/folder")
    assert sorted(paths) == sorted((tmp_path / "new/folder").iterdir())


@pytest.mark.parametrize("name", list_formats())
def test_nothing_is_overwritten_unasked(name: str, tmp_path: Path) -> None:
    (path, *_) = FORMATS[name].write(golden_results("p"), CLASSES, tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(FileExistsError, match=rf"{path.name} exists already; .*--overwrite"):
        FORMATS[name].write([], CLASSES, tmp_path)
    assert files_of(tmp_path) == before
    FORMATS[name].write([], CLASSES, tmp_path, overwrite=True)
    assert files_of(tmp_path) != before
    assert FORMATS[name].read(path) == []


@pytest.mark.parametrize("name", list_formats())
def test_an_interruption_leaves_nothing_or_what_was_there(name: str, tmp_path: Path) -> None:
    def interrupted() -> Iterator[Localization]:
        yield found("a.jpg")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FORMATS[name].write(interrupted(), CLASSES, tmp_path)
    assert list(tmp_path.iterdir()) == []
    FORMATS[name].write([found("b.jpg")], CLASSES, tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        FORMATS[name].write(interrupted(), CLASSES, tmp_path, overwrite=True)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("name", list_formats())
def test_no_image_at_all(name: str, tmp_path: Path) -> None:
    (path, *_) = FORMATS[name].write([], (), tmp_path)
    assert FORMATS[name].read(path) == []


@pytest.mark.parametrize("name", list_formats())
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        FORMATS[name].read(tmp_path / "nowhere")


@pytest.mark.parametrize("name", list_formats())
def test_classes_in_another_order_are_refused(name: str, tmp_path: Path) -> None:
    message = r"a\.jpg: class 3 is 'null' there, but 'dog' among the 4 classes given"
    with pytest.raises(ValueError, match=message):
        FORMATS[name].write([found("a.jpg", index=3)], ("a", "b", "c", "dog"), tmp_path)
    with pytest.raises(ValueError, match="but None among the 1 classes given"):
        FORMATS[name].write([found("a.jpg", index=3)], ("null",), tmp_path)
    with pytest.raises(ValueError, match="class -1 is 'null' there, but None among the 4"):
        FORMATS[name].write([found("a.jpg", index=-1)], CLASSES, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", STREAMED)
def test_several_classes_in_one_image(name: str, tmp_path: Path) -> None:
    both = [found("a.jpg", [[0, 0, 5, 5]], 0, score=0.9), found("a.jpg", [[1, 1, 8, 8], [2, 2, 3, 3]], 3, score=0.1)]
    (path, *_) = FORMATS[name].write([both], CLASSES, tmp_path)
    (annotation,) = FORMATS[name].read(path)
    assert [label for label, _ in annotation.objects] == ["bird", "null", "null"]
    assert annotation.scores == (0.9, 0.1, 0.1)


@pytest.mark.parametrize("name", [name for name in list_formats() if name != "yolo"])
def test_classes_that_try_to_break_out(name: str, tmp_path: Path) -> None:
    results = [found(f"{index}.jpg", index=index, classes=HOSTILE) for index in range(len(HOSTILE))]
    (path, *_) = FORMATS[name].write(results, HOSTILE, tmp_path)
    read = {one.file_name: one.objects[0][0] for one in FORMATS[name].read(path)}
    expected = [label.replace("\x07", "\ufffd") for label in HOSTILE]
    trimmed = [label.strip() for label in expected] if name == "voc" else expected
    assert [read[f"{index}.jpg"] for index in range(len(HOSTILE))] == trimmed


@pytest.mark.parametrize("name", STREAMED)
def test_memory_stays_flat(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROWS_AT_A_TIME", 100)

    def peak(count: int) -> int:
        tracemalloc.start()
        results = (found(f"{index:06}.jpg") for index in range(count))
        FORMATS[name].write(results, CLASSES, tmp_path, overwrite=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2300)  # what is imported and cached on the way counts for nothing
    few = peak(300)
    assert peak(2300) < few + 150_000  # two thousand rows, or results, in memory take more


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown format 'cocoa'; did you mean 'coco'"):
        writing(["cocoa"], Destination(tmp_path, CLASSES))


def test_images_are_named_relative_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    destination = Destination(tmp_path, CLASSES, Path("photos"))
    assert destination.name_of("photos/a/x.jpg") == "a/x.jpg"
    assert destination.name_of(str(tmp_path / "photos/../photos/x.jpg")) == "x.jpg"
    assert destination.name_of("other/x.jpg") == "other/x.jpg"
    assert Destination(tmp_path, CLASSES).name_of("photos/x.jpg") == "photos/x.jpg"
    assert destination.name_of("photos/caf\udce9.jpg") == "caf\ufffd.jpg"
