"""The recipes that come with tokenloc: found from any folder, by the paths that they have in the repository."""

from __future__ import annotations

from pathlib import Path

import tokenloc
from tokenloc._names import matching, unknown_name

FOLDER = "recipes"


def shipped() -> Path:
    """Return the folder of the recipes that come with tokenloc: in the package, or beside the sources."""
    package = Path(tokenloc.__file__).parent
    return next(folder for folder in (package / FOLDER, package.parents[1] / FOLDER) if folder.is_dir())


def list_recipes(pattern: str | None = None) -> list[str]:
    """Return the recipes that `--config` takes by name, sorted; ``pattern`` is a shell wildcard.

    They are those that come with tokenloc, and those below ./recipes.

    >>> list_recipes("recipes/cub10/s*")
    ['recipes/cub10/sat.yaml', 'recipes/cub10/scm.yaml']
    """
    tops = (shipped().parent, Path())
    return matching({path.relative_to(top).as_posix() for top in tops for path in _below(top / FOLDER)}, pattern)


def _below(folder: Path) -> list[Path]:
    return list(folder.rglob("[!_]*.yaml"))  # the others are parts that recipes share


def recipe_file(name: str) -> str:
    """Return the file that a `--config` names: itself where it is one, or else the shipped recipe of that name.

    Raises:
        ValueError: where there is neither; it names the nearest recipe.
    """
    for path in (Path(name), shipped().parent / name):
        if path.is_file():
            return str(path)
    raise unknown_name("recipe", name, list_recipes())
