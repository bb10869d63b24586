"""Methods, datasets and public names are documented."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module

import griffe

import tokenloc
from tests.conftest import REPOSITORY
from tokenloc.data import DATASETS, list_datasets
from tokenloc.methods import METHODS


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (REPOSITORY / page).read_text(), flags=re.DOTALL)


def test_every_method_has_a_recipe_and_a_page() -> None:
    for method in METHODS.names():
        assert (REPOSITORY / f"docs/methods/{method}.md").is_file(), method
        assert (REPOSITORY / f"recipes/cub10/{method}.yaml").is_file(), method


def test_every_dataset_has_a_page() -> None:
    for dataset in list_datasets():
        page = (REPOSITORY / f"docs/datasets/{dataset}.md").read_text()
        assert page.startswith(f"# `{dataset}`"), dataset
        assert f"::: {DATASETS[dataset].__module__}.{DATASETS[dataset].__name__}" in page, dataset
        assert f"datasets/{dataset}.md" in (REPOSITORY / "mkdocs.yml").read_text(), dataset


def public_names() -> list[tuple[str, str]]:
    """Return (package, name) of every name in an ``__all__``."""
    packages = ["tokenloc", *(f"tokenloc.{module.name}" for module in pkgutil.iter_modules(tokenloc.__path__))]
    return [(package, name) for package in packages for name in getattr(import_module(package), "__all__", [])]


def test_every_public_name_is_on_the_api_pages() -> None:
    """The API page of a package lists every name of its ``__all__`` that has a docstring."""
    package = griffe.load("tokenloc", search_paths=[str(REPOSITORY / "src")])
    names = public_names()
    assert len(names) > 80
    for home, name in names:
        if home == "tokenloc":  # listed in the table of the page
            assert f"`{name}`" in (REPOSITORY / "docs/api/index.md").read_text(), name
            continue
        page = REPOSITORY / f"docs/api/{home.removeprefix('tokenloc.')}.md"
        assert f"::: {home}\n" in page.read_text(), f"{page} does not contain {home}"
        found = package[f"{home}.{name}".removeprefix("tokenloc.")]
        found = found.final_target if found.is_alias else found
        assert found.docstring is not None, f"{home}.{name} has no docstring"
