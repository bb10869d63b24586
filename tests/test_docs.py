"""What the pages say works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPOSITORY
from tokenloc.cli import _make_parser
from tokenloc.data import DATASETS, list_datasets
from tokenloc.methods import METHODS, create_model

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (REPOSITORY / page).read_text(), flags=re.DOTALL)


def test_the_worked_example_of_a_new_method() -> None:
    (code,) = blocks("docs/adding-a-method.md", "python")
    try:
        exec(compile(code, "adding-a-method.md", "exec"), {})
        model = create_model("agreement", "vit_tiny_patch16_224", 3, False, backbone_options=SMALL, temperature=2.0)
        logits, maps = model.localize(torch.randn(2, 3, 32, 48))
        assert logits.shape == (2, 3)
        assert maps.shape == (2, 1, 2, 3)
        assert maps.abs().max().item() <= 0.5
        assert set(model.loss(model(torch.randn(2, 3, 32, 32)), torch.tensor([0, 2]))) == {"cross_entropy", "total"}
    finally:
        METHODS._items.pop("agreement", None)


def test_the_snippet_that_writes_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("docs/export.md", "python")
    names: dict[str, Any] = {}
    exec(compile(code, "export.md", "exec"), names)
    assert names["annotation"].file_name == "a.jpg"
    assert names["annotation"].objects == (("bird", (10.25, 5.5, 60.0, 30.0)),)
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == ["boxes.csv", "coco.json"]


def test_commands_on_the_pages_parse() -> None:
    """Every `tokenloc` line of README and pages names commands and flags that exist."""
    parser, _ = _make_parser()
    pages = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
    lines = [
        line.split("#")[0].strip()
        for page in pages
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("tokenloc ")
    ]
    assert len(lines) >= 8
    for line in lines:
        parser.parse_args(re.sub(r"\s+", " ", line).split(" ")[1:])


def test_every_method_has_its_recipe_and_page() -> None:
    for method in METHODS.names():
        assert (REPOSITORY / f"docs/methods/{method}.md").is_file(), method
        assert (REPOSITORY / f"recipes/cub10/{method}.yaml").is_file(), method


def test_every_dataset_has_its_section() -> None:
    page = (REPOSITORY / "docs/datasets.md").read_text()
    for dataset in list_datasets():
        assert f"## `{dataset}`" in page, dataset
        assert f"::: {DATASETS[dataset].__module__}.{DATASETS[dataset].__name__}" in page, dataset


def test_recipes_parse() -> None:
    parser, _ = _make_parser()
    for recipe in sorted((REPOSITORY / "recipes").rglob("[!_]*.yaml")):
        settings = parser.parse_args(["train", "--config", str(recipe)]).train
        assert settings.model.method in METHODS.names()
