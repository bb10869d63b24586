"""Every row of every table of the papers is built, takes a training step, and has valid flags."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.steps import train_one_step
from tokenloc.cli import _make_parser
from tokenloc.commands.paper_tables import list_tables, read_table
from tokenloc.commands.recipes import recipes_root
from tokenloc.commands.table import command_line_flags

TABLES = {name: read_table(name) for name in list_tables()}
ROWS = [(name, row) for name, table in TABLES.items() for row in table.rows if row.unavailable is None]
TRAININGS = {json.dumps([row.recipe, dict(row.train)]): row for _, row in ROWS}


@pytest.fixture(scope="module")
def parsers() -> dict[str, Any]:
    return {command: _make_parser([command])[0] for command in ("train", "evaluate")}


@pytest.mark.parametrize("training", TRAININGS)
def test_the_model_of_a_row_takes_a_step(training: str, parsers: dict[str, Any]) -> None:
    row = TRAININGS[training]
    words = ["train", "--config", str(recipes_root() / f"{row.recipe}.yaml"), *command_line_flags(row.train)]
    train_one_step(parsers["train"].instantiate(parsers["train"].parse_args(words)).train)


@pytest.mark.parametrize("name", TABLES)
def test_the_evaluations_of_a_table_have_valid_flags(name: str, parsers: dict[str, Any]) -> None:
    table = TABLES[name]
    assert table.rows
    for row in table.rows:
        words = ["evaluate", "CKPT", f"--protocol={table.protocol}", *command_line_flags(row.test)]
        parsers["evaluate"].instantiate(parsers["evaluate"].parse_args(words))
        assert row.paper or "figure" in name, f"{row.name} has no printed number"
    assert any(row.paper for row in table.rows)
