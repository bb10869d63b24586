"""The files of docs/adding-a-method.md are a complete new method: tests, ruff and mypy pass with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs.pages import snippets

PAGE = "docs/adding-a-method.md"
FILES = ["src/tokenloc/methods/agreement.py", "recipes/cub10/agreement.yaml", "docs/methods/agreement.md"]
COPIED = ("src", "tests", "recipes", "docs", "pyproject.toml", "mkdocs.yml", "README.md", "CONTRIBUTING.md")
TESTS = ("tests/methods/test_contract.py", "tests/export/test_onnx.py", "tests/test_recipes.py", "tests/test_docs.py")
SELECTED = "agreement or every_method"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository with the files of the page."""
    folder = tmp_path_factory.mktemp("copy") / "repository"
    folder.mkdir()
    for name in COPIED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    files = {snippet.title: snippet.text for snippet in snippets(PAGE) if "/" in snippet.title}
    assert list(files) == FILES
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        ("ruff", "check", "--no-cache", FILES[0]),
        ("ruff", "format", "--no-cache", "--check", FILES[0]),
        ("mypy", "--cache-dir", ".mypy_cache", FILES[0]),
        ("pytest", "-p", "no:cacheprovider", *TESTS, "-k", SELECTED),
    ],
    ids=["ruff check", "ruff format", "mypy", "tests"],
)
def test_checks_pass_with_the_files_of_the_page(arguments: tuple[str, ...], copy: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(copy / "src")}
    command = [sys.executable, "-m", *arguments]
    result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_navigation_lists_the_page(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(copy / "docs"))
    from hooks import expanded

    assert "methods/agreement.md" in expanded(["methods/*.md"], copy / "docs")
