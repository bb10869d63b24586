"""Recipes: configurations that come with tokenloc, found from any folder by their path in the repository."""

from __future__ import annotations

from pathlib import Path

import tokenloc
from tokenloc._names import matching, unknown_name

FOLDER = "recipes"
TABLES = "tables"  # subfolder with the tables of the papers, see ``commands.paper_tables``


def recipes_root() -> Path:
    """Return the folder of the recipes that come with tokenloc: in the package, or next to the sources."""
    package = Path(tokenloc.__file__).parent
    return next(folder for folder in (package / FOLDER, package.parents[1] / FOLDER) if folder.is_dir())


def list_recipes(pattern: str | None = None) -> list[str]:
    """Return the recipes of tokenloc and those in ./recipes, sorted; ``pattern`` is a shell wildcard.

    >>> list_recipes("recipes/cub10/s*")
    ['recipes/cub10/sat.yaml', 'recipes/cub10/scm.yaml']
    """
    roots = (recipes_root().parent, Path())  # files that start with an underscore are included by recipes
    files = {path.relative_to(root).as_posix() for root in roots for path in (root / FOLDER).rglob("[!_]*.yaml")}
    return matching((file for file in files if not file.startswith(f"{FOLDER}/{TABLES}/")), pattern)


def recipe_file(name: str) -> str:
    """Return the file of a `--config`: the path itself, or the recipe of that name; ValueError if neither exists."""
    for path in (Path(name), recipes_root().parent / name):
        if path.is_file():
            return str(path)
    raise unknown_name("recipe", name, list_recipes())
