"""``tokenloc table``: rows share checkpoints, finished work is reused, and the numbers are those of evaluate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runs import TINY_VIT
from tokenloc._files import write_json
from tokenloc.cli import main
from tokenloc.commands import recipes, table
from tokenloc.commands.console import IncompleteError
from tokenloc.commands.paper_tables import read_table
from tokenloc.models.checkpoint import load_checkpoint
from tokenloc.reporting.paper_comparison import ComparedRow, order_agreement

RECIPE = {
    "data": "_data.yaml",
    "model": {"method": "tscam", "backbone": "vit_tiny_patch16_224", "pretrained": False, "backbone_options": TINY_VIT},
    "optimisation": {"epochs": 1, "batch_size": 8},
    "device": "cpu",
}
DATA = {"name": "scenes", "resize": 36, "crop": 32, "test_split": "test", "options": {"size": 40, "length": 12}}
TABLE = {
    "title": "A test",
    "protocol": "sat",
    "columns": {"gt_known": "GT-known", "box_acc.0.7": "IoU 0.7", "info.parameters": "Parameters"},
    "rows": [
        {"name": "plain", "recipe": "small/tscam", "paper": {"gt_known": 80.0, "box_acc.0.7": 50.0}},
        {"name": "mirrored", "recipe": "small/tscam", "test": {"flip": True, "thresholds": [0.2, 0.4]}},
        {"name": "other", "recipe": "small/tscam", "unavailable": "another method", "maps": "other"},
    ],
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package with one recipe and one table; commands run in this process."""
    folder = tmp_path / "package/recipes"
    (folder / "tables/paper").mkdir(parents=True)
    (folder / "small").mkdir()
    (folder / "small/tscam.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "small/_data.yaml").write_text(yaml.safe_dump(DATA))
    (folder / "tables/paper/table_1.yaml").write_text(yaml.safe_dump(TABLE, sort_keys=False))
    monkeypatch.setattr(recipes.tokenloc, "__file__", str(folder.parent / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    return folder


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((out / "paper/table_1.json").read_text())["rows"]}


def test_rows_are_trained_evaluated_and_written_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def call(words: list[str]) -> None:
        called.append(words[0])
        assert main(words) == 0

    monkeypatch.setattr(table, "_call", call)
    out = Path("out")
    assert main(["table", "paper/1", "--out", str(out)]) == 0
    assert called == ["train", "evaluate", "evaluate"]
    (checkpoint,) = out.glob("checkpoints/*/checkpoints/best.ckpt")
    flags = ["--protocol", "sat", "--out", "check"]
    assert main(["evaluate", str(checkpoint), *flags, "--flip", "--thresholds", "0.2", "0.4"]) == 0
    metrics = json.loads(Path("check/metrics.json").read_text())["metrics"]
    rows = rows_of(out)
    weights = load_checkpoint(checkpoint)[0].parameters()
    assert rows["mirrored"]["ours"] == {
        "gt_known": metrics["gt_known"],
        "box_acc.0.7": metrics["box_acc"]["0.7"],
        "info.parameters": sum(each.numel() for each in weights) / 1e6,
    }
    assert rows["other"]["reason"] == "another method"
    printed = (out / "paper/table_1.md").read_text()
    assert f"| plain | 80.0 / {rows['plain']['ours']['gt_known']:.1f} |" in printed
    assert "- other: not run, another method." in printed
    assert (out / "paper/table_1.png").stat().st_size > 10_000

    assert main(["evaluate", str(checkpoint), "--protocol", "sat", "--save_maps", "maps", "--out", "again"]) == 0
    assert main(["table", "paper/1", "--out", str(out), "--maps.other", "maps"]) == 0
    assert called == ["train", "evaluate", "evaluate", "evaluate"]
    assert rows_of(out)["other"]["ours"] == rows["plain"]["ours"]

    text = (root / "small/_data.yaml").read_text()
    (root / "small/_data.yaml").write_text(text.replace("length: 12", "length: 18"))
    assert main(["table", "paper/1", "--out", str(out)]) == 0
    assert called[4:] == ["train", "evaluate", "evaluate"]


def test_a_row_starts_from_the_checkpoint_of_another_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    def call(words: list[str]) -> None:
        called.append(words)
        content = {"protocol": "sat", "images": 9, "threshold": 0.5, "metrics": {"gt_known": 1.0}}
        write_json(Path(words[words.index("--out") + 1]) / "metrics.json", content)

    monkeypatch.setattr(table, "_call", call)
    first = {"recipe": "small/tscam", "train": {"optimisation.lr": 0.5}}
    row = {"name": "second", "recipe": "small/tscam", "train": {"optimisation.freeze": "all"}, "start": first}
    (root / "tables/paper/table_1.yaml").write_text(yaml.safe_dump({**TABLE, "rows": [row, {**row, "name": "again"}]}))
    (root / "small/tscam.yaml").write_text(yaml.safe_dump({**RECIPE, "data": "../_data.yaml"}))
    (root / "_data.yaml").write_text(yaml.safe_dump(DATA))
    assert main(["table", "paper/1", "--train_flags", "--model.pretrained weights.pth"]) == 0
    one, two, _ = called
    assert "--optimisation.lr=0.5" in one
    assert two[-3] == f"--model.pretrained={one[-1]}/checkpoints/best.ckpt"
    assert rows_of(Path("runs/tables"))["again"]["ours"]["gt_known"] == 1.0
    (root / "_data.yaml").write_text(yaml.safe_dump({**DATA, "crop": 40}))
    assert main(["table", "paper/1"]) == 0
    assert [words[0] for words in called[3:]] == ["train", "train", "evaluate"]


@pytest.mark.slow
def test_a_failing_row_does_not_stop_the_others(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"name": "broken", "recipe": "small/tscam", "train": {"optimisation.epochs": 0}}
    (root / "tables/paper/table_1.yaml").write_text(yaml.safe_dump({**TABLE, "rows": [broken, *TABLE["rows"][2:]]}))
    assert main(["table", "paper/1", "--out", "out"]) == 1
    assert rows_of(Path("out"))["broken"]["reason"] == "`tokenloc train` failed with exit status 2"
    assert rows_of(Path("out"))["other"]["reason"] == "another method"
    assert "failed, see the messages above: broken" in capsys.readouterr().err


def test_rows_on_another_set_need_a_recipe_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "tiny").mkdir()
    assert main(["table", "paper/1", "--out", "out", "--on", "tiny"]) == 0
    assert rows_of(Path("out"))["plain"]["reason"] == "recipes/tiny has no tscam.yaml"
    (root / "tiny/tscam.yaml").write_text(yaml.safe_dump(RECIPE))
    calls: list[list[str]] = []

    def call(words: list[str]) -> None:
        calls.append(words)
        raise IncompleteError("stopped")

    monkeypatch.setattr(table, "_call", call)
    assert main(["table", "paper/1", "--out", "out", "--on", "tiny", "--seed", "3", "--data.root", "x"]) == 1
    assert calls[0][:5] == ["train", "--config", str(root / "tiny/tscam.yaml"), "--data.root=x", "--seed=3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [{"name": "a", "recipe": "small/scm"}]}, "recipes/small/scm.yaml, which does not exist"),
        ({"rows": [{"name": "a", "recipe": "small/tscam", "paper": {"gt_knwon": 1}}]}, "did you mean 'gt_known'"),
        ({"rows": [{"name": "a", "recipe": "small/tscam", "trian": {}}]}, "'trian'"),
        ({"protocol": "sta"}, "did you mean 'sat'"),
    ],
)
def test_an_invalid_table(root: Path, change: dict[str, Any], message: str) -> None:
    (root / "tables/paper/table_1.yaml").write_text(yaml.safe_dump({**TABLE, **change}))
    with pytest.raises(ValueError, match=message) as raised:
        read_table("paper/1")
    assert "table_1.yaml" in str(raised.value)


def test_tables_are_listed_with_what_cannot_be_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "tables"]) == 0
    expected = "paper/1: A test (3 rows, protocol sat)\n  cannot be run: other: another method\n"
    assert capsys.readouterr().out == expected
    assert main(["table", "paper/2"]) == 2
    assert "unknown table 'paper/2'; did you mean 'paper/1'?" in capsys.readouterr().err


def test_the_agreement_of_orders_leaves_ties_and_missing_numbers_out() -> None:
    values = [(1.0, 5.0), (2.0, 6.0), (2.0, 7.0), (3.0, None), (4.0, 5.5)]
    rows = [ComparedRow(str(index), {"x": paper}, {"x": ours}) for index, (paper, ours) in enumerate(values)]
    assert order_agreement(rows, "x") == (3, 5)
