"""Localization on Ray: the same table as on one machine."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.inference.test_streaming import CLASSES, make, make_images
from tests.test_docs import blocks
from tokenloc.cli import main
from tokenloc.commands import localize_ray as command
from tokenloc.data import find_images
from tokenloc.export import Destination, ray_data
from tokenloc.export.ray_data import LocalizingActor, localize_dataset
from tokenloc.export.tables import COLUMNS

COUNT = 21


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make(objects="all").save_pretrained(tmp_path / "model")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of images, one of them with special characters in its name."""
    folder = tmp_path / "my photos"
    for index, image in enumerate(make_images(COUNT)):
        path = folder / f"{index % 2}" / ("ö, 🐦.png" if index == 4 else f"{index}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


def expected_table(checkpoint: Path, folder: Path, out: Path, *flags: str) -> pyarrow.Table:
    """The table that `tokenloc localize` writes."""
    words = ["localize", str(checkpoint), str(folder), "--out", str(out), "--format", "parquet", "--device", "cpu"]
    assert main([*words, "--images", "false", "--batch-size", "4", *flags]) == 0
    return parquet.read_table(out / "boxes.parquet")


def actor(checkpoint: Path, root: Path | None = None, top_k: int = 1, **options: Any) -> LocalizingActor:
    return LocalizingActor(str(checkpoint), Destination(Path(), CLASSES, root), 4, top_k, {"device": "cpu", **options})


def table_of_paths(folder: Path) -> pyarrow.Table:
    return pyarrow.table({"path": [str(path) for path in find_images(folder)]})


def test_rows_equal_those_of_localize(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    expected = expected_table(checkpoint, photos, tmp_path / "found", "--objects", "all", "--top_k", "2")
    rows = actor(checkpoint, photos, 2, objects="all")(table_of_paths(photos))
    assert rows.drop_columns("error").equals(expected)
    assert rows["error"].null_count == len(rows) > 2 * COUNT


def test_bytes_and_paths_give_the_same_rows(checkpoint: Path, photos: Path) -> None:
    paths = table_of_paths(photos)
    contents = [Path(path).read_bytes() for path in paths["path"].to_pylist()]
    by_path = actor(checkpoint)(paths)
    named = paths.append_column("bytes", [contents]).append_column("other", [[1] * COUNT])
    assert actor(checkpoint)(named).equals(by_path)
    unnamed = actor(checkpoint)(pyarrow.table({"bytes": contents}))
    assert unnamed["file"].to_pylist() == [f"sha256:{hashlib.sha256(one).hexdigest()[:16]}" for one in contents]
    assert unnamed.drop_columns("file").equals(by_path.drop_columns("file"))


def test_unreadable_images_keep_their_row_with_the_reason(checkpoint: Path, photos: Path) -> None:
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


def test_invalid_bytes(checkpoint: Path) -> None:
    rows = actor(checkpoint)(pyarrow.table({"bytes": ["text", "", None]}))
    assert [reason is None for reason in rows["error"].to_pylist()] == [False] * 3
    assert rows.schema.names == [*COLUMNS, "error"]


def test_forward_passes_have_the_batch_size(checkpoint: Path, photos: Path) -> None:
    localizing, sizes = actor(checkpoint), list[int]()
    localizing.localizer.model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    localizing(table_of_paths(photos))
    assert sizes == [4, 4, 4, 4, 4, 1]


def fake(*names: str) -> Any:
    """A Ray dataset with column names only."""
    return SimpleNamespace(columns=lambda: list(names))


def test_invalid_input_is_reported_before_the_start(checkpoint: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed; it belongs to the extra ray")
    with pytest.raises(ValueError, match=r"need a column path or bytes; the columns are image, label"):
        localize_dataset(fake("image", "label"), checkpoint)
    with pytest.raises(ValueError, match="actors must be at least 1; got 0"):
        localize_dataset(fake("path"), checkpoint, actors=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1; got -1"):
        localize_dataset(fake("path"), checkpoint, batch_size=-1)
    with pytest.raises(FileNotFoundError, match="no checkpoint at .*gone"):
        localize_dataset(fake("path"), checkpoint / "gone")


def test_inputs_are_either_images_or_tables(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"either images or Parquet files, not both: a\.parquet and photos"):
        command._open_images(None, ["photos", "a.parquet"])
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet: no such file or folder; check the path"):
        command._open_images(None, [str(tmp_path / "gone.parquet")])


def test_without_pyarrow_the_message_names_the_extra(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert main(["localize-ray", str(checkpoint), str(photos), "--out", str(tmp_path / "found")]) == 2
    assert "pyarrow is not installed; install it with: pip install 'tokenloc[ray]'" in capsys.readouterr().err


def test_without_ray_the_message_names_the_extra(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["localize-ray", str(checkpoint), str(photos), "--out", str(tmp_path / "found")]) == 2
    assert "ray is not installed; install it with: pip install 'tokenloc[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
    with pytest.raises(ImportError, match=r"pip install 'tokenloc\[ray\]'"):
        localize_dataset(fake("path"), checkpoint)


@pytest.mark.parametrize(
    ("cpus", "available", "gpus", "actors"), [(8, 0, 0, 7), (1, 0, 0, 1), (2, 0, 0, 1), (16, 4, 1, 4), (16, 2, 0.5, 4)]
)
def test_the_number_of_actors_fits_the_resources(cpus: int, available: int, gpus: float, actors: int) -> None:
    assert ray_data._actor_count({"CPU": cpus, "GPU": available}, gpus) == actors


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


# Ray itself warns.
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning")
class TestOnRay:
    """The command on a local Ray."""

    def test_folders_give_the_table_of_one_machine(
        self, checkpoint: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        expected = expected_table(checkpoint, photos, tmp_path / "one")
        (photos / "1/broken.jpg").write_bytes(b"no image")
        words = ["localize-ray", str(checkpoint), str(photos), "--out", str(tmp_path / "many"), "--batch-size", "4"]
        assert main(words) == 1
        assert "1 image could not be read" in capsys.readouterr().err
        table = parquet.read_table(tmp_path / "many/boxes.parquet")
        for row, other in zip(table.to_pylist(), expected.to_pylist(), strict=True):
            assert row == pytest.approx(other, abs=1e-4)  # the broken image changes the batches, and so rounding
        assert table.schema == expected.schema
        (broken,) = parquet.read_table(tmp_path / "many/unreadable.parquet").to_pylist()
        assert broken["file"] == "1/broken.jpg"
        assert "not an image" in broken["error"]
        assert main(words) == 2
        assert "boxes.parquet already exists" in capsys.readouterr().err

    def test_a_table_of_images_gives_a_table_of_boxes(
        self, ray: Any, checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = find_images(photos)
        table = pyarrow.table({"label": ["x"] * COUNT, "bytes": [file.read_bytes() for file in files]})
        parquet.write_table(table.append_column("path", [[str(file) for file in files]]), tmp_path / "in.parquet")
        monkeypatch.chdir(tmp_path)
        words = ["localize-ray", str(checkpoint), "in.parquet", "--out", str(tmp_path / "out")]
        assert main([*words, "--batch_size", "4", "--top_k", "2", "--actors", "1"]) == 0
        expected = actor(checkpoint, top_k=2)(table_of_paths(photos)).drop_columns("error")
        assert parquet.read_table(tmp_path / "out/boxes.parquet").equals(expected)
        assert not (tmp_path / "out/unreadable.parquet").exists()
        assert ray.is_initialized()  # it was running before, so the command leaves it running

    def test_the_documented_snippet(
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
