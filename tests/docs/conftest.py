"""A person's home, made once: images, datasets, and a trained run for the pages that begin with one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs import trees
from tests.docs.running import train_like

FOLDER = "tokenloc train --config recipes/folder.yaml --data.root PHOTOS --out runs/mine"
TRAINED = (FOLDER, *(f"tokenloc train --config recipes/cub10/{method}.yaml" for method in ("sat", "tscam")))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder that the pages' commands are given in, with all they expect there; tests must not change it."""
    work = tmp_path_factory.mktemp("home") / "work"
    trees.own_images(work)
    trees.datasets(work / "datasets")
    trees.cub(work.parent / "shared/data/cub10/CUB_200_2011")
    shutil.copytree(REPOSITORY / "recipes", work / "recipes")
    before = Path.cwd()
    os.chdir(work)
    try:
        for command in TRAINED:
            train_like(command)
    finally:
        os.chdir(before)
    return work


@pytest.fixture
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to a copy of that folder; return it."""
    shutil.copytree(home.parent, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home/work")
    return tmp_path / "home/work"
