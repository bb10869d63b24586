"""Every row of every table of the papers is built, takes a training step, and has valid flags."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tests.steps import train_one_step
from tokenloc.cli import _parse
from tokenloc.commands.paper_tables import list_tables, read_table
from tokenloc.commands.recipes import recipes_root
from tokenloc.commands.table import command_line_flags

TABLES = {name: read_table(name) for name in list_tables()}
ROWS = [(name, row) for name, table in TABLES.items() for row in table.rows if row.unavailable is None]
TRAININGS = {json.dumps([row.recipe, dict(row.train)]): row for _, row in ROWS}


@pytest.mark.parametrize("training", TRAININGS)
def test_the_model_of_a_row_takes_a_step(training: str) -> None:
    row = TRAININGS[training]
    words = ["train", "--config", str(recipes_root() / f"{row.recipe}.yaml"), *command_line_flags(row.train)]
    train_one_step(SimpleNamespace(**_parse(words)[2]))


@pytest.mark.parametrize("name", TABLES)
def test_the_evaluations_of_a_table_have_valid_flags(name: str) -> None:
    table = TABLES[name]
    assert table.rows
    for row in table.rows:
        words = ["evaluate", "CKPT", f"--protocol={table.protocol}", *command_line_flags(row.test)]
        _parse(words)
        assert row.paper or "figure" in name, f"{row.name} has no printed number"
    assert "figure" in name or any(row.paper for row in table.rows)


def test_every_paper_has_its_tables() -> None:
    assert {name.split("/")[0] for name in TABLES} == {"lcar", "lctr", "sat", "scm", "tscam"}
