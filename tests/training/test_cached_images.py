"""Resized images on disk: bit by bit the training without, and nothing half written."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from tests.runs import tiny_run, tiny_settings
from tests.training.test_nothing_lost import PROCESSES, die
from tokenloc.data import (
    ImageDataset,
    Preprocessing,
    Sample,
    TrainingImages,
    evaluation_loader,
    evaluation_transform,
    train_transform,
    training_loader,
)
from tokenloc.models.checkpoint import read_checkpoint
from tokenloc.training import cached_images
from tokenloc.training.cached_images import ImageCache, ResizedImages, sources_of

PREPROCESSING = Preprocessing((28, 20), (36, 24))
LENGTH = 10
BROKEN = 6


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_images, "PART", 4)
    monkeypatch.setattr(cached_images, "BATCH", 3)


def make_images(folder: Path) -> ImageDataset:
    """Write images as people have them: sizes, formats, EXIF orientation, transparency, 16 bits, one broken."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    names = [f"{number}.{'png' if number % 2 else 'jpg'}" for number in range(LENGTH)]
    for number, name in enumerate(names):
        pixels = noise.integers(0, 256, (40 + number, 61 - number, 3), np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 1 + number % 8
        Image.fromarray(pixels).save(folder / name, exif=exif)
    Image.fromarray(noise.integers(0, 256, (30, 30, 4), np.uint8)).save(folder / names[1])
    Image.fromarray(noise.integers(0, 65536, (33, 31), np.uint16)).save(folder / names[3])
    Image.fromarray(noise.integers(0, 256, (24, 36, 3), np.uint8)).save(folder / names[5])  # of the size already
    (folder / names[BROKEN]).write_bytes(b"no image")
    return ImageDataset("train", ["a", "b", "c"], [Sample(n, folder / n, i % 3) for i, n in enumerate(names)])


def each(parts: Iterable[int], _: str) -> Iterator[int]:
    return iter(parts)


def kept(folder: Path, dataset: ImageDataset, preprocessing: Preprocessing = PREPROCESSING, **options: Any) -> Any:
    """Return resized images, filled, and what was told."""
    resized, told = ResizedImages(dataset, preprocessing, folder, {}), []
    resized.fill(0, told.append, each, **options)
    return resized, told


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_trained_on_is_the_same_to_the_last_bit(
    workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_images(tmp_path / "images")
    resized = ResizedImages(dataset, PREPROCESSING, tmp_path / "cache", {})
    resized.fill(workers, print, each)
    batches = []
    for source in (dataset, resized):
        labelled = TrainingImages(source, train_transform(PREPROCESSING), seed=3)
        batches.append(list(training_loader(labelled, 4, workers=workers, seed=8, drop_last=False)))
    for (images, labels), (others, their) in zip(*batches, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, their)
    if not workers:
        said = [message for message in caplog.messages if f"{BROKEN}.jpg" in message]
        assert len(said) == 2
        assert said[0] == said[1]


def test_what_is_kept_is_the_image_resized_by_pillow(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "images")
    resized, _ = kept(tmp_path / "cache", dataset)
    for number in (0, 7):
        upright = ImageOps.exif_transpose(Image.open(tmp_path / "images" / dataset[number].id))
        expected = np.asarray(upright.resize((36, 24), Image.Resampling.BILINEAR))
        assert np.array_equal(np.asarray(resized.image(number)), expected)
        (tmp_path / "images" / dataset[number].id).unlink()
    assert resized.image(7).size == (36, 24)  # from the cache alone


def test_held_out_images_are_the_same_too(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "images")
    resized, _ = kept(tmp_path / "cache", dataset)
    transform = evaluation_transform(PREPROCESSING, "crop")
    found, expected = (list(evaluation_loader(each, transform, 4)) for each in (resized, dataset))
    for batch, other in zip(found, expected, strict=True):
        assert torch.equal(batch.images, other.images)
        assert batch.unreadable == other.unreadable


def run(out: Path, cached: bool, **changes: Any) -> dict[str, torch.Tensor]:
    settings = tiny_settings(out)
    data = replace(settings["data"], calibration_split=None, test_split=None, cached_images=cached)
    data = replace(data, **changes.pop("data", {}))
    last = tiny_run(out, **{"data": data, **changes})
    return read_checkpoint(last.with_name("last.ckpt"))["state_dict"]


def test_training_ends_with_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = {"data": {"cache": tmp_path / "cache"}}
    whole, quick = run(tmp_path / "whole", False), run(tmp_path / "quick", True, **cache)
    assert all(torch.equal(quick[name], value) for name, value in whole.items())
    files = sorted((tmp_path / "cache").rglob("*.npy"))
    assert [path.relative_to(tmp_path).parts[1] for path in files] == ["train"] * 6  # scenes' val has masks
    written = [path.stat().st_mtime_ns for path in files]
    again = run(tmp_path / "again", True, **cache)
    assert [path.stat().st_mtime_ns for path in files] == written
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    run(tmp_path / "whole", True, resume=True)  # may change on the way
    assert "data.cached_images: False there, True now" in capsys.readouterr().err


def test_images_that_choose_the_epoch_are_kept_where_they_have_no_masks(tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / f"photos/{'train' if number < 4 else 'val'}/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (50, 40), (30 * number, 10, 99)).save(path)
    data = {"name": "folder", "root": tmp_path / "photos", "options": {}}
    whole, quick = run(tmp_path / "whole", False, data=data), run(tmp_path / "run", True, data=data)
    assert all(torch.equal(quick[name], value) for name, value in whole.items())
    assert {path.name for path in (tmp_path / "run/images").iterdir()} == {"train", "val"}


def test_features_and_images_are_not_kept_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"keep the same images twice.*Give one of them"):
        run(tmp_path / "run", True, data={"cached_views": 2})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("changed", ["images", "resize", "decoder", "nothing"])
def test_other_sources_are_told_and_not_mixed(changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = make_images(tmp_path / "images")
    first, told = kept(tmp_path / "cache", dataset)
    assert told == []
    preprocessing = PREPROCESSING
    if changed == "images":
        os.utime(tmp_path / "images/4.jpg", ns=(1, 1))
    elif changed == "resize":
        preprocessing = replace(preprocessing, resize=(36, 25))
    elif changed == "decoder":
        monkeypatch.setattr(cached_images.features, "version", lambda _: "0.1")
    else:
        preprocessing = replace(preprocessing, size=(20, 20), mean=(0.5, 0.5, 0.5))
    other, told = kept(tmp_path / "cache", dataset, preprocessing)
    held = f"{first.cache.own} holds images of other {changed}: they are not used, and computed anew beside"
    assert told == ([] if changed == "nothing" else [held])
    assert (other.cache.own == first.cache.own) == (changed == "nothing")


def test_a_image_that_is_gone_is_left_out(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "images")
    (tmp_path / "images/2.jpg").unlink()
    resized, _ = kept(tmp_path / "cache", dataset)
    with pytest.raises(FileNotFoundError, match=r"2\.jpg: no such image"):
        resized.image(2)
    assert resized.image(1).size == (36, 24)
    assert "absent" not in sources_of(dataset, PREPROCESSING, {})["images"]


def test_processes_that_fill_at_once_share_the_work(tmp_path: Path) -> None:
    """Each begins elsewhere, and leaves out what another has written meanwhile."""
    dataset = make_images(tmp_path / "images")
    one, other = (ResizedImages(dataset, PREPROCESSING, tmp_path / "cache", {}) for _ in range(2))
    done: list[int] = []
    write = ImageCache.write

    def noting(self: ImageCache, name: str, part: int, records: Any) -> None:
        done.append(part)
        write(self, name, part, records)

    def interleaved(parts: Iterable[int], _: str) -> Iterator[int]:
        for part in parts:
            yield part
            if len(done) == 1:  # this one has done its first part when the other comes
                one.fill(0, print, each, (0, 2))

    with mock.patch.object(ImageCache, "write", noting):
        other.fill(0, print, interleaved, (1, 2))
    assert done == [1, 0, 2]
    assert other.image(9).size == (36, 24)


def test_a_damaged_part_is_told_and_computed_anew(tmp_path: Path) -> None:
    dataset = make_images(tmp_path / "images")
    resized, _ = kept(tmp_path / "cache", dataset)
    before = np.asarray(resized.image(5))
    path = resized.cache.paths("images")[1]
    path.write_bytes(path.read_bytes()[:-1])
    again, told = kept(tmp_path / "cache", dataset)
    assert told == [f"{path} is damaged, and is computed anew"]
    assert np.array_equal(np.asarray(again.image(5)), before)


def test_memory_maps_do_not_travel(tmp_path: Path) -> None:
    resized, _ = kept(tmp_path / "cache", make_images(tmp_path / "images"))
    size = len(pickle.dumps(resized))
    first = np.asarray(resized.image(0))
    assert len(pickle.dumps(resized)) == size
    assert np.array_equal(np.asarray(pickle.loads(pickle.dumps(resized)).image(0)), first)


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: mock.Mock(free=25000))
    with pytest.raises(OSError, match=r"train: 10 resized images take 0\.0 GB, and 0\.0 GB are free; make room"):
        kept(tmp_path / "cache", make_images(tmp_path / "images"))
    assert not list((tmp_path / "cache").rglob("*.npy"))


def filling(folder: Path, limit: int) -> None:
    cached_images.PART = 4
    resized = ResizedImages(make_images(folder / "images"), PREPROCESSING, folder / "cache", {})
    if not limit:
        resized.fill(0, print, lambda parts, _: (die() if part else part for part in parts))
    resized.cache.begin(print)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        resized.fill(0, print, each)
    except OSError as error:
        (folder / "said").write_text(str(error)[:limit])


def in_a_process(folder: Path, limit: int) -> int | None:
    process = PROCESSES.Process(target=filling, args=(folder, limit))
    process.start()
    process.join()
    return process.exitcode


def test_after_a_kill_the_rest_is_computed(tmp_path: Path) -> None:
    assert in_a_process(tmp_path, 0) == -9
    (written,) = (tmp_path / "cache").rglob("*.npy")
    before = written.stat().st_mtime_ns
    dataset = ImageDataset("train", ["a", "b", "c"], make_images(tmp_path / "elsewhere").samples)
    samples = [replace(sample, path=tmp_path / "images" / sample.id) for sample in dataset]
    resized, told = kept(tmp_path / "cache", ImageDataset("train", ["a", "b", "c"], samples))
    assert told == []
    assert written.stat().st_mtime_ns == before
    whole, _ = kept(tmp_path / "whole", dataset)
    assert all(
        np.array_equal(np.asarray(resized.image(n)), np.asarray(whole.image(n))) for n in range(LENGTH) if n != BROKEN
    )


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    assert in_a_process(tmp_path, 600) == 0
    said = (tmp_path / "said").read_text()
    assert "images/00000.npy (File too large); it is unchanged; make room, or" in said
    assert "give another folder by --data.cache, then go on with --resume" in said
    assert not list((tmp_path / "cache").rglob(".partial-*"))
    assert not list((tmp_path / "cache").rglob("*.npy"))
