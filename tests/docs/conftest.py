"""A reader's working folder, created once: images, datasets, and a trained run for the pages that start with one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs import trees
from tests.docs.pages import Snippet, substituted
from tests.docs.running import run_command
from tests.docs.substitutes import SUBSTITUTES

TRAINED = (
    "tokenloc train --config recipes/folder.yaml --data.root PHOTOS --out runs/mine",
    "tokenloc train --config recipes/cub10/sat.yaml",
    "tokenloc train --config recipes/cub10/tscam.yaml",
)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the pages' commands run; tests must not change it."""
    work = tmp_path_factory.mktemp("home") / "work"
    trees.own_images(work)
    trees.datasets(work / "datasets")
    trees.cub(work.parent / "shared/data/cub10/CUB_200_2011")
    shutil.copytree(REPOSITORY / "recipes", work / "recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        for command in TRAINED:
            run_command(Snippet("conftest:0", "bash", "", ""), substituted("", command, SUBSTITUTES) or "", {})
    return work


@pytest.fixture
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to a copy of that folder, and keep the cache of Hugging Face datasets out of the user's home."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    shutil.copytree(home.parent, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home/work")
