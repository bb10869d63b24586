"""Images on Ray: the same table as on one machine, and nothing lost."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.inference.test_streaming import CLASSES, images, make
from tests.test_docs import blocks
from tokenloc.cli import main
from tokenloc.commands import localize_ray as command
from tokenloc.data import find_images
from tokenloc.export import Destination
from tokenloc.export import ray_data as module
from tokenloc.export._rows import COLUMNS
from tokenloc.export.ray_data import LocalizingActor, localize_dataset

COUNT = 21


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make(objects="all").save_pretrained(tmp_path / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images, one of them called strangely."""
    folder = tmp_path / "my photos"
    for index, image in enumerate(images(COUNT)):
        path = folder / f"{index % 2}" / ("ö, 🐦.png" if index == 4 else f"{index}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


def table_of(checkpoint: Path, folder: Path, out: Path, *flags: str) -> pyarrow.Table:
    """What one machine writes."""
    words = ["localize", str(checkpoint), str(folder), "--out", str(out), "--format", "parquet", "--device", "cpu"]
    assert main([*words, "--images", "false", "--batch-size", "4", *flags]) == 0
    return parquet.read_table(out / "boxes.parquet")


def actor(checkpoint: Path, root: Path | None = None, top_k: int = 1, **options: Any) -> LocalizingActor:
    return LocalizingActor(str(checkpoint), Destination(Path(), CLASSES, root), 4, top_k, {"device": "cpu", **options})


def test_the_rows_are_those_of_one_machine(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    expected = table_of(checkpoint, photos, tmp_path / "found", "--objects", "all", "--top_k", "2")
    rows = actor(checkpoint, photos, 2, objects="all")(
        pyarrow.table({"path": [str(path) for path in find_images(photos)]})
    )
    assert rows.drop_columns("error").equals(expected)
    assert rows["error"].null_count == len(rows) > 2 * COUNT


def test_bytes_serve_as_paths_do(checkpoint: Path, photos: Path) -> None:
    files = find_images(photos)
    contents = [file.read_bytes() for file in files]
    by_path = actor(checkpoint)(pyarrow.table({"path": [str(file) for file in files]}))
    named = actor(checkpoint)(
        pyarrow.table({"bytes": contents, "path": [str(file) for file in files], "other": files and [1] * COUNT})
    )
    assert named.equals(by_path)
    unnamed = actor(checkpoint)(pyarrow.table({"bytes": contents}))
    assert unnamed["file"].to_pylist() == [f"sha256:{hashlib.sha256(one).hexdigest()[:16]}" for one in contents]
    assert unnamed.drop_columns("file").equals(by_path.drop_columns("file"))


def test_what_cannot_be_read_stays_in_its_place_with_the_reason(checkpoint: Path, photos: Path) -> None:
    good = str(find_images(photos)[0])
    (photos / "broken.jpg").write_bytes(b"no image")
    paths = [good, str(photos / "broken.jpg"), None, str(photos / "gone.jpg"), good]
    rows = actor(checkpoint)(pyarrow.table({"path": paths, "bytes": pyarrow.array([None] * 5, pyarrow.binary())}))
    reasons = rows["error"].to_pylist()
    assert [reason is None for reason in reasons] == [True, False, False, False, True]
    assert "broken.jpg: not an image" in reasons[1]
    assert "expected a path, bytes" in reasons[2]
    assert "gone.jpg: no such image" in reasons[3]
    assert rows.slice(0, 1).equals(rows.slice(4, 1))
    broken = rows.slice(1, 1).to_pylist()[0]
    assert {name for name, value in broken.items() if value is not None} == {"file", "error"}


def test_bytes_that_are_none(checkpoint: Path) -> None:
    rows = actor(checkpoint)(pyarrow.table({"bytes": ["text", "", None]}))
    assert [reason is None for reason in rows["error"].to_pylist()] == [False] * 3
    assert rows.schema.names == [*COLUMNS, "error"]


def test_a_batch_of_the_network_is_not_exceeded(
    checkpoint: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, sizes = actor(checkpoint), []
    look = one.localizer._localize
    monkeypatch.setattr(one.localizer, "_localize", lambda batch, top_k: sizes.append(len(batch)) or look(batch, top_k))
    one(pyarrow.table({"path": [str(path) for path in find_images(photos)]}))
    assert sizes == [4, 4, 4, 4, 4, 1]


class Pretended:
    """A Ray dataset that only tells its columns."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def columns(self) -> list[str]:
        return list(self.names)


def test_what_is_wrong_is_told_before_anything_begins(checkpoint: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed; it belongs to the extra ray")
    with pytest.raises(ValueError, match=r"must have a column path or bytes; there is image, label"):
        localize_dataset(Pretended("image", "label"), checkpoint)
    with pytest.raises(ValueError, match="actors must be at least 1; got 0"):
        localize_dataset(Pretended("path"), checkpoint, actors=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got -1"):
        localize_dataset(Pretended("path"), checkpoint, batch_size=-1)
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*gone"):
        localize_dataset(Pretended("path"), checkpoint / "gone")


def test_without_ray_the_extra_is_named(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["localize-ray", str(checkpoint), str(photos), "--out", str(tmp_path / "found")]) == 2
    assert "ray is not installed; install it with: pip install 'tokenloc[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
    with pytest.raises(ImportError, match=r"pip install 'tokenloc\[ray\]'"):
        localize_dataset(Pretended("path"), checkpoint)


@pytest.mark.parametrize(
    ("cpus", "available", "gpus", "actors"), [(8, 0, 0, 7), (1, 0, 0, 1), (2, 0, 0, 1), (16, 4, 1, 4), (16, 2, 0.5, 4)]
)
def test_as_many_actors_as_there_is_room_for(cpus: int, available: int, gpus: float, actors: int) -> None:
    assert module._actors({"CPU": cpus, "GPU": available}, gpus) == actors


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of two logical processors on this machine, without dashboard or network."""
    ray = pytest.importorskip("ray", reason="ray is not installed; it belongs to the extra ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # at its default of 15 a busy machine starves the workers
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100_000_000)
        yield ray
        ray.shutdown()
    assert not ray.is_initialized()


# Ray warns of itself.
@pytest.mark.usefixtures("ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
class TestOnRay:
    """The command on a local Ray."""

    def test_folders_give_the_table_of_one_machine(
        self, checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        expected = table_of(checkpoint, photos, tmp_path / "one")
        (photos / "1/broken.jpg").write_bytes(b"no image")
        words = ["localize-ray", str(checkpoint), str(photos), "--out", str(tmp_path / "many"), "--batch-size", "4"]
        assert main(words) == 1
        assert "1 images could not be read" in capsys.readouterr().err
        found = parquet.read_table(tmp_path / "many/boxes.parquet")
        for one, other in zip(found.to_pylist(), expected.to_pylist(), strict=True):
            # The broken one moves the bounds of batches, which may round differently.
            assert one == pytest.approx(other, abs=1e-4)
        assert found.schema == expected.schema
        (broken,) = parquet.read_table(tmp_path / "many/unreadable.parquet").to_pylist()
        assert broken["file"] == "1/broken.jpg"
        assert "not an image" in broken["error"]
        assert main(words) == 2
        assert "boxes.parquet exists already" in capsys.readouterr().err

    def test_a_table_of_images_gives_a_table_of_boxes(
        self, ray: Any, checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = find_images(photos)
        table = pyarrow.table({"label": ["x"] * COUNT, "bytes": [file.read_bytes() for file in files]})
        parquet.write_table(table.append_column("path", [[str(file) for file in files]]), tmp_path / "in.parquet")
        monkeypatch.chdir(tmp_path)
        words = ["localize-ray", str(checkpoint), "in.parquet", "--out", str(tmp_path / "out")]
        assert main([*words, "--batch_size", "4", "--top_k", "2", "--actors", "1"]) == 0
        expected = actor(checkpoint, top_k=2)(pyarrow.table({"path": [str(file) for file in files]}))
        found = parquet.read_table(tmp_path / "out/boxes.parquet")
        assert found.equals(expected.drop_columns("error"))
        assert not (tmp_path / "out/unreadable.parquet").exists()
        assert ray.is_initialized()  # it was running before, and is not ours to end

    def test_what_the_page_shows(
        self, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        shutil.copytree(run, "runs/mine")
        files = find_images(photos)
        table = {"path": [file.name for file in files], "bytes": [file.read_bytes() for file in files]}
        parquet.write_table(pyarrow.table(table), "images.parquet")
        (code,) = blocks("docs/ray.md", "python")
        for name in ("images.parquet", "boxes"):  # this Ray was started in another folder
            code = code.replace(f'"{name}"', repr(str(tmp_path / name)))
        exec(compile(code, "ray.md", "exec"), {})
        assert {file.name for file in files} == set(parquet.read_table("boxes")["file"].to_pylist())


def test_inputs_that_do_not_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"either images or Parquet files, not both: a\.parquet and photos"):
        command._opened(None, ["photos", "a.parquet"])
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet: no such file or folder; check the path"):
        command._opened(None, [str(tmp_path / "gone.parquet")])
