"""Datasets by name."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

import pytest

from tokenloc.data import DATASETS, ImageDataset, base, create_dataset, list_datasets


def test_every_module_registers_its_dataset() -> None:
    sources = {path.stem: path.read_text() for path in Path(base.__file__).parent.glob("*.py")}
    modules = {name for name, source in sources.items() if "\n@DATASETS.register" in source}
    assert set(list_datasets()) == modules
    assert list_datasets("sc*") == ["scenes"]
    assert list_datasets("nothing*") == []
    for name in modules:
        assert issubclass(DATASETS[name], ImageDataset)
        assert DATASETS[name].name == name
        options = [name for name, one in signature(DATASETS[name]).parameters.items() if one.kind is one.KEYWORD_ONLY]
        assert all(f"        {option}: " in (DATASETS[name].__doc__ or "") for option in options)


def test_an_unknown_dataset_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown dataset 'scene'; did you mean 'scenes'\? Valid: cub, fgvc"):
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


@pytest.mark.parametrize("options", [{"length": [1]}, {"seed": "x"}, {"seed": True}, {"size": [1]}])
def test_an_option_of_the_wrong_type_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        create_dataset("scenes", None, "train", **options)
