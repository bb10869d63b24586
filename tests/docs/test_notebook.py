"""The notebook runs, and is stored without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import REPOSITORY

NOTEBOOK = REPOSITORY / "docs/notebooks/scenes.ipynb"
SETTING = "EPOCHS, SCENES = 8, 1200"
TINY = "EPOCHS, SCENES = 1, 48"  # the notebook's own take a minute


@pytest.mark.slow
def test_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert SETTING in notebook.cells[1].source
    notebook.cells[1].source = notebook.cells[1].source.replace(SETTING, TINY)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    assert "run/checkpoints/best.ckpt" in printed
    assert "whole-image box: GT-known 0.0" in printed
    assert "['label-studio.json', 'label-studio.xml']" in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5


def test_notebook_is_stored_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs"), cell.source
        assert cell.get("execution_count") is None, cell.source
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
