"""What ``import tokenloc`` and its public names load, in a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("statement", "excluded"),
    [
        ("import tokenloc", ["torch", "timm"]),
        (
            "import tokenloc; tokenloc.Localizer; tokenloc.create_model; tokenloc.refine",
            ["lightning", "pytorch_lightning", "torchmetrics", "matplotlib", "jinja2", "fastapi", "datasets"],
        ),
    ],
)
def test_import_does_not_load(statement: str, excluded: list[str]) -> None:
    code = f"{statement}\nimport sys\nprint(sorted(set({excluded!r}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
