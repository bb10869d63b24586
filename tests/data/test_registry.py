"""Datasets by name, and what an unknown name is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenloc.data import DATASETS, ImageDataset, create_dataset, list_datasets

NAMES = [
    "cub",
    "fgvc_aircraft",
    "folder",
    "hf",
    "imagenet",
    "openimages",
    "scenes",
    "stanford_cars",
    "stanford_dogs",
]


def test_every_dataset_is_found_by_itself() -> None:
    assert list_datasets() == NAMES
    assert list_datasets("sc*") == ["scenes"]
    assert list_datasets("nothing*") == []


@pytest.mark.parametrize("name", NAMES)
def test_a_registered_dataset_bears_its_name_and_documents_its_options(name: str) -> None:
    dataset = DATASETS[name]
    assert issubclass(dataset, ImageDataset)
    assert dataset.name == name
    assert "Raises:" in (dataset.__doc__ or "")


def test_an_unknown_dataset_lists_the_valid_ones() -> None:
    with pytest.raises(
        ValueError, match=r"unknown dataset 'scene'; did you mean 'scenes'\? Valid: cub, fgvc_aircraft, folder,"
    ):
        create_dataset("scene", None, "train")


def test_an_unknown_option_lists_the_valid_ones(tmp_path: Path) -> None:
    message = r"unknown option of dataset 'scenes': 'sizes'; did you mean 'size'\? Valid: length, seed, size"
    with pytest.raises(ValueError, match=message):
        create_dataset("scenes", None, "train", sizes=32)
    with pytest.raises(ValueError, match=r"unknown option of dataset 'cub': 'seed'. Valid: metadata, missing"):
        create_dataset("cub", tmp_path, "train", seed=1)


def test_an_unknown_split_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown split of dataset 'scenes': 'dev'. Valid: test, train, val"):
        create_dataset("scenes", None, "dev")


def test_options_and_classes_arrive() -> None:
    dataset = create_dataset("scenes", None, "val", ["dots", "checks"], size=32, length=4)
    assert (len(dataset), dataset.classes, dataset.image(0).size) == (4, ("checks", "dots"), (32, 32))
