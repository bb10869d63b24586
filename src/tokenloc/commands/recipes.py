"""Recipes: configurations that come with tokenloc, found from any folder by their path in the repository."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import tokenloc
from tokenloc._names import matching, unknown_name
from tokenloc._plain import read_yaml

FOLDER = "recipes"
TABLES = "tables"  # subfolder with the tables of the papers, see ``commands.paper_tables``
FOLDER_RECIPE = "recipes/folder.yaml"  # for a user's own folder
SHORT = {
    "method": "model.method",
    "backbone": "model.backbone",
    "epochs": "optimisation.epochs",
    "batch": "optimisation.batch_size",
}
"""The options of `tokenloc train` that have a short name."""


def recipes_root() -> Path:
    """Return the folder of the recipes that come with tokenloc: in the package, or next to the sources."""
    package = Path(tokenloc.__file__).parent
    return next(folder for folder in (package / FOLDER, package.parents[1] / FOLDER) if folder.is_dir())


def list_recipes(pattern: str | None = None) -> list[str]:
    """Return the recipes of tokenloc and those in ./recipes, sorted; ``pattern`` is a shell wildcard.

    >>> list_recipes("recipes/cub10/sat*")
    ['recipes/cub10/sat.yaml', 'recipes/cub10/sat_released.yaml']
    """
    roots = (recipes_root().parent, Path())  # files that start with an underscore are included by recipes
    files = {path.relative_to(root).as_posix() for root in roots for path in (root / FOLDER).rglob("[!_]*.yaml")}
    return matching((file for file in files if not file.startswith(f"{FOLDER}/{TABLES}/")), pattern)


def recipe_file(name: str) -> Path:
    """Return the file of a `--config`: the path itself, or the recipe of that name; ValueError if neither exists."""
    for path in (Path(name), recipes_root().parent / name):
        if path.is_file():
            return path
    raise unknown_name("recipe", name, list_recipes())


def read_recipe(name: str, groups: Collection[str] = ()) -> dict[str, Any]:
    """Return the options in the file of a `--config`, as plain values; raises ValueError if it is invalid, and OSError.

    If the value of one of the ``groups`` of options, such as `data`, is the name of a file, which is relative to the
    recipe's folder, the result has the options in that file instead.
    """
    path = recipe_file(name)
    options = read_yaml(path)
    if "config" in options:
        raise ValueError(f"{path}: `config` is a flag, not an option of a recipe; copy the options of that file here")
    for group in groups:
        if isinstance(file := options.get(group), str):
            options[group] = read_part(path.parent / file)
    return options


def folder_recipe() -> dict[str, Any]:
    """Return the options for a user's own folder, without the run's folder."""
    return {name: value for name, value in read_recipe(FOLDER_RECIPE).items() if name != "out"}


def read_part(path: Path) -> dict[str, Any]:
    """Return the options of one group, such as `data`, in a YAML file; raises like ``read_recipe``."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a YAML file of options, or the options themselves")
    return read_yaml(path)
