"""What every format must do, and several formats in one pass."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.examples import CLASSES, HOSTILE, golden_results, localization, read_annotations
from tokenloc.export import FORMATS, Destination, tables, write_annotations
from tokenloc.inference import Localization

GOLDEN = Path(__file__).parent / "golden"
STREAMED = ("coco", "csv", "label-studio", "parquet")
every_format = pytest.mark.parametrize("name", FORMATS.names())


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_golden_files(tmp_path: Path) -> None:
    """Without Parquet, which is not text. Review a difference before you copy it to tests/export/golden."""
    root = Path("/nowhere/photos")
    formats = [FORMATS[name] for name in FORMATS.names() if name != "parquet"]
    write_annotations(formats, golden_results(root), Destination(tmp_path, CLASSES, root))
    written, golden = files_of(tmp_path), files_of(GOLDEN)
    assert written.keys() == golden.keys()
    for name, content in golden.items():
        assert written[name].decode() == content.decode(), name


@every_format
def test_existing_files_need_overwrite(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "new/folder"
    paths = FORMATS[name].write(golden_results("p"), CLASSES, folder)
    assert sorted(paths) == sorted(folder.iterdir())
    before = files_of(folder)
    with pytest.raises(FileExistsError, match=rf"{paths[0].name} already exists; .*--overwrite"):
        FORMATS[name].write([], (), folder)
    assert files_of(folder) == before
    FORMATS[name].write([], (), folder, overwrite=True)
    assert read_annotations(name, folder) == []


@every_format
def test_an_interruption_leaves_existing_files_unchanged(name: str, tmp_path: Path) -> None:
    def interrupted() -> Iterator[Localization]:
        yield localization("a.jpg")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FORMATS[name].write(interrupted(), CLASSES, tmp_path)
    assert list(tmp_path.iterdir()) == []
    FORMATS[name].write([localization("b.jpg")], CLASSES, tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        FORMATS[name].write(interrupted(), CLASSES, tmp_path, overwrite=True)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize(
    ("index", "classes", "message"),
    [
        (3, ("a", "b", "c", "dog"), r"a\.jpg: class 3 is 'null' in the .*, but 'dog' among the 4 given classes"),
        (3, ("null",), "but None among the 1 given classes"),
        (-1, CLASSES, "class -1 is 'null' in the localization, but None among the 4"),
    ],
)
def test_classes_in_another_order_are_refused(
    index: int, classes: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    formats = [FORMATS[name] for name in FORMATS.names()]
    with pytest.raises(ValueError, match=message):
        write_annotations(formats, [localization("a.jpg", index=index)], Destination(tmp_path, classes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", STREAMED)
def test_several_classes_per_image(name: str, tmp_path: Path) -> None:
    first = localization("a.jpg", [[0, 0, 5, 5]], 0, score=0.9)
    second = localization("a.jpg", [[1, 1, 8, 8], [2, 2, 3, 3]], 3, score=0.1)
    FORMATS[name].write([[first, second]], CLASSES, tmp_path)
    (annotation,) = read_annotations(name, tmp_path)
    assert [label for label, _ in annotation.objects] == ["bird", "null", "null"]
    assert annotation.scores == (0.9, 0.1, 0.1)


@pytest.mark.parametrize("name", [name for name in FORMATS.names() if name != "yolo"])
def test_class_names_with_markup_and_control_characters(name: str, tmp_path: Path) -> None:
    results = [localization(f"{index}.jpg", index=index, classes=HOSTILE) for index in range(len(HOSTILE))]
    FORMATS[name].write(results, HOSTILE, tmp_path)
    read = {one.file_name: one.objects[0][0] for one in read_annotations(name, tmp_path)}
    expected = [label.replace("\x07", "\ufffd") for label in HOSTILE]
    trimmed = [label.strip() for label in expected] if name == "voc" else expected
    assert [read[f"{index}.jpg"] for index in range(len(HOSTILE))] == trimmed


@pytest.mark.parametrize("name", STREAMED)
def test_memory_is_constant(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS_PER_GROUP", 100)

    def peak(count: int) -> int:
        tracemalloc.start()
        results = (localization(f"{index:06}.jpg") for index in range(count))
        FORMATS[name].write(results, CLASSES, tmp_path, overwrite=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(2300)  # imports and caches
    few = peak(300)
    assert peak(2300) < few + 150_000  # two thousand rows in memory take more


def test_image_names_are_relative_to_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    destination = Destination(tmp_path, CLASSES, Path("photos"))
    assert destination.image_name("photos/a/x.jpg") == "a/x.jpg"
    assert destination.image_name(str(tmp_path / "photos/../photos/x.jpg")) == "x.jpg"
    assert destination.image_name("other/x.jpg") == "other/x.jpg"
    assert Destination(tmp_path, CLASSES).image_name("photos/x.jpg") == "photos/x.jpg"
    assert destination.image_name("photos/caf\udce9.jpg") == "caf\ufffde9.jpg"
