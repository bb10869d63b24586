"""The files around the package: versions that the workflow tests, the build context of the image, torch.hub."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import REPOSITORY
from tokenloc import Localizer

PROJECT = (REPOSITORY / "pyproject.toml").read_text()


def test_the_workflow_tests_the_supported_versions_of_python() -> None:
    supported = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    jobs = yaml.safe_load((REPOSITORY / ".github/workflows/tests.yml").read_text())["jobs"]
    assert jobs["newest"]["strategy"]["matrix"]["python"] == supported
    assert [step["with"]["python-version"] for step in jobs["oldest"]["steps"] if "with" in step] == [supported[0]]
    assert f'requires-python = ">={supported[0]}"' in PROJECT


def test_the_image_has_the_files_that_the_package_is_built_from() -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == {"pyproject.toml", "README.md", "LICENSE", "recipes", "src"}
    assert {f"!{name}" for name in names} <= set((REPOSITORY / ".dockerignore").read_text().splitlines())


def test_torch_hub_loads_models(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    localizer = torch.hub.load(str(REPOSITORY), "localizer", run, device="cpu", source="local")
    assert localizer.classes == Localizer.from_checkpoint(run, "cpu").classes
    model = torch.hub.load(
        str(REPOSITORY), "model", "cam", backbone="resnet18", num_classes=3, pretrained=False, source="local"
    )
    assert model(torch.zeros(1, 3, 64, 64)).logits.shape == (1, 3)
