"""Target maps of students: written with labels alone, and cropped and mirrored with their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data import builders as build
from tests.runs import TINY_VIT, prediction_options, tiny_settings
from tokenloc.boxes import get_protocol
from tokenloc.commands.train import train
from tokenloc.data import ImageDataset, Preprocessing, create_dataset
from tokenloc.inference import Predictor
from tokenloc.metrics.stored_maps import open_maps
from tokenloc.models import create_model
from tokenloc.training.config import DataConfig, ModelChoice
from tokenloc.training.target_maps import MappedImages, write_target_maps

STUDENT = ModelChoice("student", "vit_tiny_patch16_224", False, backbone_options=TINY_VIT)


@pytest.fixture
def dataset(tmp_path: Path) -> ImageDataset:
    """Images by class, without boxes, of the size to which they are resized."""
    for split in ("train", "test"):
        for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
            build.image(tmp_path / split / name, (36, 36))
    return create_dataset("folder", tmp_path, "train")


def test_a_target_is_cropped_and_mirrored_with_its_image(dataset: ImageDataset, tmp_path: Path) -> None:
    for index in (0, 2):
        red = np.asarray(dataset.image(index), dtype=np.float32)[..., 0] / 255
        path = tmp_path / f"maps/{dataset[index].id}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, red)
    preprocessing = Preprocessing((32, 32), (36, 36), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    views = [MappedImages(dataset, preprocessing, open_maps(tmp_path / "maps"), seed, True) for seed in range(8)]
    for index in (0, 2):
        for image in (view[index][0] for view in views):
            assert image.shape == (4, 32, 32)
            torch.testing.assert_close(image[3], image[0])
    assert len({view[0][0].numpy().tobytes() for view in views}) > 4  # crops and mirrors
    assert (views[0][1][0][3] < 0).all()


def test_maps_are_those_of_the_predictor_for_the_labels(
    dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model("tscam", "vit_tiny_patch16_224", 2, False, image_size=32, backbone_options=TINY_VIT).eval()
    options = prediction_options(scales=(64,), flip=True, shifts=2)
    predictor = Predictor(model, Preprocessing((32, 32), (36, 36)), options, get_protocol("standard"))
    monkeypatch.setattr(predictor, "recognised", lambda *_: torch.tensor([0.9, 0.2, 0.6]))
    assert not dataset.has_boxes
    assert write_target_maps(predictor, dataset, tmp_path / "maps", 0.5) == []
    maps = open_maps(tmp_path / "maps")
    images = torch.stack([predictor.transform(dataset.image(index))[0] for index in range(3)])
    expected = predictor.class_maps(images, torch.tensor([[0], [0], [1]])).maps[:, 0].numpy()
    for index in (0, 2):
        map_ = maps.load(dataset[index].id).map_
        assert map_.shape == (16, 16)
        assert (map_.min(), map_.max()) == (0, 1)
        low, high = expected[index].min(), expected[index].max()
        np.testing.assert_allclose(map_, (expected[index] - low) / (high - low), atol=1e-3)
    assert maps.load(dataset[1].id).map_.tolist() == [[-1]]  # its box has no evidence
    monkeypatch.setattr(predictor, "class_maps", None)
    write_target_maps(predictor, dataset, tmp_path / "maps", 0.5)  # all are there


def test_maps_of_other_images_are_refused(dataset: ImageDataset, tmp_path: Path) -> None:
    build.image(tmp_path / "train/cat/3.png")
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/other.npy", np.eye(4))
    data = DataConfig("folder", tmp_path, resize=36, crop=32, maps=tmp_path / "maps")
    with pytest.raises(ValueError, match=r"maps is named after a training image, such as train/cat/1"):
        train(**{**tiny_settings(tmp_path / "out", data=data), "model": STUDENT})


def test_a_method_that_learns_no_maps_refuses_them(dataset: ImageDataset, tmp_path: Path) -> None:
    data = DataConfig("folder", tmp_path, resize=36, crop=32, maps=tmp_path)
    with pytest.raises(ValueError, match="needs a method that learns maps, such as student; tscam does not"):
        train(**tiny_settings(tmp_path / "out", data=data))
