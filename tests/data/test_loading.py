"""Loaders: deterministic, complete, and robust to broken images."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.apply_func import move_data_to_device
from PIL import Image

from tests.data import builders as build
from tokenloc.data import (
    ImageDataset,
    Preprocessing,
    Sample,
    TrainingImages,
    create_dataset,
    evaluation_loader,
    train_transform,
    training_loader,
    transforms,
)
from tokenloc.data.loading import MAX_UNREADABLE
from tokenloc.training.data import TrainingData

SMALL = Preprocessing((8, 6), (10, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CROP = transforms.evaluation_transform(SMALL, "crop")


@pytest.fixture
def dataset(tmp_path: Path) -> ImageDataset:
    """Ten images of different widths, labels 0 to 9; those at 3 and 4 are broken."""
    paths = [build.image(tmp_path / f"{number}.png", (20 + number, 15)) for number in range(10)]
    paths[3].write_bytes(b"")
    paths[4].unlink()
    return ImageDataset("train", list("abcdefghij"), [Sample(p.name, p, n) for n, p in enumerate(paths)])


def _training(dataset: ImageDataset, seed: int = 0) -> TrainingImages:
    return TrainingImages(dataset, train_transform(SMALL), seed=seed)


def test_training_replaces_broken_images_by_the_next(
    dataset: ImageDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = _training(dataset)
    assert len(images) == 10
    with caplog.at_level(logging.WARNING):
        assert [images[index][1] for index in range(10)] == [0, 1, 2, 5, 5, 5, 6, 7, 8, 9]
        assert images[3][1] == 5
    first, second = (record.getMessage() for record in caplog.records)
    assert "skipped in training" in first
    assert "3.png: the file is empty" in first
    assert "4.png: no such image" in second
    (tmp_path / "9.png").write_bytes(b"")
    assert _training(dataset)[9][1] == 0


def test_broken_images_are_named_in_the_first_epoch_only(
    dataset: ImageDataset, caplog: pytest.LogCaptureFixture
) -> None:
    data = TrainingData(dataset, None, SMALL, batch_size=4, workers=0, seed=0)
    for epoch in (5, 6, 7):
        images = data.examples(epoch)
        assert [images[index][1] for index in range(3, 6)] == [5, 5, 5]
        assert len(caplog.records) == 2


def test_training_gives_up_if_nothing_can_be_read(tmp_path: Path) -> None:
    few = ImageDataset("train", ["a"], [Sample(str(n), tmp_path / f"{n}.jpg", 0) for n in range(3)])
    with pytest.raises(ValueError, match=r"3 consecutive images cannot be read, starting at .*1.jpg; is the disk"):
        _training(few)[1]
    many = ImageDataset("train", ["a"], [Sample(str(n), tmp_path / f"{n}.jpg", 0) for n in range(80)])
    with pytest.raises(ValueError, match=rf"{MAX_UNREADABLE} consecutive images cannot be read.*tokenloc info --data"):
        _training(many)[79]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_depend_on_the_seed_only(dataset: ImageDataset, workers: int) -> None:
    def run(seed: int, workers: int = workers) -> list[torch.Tensor]:
        torch.rand(seed + workers)  # the state of the global generator does not matter
        batches = list(training_loader(_training(dataset, seed), 4, workers=workers, seed=seed))
        assert [tuple(images.shape) for images, _ in batches] == [(4, 3, 6, 8)] * 2 + [(2, 3, 6, 8)]
        assert all(labels.dtype == torch.int64 for _, labels in batches)
        return [tensor for batch in batches for tensor in batch]

    first, again, other = run(0), run(0, workers=0), run(1)
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_seeded_image_does_not_change_the_global_generator(dataset: ImageDataset) -> None:
    images = _training(dataset, seed=5)
    torch.manual_seed(1)
    image = images[1][0]
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    assert torch.equal(image, images[1][0])
    assert len({_training(dataset, seed)[1][0].sum().item() for seed in range(8)}) > 1


def test_a_loader_starts_at_a_batch_and_counts_all(dataset: ImageDataset) -> None:
    whole = list(training_loader(_training(dataset, 0), 4, seed=3))
    rest = training_loader(_training(dataset, 0), 4, seed=3, start=1)
    torch.testing.assert_close(list(rest), whole[1:], rtol=0, atol=0)
    assert len(rest) == len(whole) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_every_iterator_of_a_loader_returns_the_same_batches(dataset: ImageDataset, workers: int) -> None:
    loader = training_loader(_training(dataset), 4, workers=workers, seed=3)
    abandoned = iter(loader)  # as Lightning leaves one; workers read ahead
    next(abandoned)
    torch.testing.assert_close(list(loader), list(training_loader(_training(dataset), 4, seed=3)), rtol=0, atol=0)


def test_the_processes_together_load_every_batch(dataset: ImageDataset) -> None:
    whole = list(training_loader(_training(dataset, 0), 4, seed=3))
    parts = [training_loader(_training(dataset, 0), 4, seed=3, rank=r, world_size=2) for r in (0, 1)]
    for (images, labels), *shards in zip(whole, *parts, strict=True):
        for rank, (own, own_labels) in enumerate(shards):
            assert torch.equal(own, images[rank::2])
            assert torch.equal(own_labels, labels[rank::2])
    loaders = [evaluation_loader(dataset, CROP, 4, rank=rank, world_size=2) for rank in (0, 1)]
    assert [[batch.indices for batch in loader] for loader in loaders] == [[[0, 1, 2], [8, 9]], [[5, 6, 7]]]


def test_an_epoch_draws_every_image_once(tmp_path: Path) -> None:
    samples = [Sample(str(n), build.image(tmp_path / f"{n}.png"), n) for n in range(10)]
    images = _training(ImageDataset("train", list("abcdefghij"), samples))
    labels = torch.cat([labels for _, labels in training_loader(images, 4)]).tolist()
    assert sorted(labels) == list(range(10))
    assert labels != sorted(labels)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["crop", "resize"])
def test_evaluation_reports_unreadable_images(dataset: ImageDataset, workers: int, kind: str) -> None:
    transform = transforms.evaluation_transform(SMALL, "crop" if kind == "crop" else "resize")
    batches = list(evaluation_loader(dataset, transform, 4, workers=workers))
    assert [batch.indices for batch in batches] == [[0, 1, 2], [5, 6, 7], [8, 9]]
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 2], [5, 6, 7], [8, 9]]
    assert [len(batch) for batch in batches] == [3, 3, 2]
    assert batches[0].images.shape == (3, 3, 6, 8)
    assert batches[0].labels.dtype == torch.int64
    unreadable = [record for batch in batches for record in batch.unreadable]
    assert [(record.index, record.id) for record in unreadable] == [(3, "3.png"), (4, "4.png")]
    assert "3.png: the file is empty" in unreadable[0].reason
    for batch in batches:
        for row, (index, frame) in enumerate(zip(batch.indices, batch.frames, strict=True)):
            expected, expected_frame = transform(dataset.image(index))
            torch.testing.assert_close(batch.images[row], expected, rtol=0, atol=0)
            assert frame == expected_frame
            assert frame.original_size == (20 + index, 15)
            assert batch.masks[row] is None


def test_a_batch_without_a_readable_image_is_empty(dataset: ImageDataset) -> None:
    (batch,) = list(evaluation_loader(dataset.subset([3, 4]), CROP, 2))
    assert len(batch) == 0
    assert (batch.images.shape, batch.labels.shape, batch.labels.dtype) == ((0, 3, 0, 0), (0,), torch.int64)
    assert [record.id for record in batch.unreadable] == ["3.png", "4.png"]


def test_batches_hold_masks() -> None:
    scenes = create_dataset("scenes", None, "test", length=5, size=32)
    (batch,) = list(evaluation_loader(scenes, CROP, 8))
    for index, mask in zip(batch.indices, batch.masks, strict=True):
        np.testing.assert_array_equal(mask, scenes.mask(index))


def test_missing_masks_and_masks_of_another_size_are_unreadable(tmp_path: Path) -> None:
    build.cub(tmp_path)
    (tmp_path / "segmentations/001.Ant").mkdir(parents=True)
    cub = create_dataset("cub", tmp_path, "test", ["001.Ant"])
    (batch,) = list(evaluation_loader(cub, CROP, 8))
    assert len(batch) == 0
    assert ["Ant_2.png: no such image" in record.reason for record in batch.unreadable] == [True, False]
    for number, size in ((2, (12, 8)), (3, (8, 12))):
        Image.new("L", size, 255).save(tmp_path / f"segmentations/001.Ant/Ant_{number}.png")
    (batch,) = list(evaluation_loader(cub, CROP, 8))
    assert batch.indices == [0]
    (record,) = batch.unreadable
    assert (record.index, record.id) == (1, "001.Ant/Ant_3.jpg")
    assert record.reason.endswith("Ant_3.jpg is 12x8, but its mask 8x12")


def test_lightning_moves_a_batch_to_a_device(dataset: ImageDataset) -> None:
    batch = next(iter(evaluation_loader(dataset, CROP, 4)))
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.images.device.type == moved.labels.device.type == "meta"
    assert (moved.indices, moved.frames, moved.unreadable) == (batch.indices, batch.frames, batch.unreadable)
    assert batch.images.device.type == "cpu"
