"""``tokenloc table``: train and evaluate the rows of a paper's table, and write them beside the printed numbers."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokenloc.commands.console import IncompleteError, print_message
from tokenloc.commands.paper_tables import Row, read_table
from tokenloc.commands.recipes import read_recipe, recipes_root
from tokenloc.methods import ModelConfig
from tokenloc.models.cost import model_cost
from tokenloc.reporting.paper_comparison import ComparedRow, save_comparison
from tokenloc.reporting.runs import METRICS, read_run
from tokenloc.training.config import DataSource
from tokenloc.training.run_folder import RunFolder


def table(
    name: str,
    *,
    data: DataSource,
    on: str | None = None,
    maps: dict[str, str] | None = None,
    out: Path = Path("runs/tables"),
    seed: int = 0,
    train_flags: str = "",
    evaluate_flags: str = "",
) -> Path:
    """Train and evaluate what a table of a paper needs; write Markdown, JSON and a figure with the printed numbers.

    Rows that differ in options of evaluation only share a checkpoint, also between tables. The command can be
    interrupted and repeated: finished work in OUT/checkpoints and OUT/evaluations is not done again.

    Args:
        name: such as sat/8; see `tokenloc list tables`.
        data: --data.root, the folder of the dataset, or the one above several; by default that of the recipes.
        on: another folder of recipes, such as cub10, whose recipes of the same name replace those of the table.
        maps: folders with maps of other methods for the rows that accept them, such as --maps.psol FOLDER.
        out: the output folder, shared by all tables.
        seed: of the trainings.
        train_flags: further flags of every training, such as '--precision bf16-mixed --workers 2'.
        evaluate_flags: further flags of every evaluation.
    """
    chosen = read_table(name)
    root = [] if data.root is None else [f"--data.root={data.root}"]
    training = [*root, f"--seed={seed}", *shlex.split(train_flags)]
    runner = _Runner(out, chosen.protocol, training, [*root, *shlex.split(evaluate_flags)], on, maps or {})
    rows, failed = [], []
    for row in chosen.rows:
        try:
            content = read_run(runner.run(row)).content
            rows.append(ComparedRow(row.name, row.paper, _values(content, chosen.columns)))
        except (_NotRunError, IncompleteError) as error:
            rows.append(ComparedRow(row.name, row.paper, {}, str(error)))
            failed += [row.name] if isinstance(error, IncompleteError) else []
    stem = out / name.replace("/", "/" if "/figure" in name else "/table_")
    source = f"recipes/{on}" if on else "the paper's recipes"
    note = f"Protocol {chosen.protocol}, {source}, seed {seed}."
    about = {"table": name, "protocol": chosen.protocol, "on": on, "seed": seed, "columns": dict(chosen.columns)}
    save_comparison(stem, f"{name}: {chosen.title}", note, chosen.columns, rows, about)
    print_message(f"{stem}.md, .json, .png: {sum(row.reason is None for row in rows)} of {len(rows)} rows")
    if failed:
        raise IncompleteError(f"failed, see the messages above: {', '.join(failed)}")
    return stem.with_suffix(".json")


class _NotRunError(Exception):
    """A row cannot be run; the message is the reason."""


@dataclass(frozen=True)
class _Runner:
    """Trains and evaluates rows, in folders named by a digest of all that their content depends on."""

    out: Path
    protocol: str
    training: Sequence[str]
    evaluation: Sequence[str]
    on: str | None
    maps: Mapping[str, str]

    def run(self, row: Row) -> Path:
        """Return the folder of the row's evaluation; train and evaluate if there is none yet."""
        recipe = self._recipe(row)
        test = [f"--protocol={self.protocol}", *command_line_flags(row.test), *self.evaluation]
        if row.maps is not None and row.maps in self.maps:
            subject = [f"--maps={self.maps[row.maps]}", *_data_flags(recipe)]
        elif row.unavailable is not None:
            raise _NotRunError(row.unavailable)
        else:
            subject = [str(self._checkpoint(row))]
        folder = self.out / "evaluations" / _digest_name(recipe, [*subject, *test])
        if not (folder / METRICS).is_file():
            _call(["evaluate", *subject, *test, "--out", str(folder)])
        return folder

    def _recipe(self, row: Row) -> Path:
        path = recipes_root() / f"{row.recipe}.yaml"
        if self.on is None:
            return path
        replacement = recipes_root() / self.on / path.name
        if not replacement.is_file():
            raise _NotRunError(row.unavailable or f"recipes/{self.on} has no {path.name}")
        return replacement

    def _checkpoint(self, row: Row) -> Path:
        """Return the checkpoint of a row; train it, or resume its training, if necessary."""
        recipe, flags = self._recipe(row), [*command_line_flags(row.train), *self.training]
        if row.start is not None:
            flags.append(f"--model.pretrained={self._checkpoint(Row(row.name, **row.start))}")
        values = read_recipe(str(recipe)).values()
        parts = [recipe.parent / part for part in values if isinstance(part, str) and part.endswith(".yaml")]
        content = [path.read_text(encoding="utf-8") for path in (recipe, *parts) if path.is_file()]
        folder = RunFolder(self.out / "checkpoints" / _digest_name(recipe, [*content, *flags]))
        if not folder.metrics.is_file():
            resume = ["--resume"] if folder.last.is_file() else []
            _call(["train", "--config", str(recipe), *flags, "--out", str(folder.path), *resume])
        return folder.best


def _call(words: Sequence[str]) -> None:
    """Run a command of tokenloc in a new process, so that its memory is released."""
    print_message(shlex.join(["tokenloc", *words]))
    status = subprocess.run([sys.executable, "-m", "tokenloc.cli", *words], check=False).returncode
    if status in (-2, 130):
        raise KeyboardInterrupt("interrupted; repeat the command to continue")
    if status:
        raise IncompleteError(f"`tokenloc {words[0]}` failed with exit status {status}")


def command_line_flags(options: Mapping[str, Any]) -> list[str]:
    """Return command-line flags; a list without a dot in its name takes several words, True takes none."""
    words: list[str] = []
    for name, value in options.items():
        if "." in name or not isinstance(value, list | bool):
            words.append(f"--{name}={_text(value)}")
        elif value is not False:
            words += [f"--{name}", *map(_text, value if isinstance(value, list) else [])]
    return words


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _data_flags(recipe: Path) -> list[str]:
    """Return the flags for the dataset of a recipe, whose data may be in a file beside it."""
    data = read_recipe(str(recipe), ["data"])["data"]
    return command_line_flags({f"data.{name}": data[name] for name in ("name", "root", "options") if name in data})


def _digest_name(recipe: Path, parts: Sequence[str]) -> str:
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
    return f"{recipe.parent.name}-{recipe.stem}-{digest}"


def _values(content: Mapping[str, Any], columns: Iterable[str]) -> dict[str, float | None]:
    """Return the numbers of an evaluation by column; those of "info" are the parameters and operations of the model."""
    known = {**content, **content["metrics"]}
    if any(column.startswith("info.") for column in columns) and content.get("model"):
        known["info"] = asdict(model_cost(ModelConfig(**content["model"])))
    return {column: _lookup(known, column) for column in columns}


def _lookup(content: Mapping[str, Any], column: str) -> float | None:
    """Return a value by dotted name, such as ``box_acc.0.7``; None if it is absent."""
    if column in content:
        value: float | None = content[column]
        return value
    first, dot, rest = column.partition(".")
    inner = content.get(first)
    return _lookup(inner, rest) if dot and isinstance(inner, Mapping) else None
