from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tokenloc.boxes import Frame
from tokenloc.metrics import stored_maps
from tokenloc.metrics.stored_maps import MapWriter, open_maps, writing_maps

FRAMES = [Frame.resized((500, 333), (224, 224)), Frame.center_cropped((640, 479), (256, 256), (224, 224))]


def write(folder: Path, count: int = 7, side: int = 5) -> list[np.ndarray]:
    maps = list(np.random.default_rng(0).normal(size=(count, side, side)).astype(np.float32))
    with writing_maps(folder, {"input_frame": "resize"}) as writer:
        for index, map_ in enumerate(maps):
            writer.add(f"a/{index}.jpg", map_, [index, 1, 0], FRAMES[index % 2], index / 7 if index else None)
    return maps


def test_stored_maps_are_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_maps, "MAPS_PER_FILE", 3)
    expected = write(tmp_path / "maps")
    maps = open_maps(tmp_path / "maps")
    assert maps.ids == [f"a/{index}.jpg" for index in range(7)]
    assert maps.about == {"input_frame": "resize"}
    assert not maps.ready
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "manifest.json",
        *(f"maps-{number:05d}.npz" for number in range(3)),
    ]
    for index in [6, 0, 3, 1, 2, 5, 4]:
        stored = maps.load(f"a/{index}.jpg")
        assert stored.map_.tobytes() == expected[index].tobytes()
        assert stored.frame == FRAMES[index % 2]
        assert stored.predicted is not None
        assert stored.predicted.tolist() == [index, 1, 0]
        assert stored.probability == (index / 7 if index else None)


def test_files_without_probabilities_are_read(tmp_path: Path) -> None:
    expected = write(tmp_path / "maps")
    (path,) = (tmp_path / "maps").glob("*.npz")
    with np.load(path) as arrays:
        np.savez(path, **{name: arrays[name] for name in ("maps", "predicted", "frames")})
    stored = open_maps(tmp_path / "maps").load("a/3.jpg")
    assert stored.map_.tobytes() == expected[3].tobytes()
    assert stored.probability is None


def test_maps_of_another_size_start_a_new_file(tmp_path: Path) -> None:
    with writing_maps(tmp_path / "maps", {}) as writer:
        for index, side in enumerate((4, 4, 6, 4)):
            writer.add(str(index), np.zeros((side, side + 1)), [0], FRAMES[0])
        writer.add("other", np.zeros((4, 5)), [0, 1], FRAMES[0])
    assert len(list((tmp_path / "maps").glob("*.npz"))) == 4
    assert open_maps(tmp_path / "maps").load("2").map_.shape == (6, 7)


def test_an_error_leaves_no_maps(tmp_path: Path) -> None:
    def fail(writer: MapWriter) -> None:
        writer.add("a", np.zeros((2, 2)), [0], FRAMES[0])
        writer.flush()
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="memory"), writing_maps(tmp_path / "maps", {}) as writer:
        fail(writer)
    assert list(tmp_path.iterdir()) == []


def test_existing_maps_are_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "maps")
    before = sorted((path, path.read_bytes()) for path in (tmp_path / "maps").iterdir())
    with pytest.raises(FileExistsError, match="maps already exists; remove it, or choose another folder"):
        write(tmp_path / "maps")
    assert sorted((path, path.read_bytes()) for path in (tmp_path / "maps").iterdir()) == before


def test_npy_files_are_read_by_id(tmp_path: Path) -> None:
    map_ = np.random.default_rng(0).random((224, 224))
    for name in ("val/b.JPEG.npy", "val/a.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, map_)
    maps = open_maps(tmp_path)
    assert maps.ids == ["val/a", "val/b.JPEG"]
    assert maps.ready
    stored = maps.load("val/b.JPEG")
    assert stored.map_.dtype == np.float64
    np.testing.assert_array_equal(stored.map_, map_)
    assert (stored.predicted, stored.frame) == (None, None)


def test_broken_npy_files_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "bytes.npy", np.zeros((4, 4), np.uint8))
    np.save(tmp_path / "three.npy", np.zeros((1, 4, 4)))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    (tmp_path / "empty.npy").write_bytes(b"")
    whole = (tmp_path / "three.npy").read_bytes()
    (tmp_path / "header.npy").write_bytes(whole[:10] + b"{{{((" + whole[15:])
    (tmp_path / "cut.npy").write_bytes(whole[:-8])
    np.savez(tmp_path / "zip", map_=np.zeros((4, 4)))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    maps = open_maps(tmp_path)
    for name, message in [
        ("bytes", r"bytes\.npy has shape \(4, 4\), uint8; expected one map \[height, width\] of floats"),
        ("three", r"three\.npy has shape \(1, 4, 4\), float64"),
        ("pickled", r"pickled\.npy is not a \.npy file of numbers .*dtype is object"),
        *((name, rf"{name}\.npy is not a \.npy file of numbers") for name in ("empty", "header", "cut", "zip")),
    ]:
        with pytest.raises(ValueError, match=message):
            maps.load(name)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Two saved maps."""
    with writing_maps(tmp_path / "maps", {}) as save:
        for id_ in ("a", "b"):
            save.add(id_, np.zeros((2, 2)), [0], Frame.identity((4, 4)))
    return tmp_path / "maps"


def test_broken_saved_maps_are_named(saved: Path) -> None:
    shard = saved / "maps-00000.npz"
    whole = shard.read_bytes()
    with np.load(shard) as arrays:
        first = {name: arrays[name][:1] for name in arrays}
    shard.write_bytes(whole[:300])
    with pytest.raises(ValueError, match=r"maps-00000\.npz is not a \.npz file of maps; save the maps again"):
        open_maps(saved).load("a")
    np.savez(shard, other=np.zeros(2))
    with pytest.raises(ValueError, match=r"maps-00000\.npz is not a \.npz file of maps"):
        open_maps(saved).load("a")
    np.savez(shard, **first)
    assert open_maps(saved).load("a").map_.shape == (2, 2)
    with pytest.raises(ValueError, match=r"maps-00000\.npz has 1 maps, fewer than manifest\.json lists"):
        open_maps(saved).load("b")
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"maps-00000\.npz"):
        open_maps(saved).load("a")


@pytest.mark.parametrize("content", ['{"format":', "[]", '{"format": "tokenloc maps 1"}'])
def test_a_broken_manifest_is_refused(saved: Path, content: str) -> None:
    (saved / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest\.json is not of the format 'tokenloc maps 1'; save the maps again"):
        open_maps(saved)


def test_folders_without_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; expected maps of"):
        open_maps(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no map in .*: expected manifest\.json"):
        open_maps(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({"format": "tokenloc maps 9"}))
    with pytest.raises(ValueError, match=r"save the maps again \(ValueError: its format is 'tokenloc maps 9'\)"):
        open_maps(tmp_path)


def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path) -> None:
    write(tmp_path / "maps")
    path = tmp_path / "maps/manifest.json"
    path.write_text(path.read_text().replace("maps-00000.npz", "../maps/maps-00000.npz"))
    with pytest.raises(ValueError, match=r"it lists '\.\./maps/maps-00000\.npz'"):
        open_maps(tmp_path / "maps")


@pytest.mark.parametrize("about", [3, [], {"threshold": "x"}, {"classes": "ab"}, {"classes": [1]}])
def test_a_manifest_of_other_types_is_refused(about: object, tmp_path: Path) -> None:
    write(tmp_path / "maps")
    path = tmp_path / "maps/manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "about": about}))
    with pytest.raises(ValueError, match=r"manifest\.json is not of the format"):
        open_maps(tmp_path / "maps")
