"""Recipes, flags and stored configurations are data: nothing in them is imported or called, and none ends in a
traceback, a hang or a crash."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import yaml

from tokenloc import cli
from tokenloc._plain import check_yaml, load_json, plain, read_yaml
from tokenloc.cli import COMMANDS, main

TRAIN = ["train", "--data.name", "scenes", "--model.pretrained", "false"]
PAIRS = zip("abcdefgh", "bcdefghi", strict=True)
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
BOMB += "".join(f"{name}: &{name} [{', '.join(['*' + last] * 10)}]\n" for last, name in PAIRS)


def hostile(marker: Path) -> dict[str, Any]:
    return {"class_path": "os.system", "init_args": {"command": f"touch '{marker}'"}}


def leaves(hint: Any, name: str) -> Iterator[str]:
    """Yield the dotted names of the options in a parameter of a command, and of the groups."""
    yield name
    for kind in (hint, *get_args(hint)):
        if is_dataclass(kind):
            prefix = "" if kind.__name__ == "PredictionOptions" else name + "."
            for field in fields(kind):
                yield from leaves(get_type_hints(kind)[field.name], prefix + field.name)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_value_of_any_option_is_called(command: str, tmp_path: Path) -> None:
    """As a flag, in a configuration, in lists and dictionaries, as text, and for a group of options."""
    marker = tmp_path / "marker"
    spec = hostile(marker)
    parser, commands = cli._make_parser([command])
    hints = get_type_hints(commands[command])
    names = sorted({leaf for name, hint in hints.items() for leaf in leaves(hint, name)} - {"return"})

    def parse(*words: str) -> None:
        with suppress(ValueError, SystemExit):
            cli._read_options(parser, [command, *words])

    for name in names:
        group, _, key = name.partition(".")
        for value in (spec, {"x": [spec, {"y": spec}]}, json.dumps([spec])):
            parse("--config", json.dumps({group: {key: value} if key else value}))
            parse(f"--{name}={value if isinstance(value, str) else json.dumps(value)}")
            assert not marker.exists(), (name, value)
        parse(f"--{name}.x={json.dumps(spec)}")
        parse(f"--{name}", "os.system")
        assert not marker.exists(), name


@pytest.mark.parametrize("name", ["data.options", "model.options", "model.backbone_options"])
def test_a_hostile_value_is_an_invalid_option(name: str, tmp_path: Path) -> None:
    """Also where the command runs with it; a module that it names is not even imported."""
    (tmp_path / "imported.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    group, key = name.split(".")
    for spec in (hostile(tmp_path / "marker"), {"class_path": "imported.x"}):
        content = {"data": {"name": "scenes"}, "model": {"method": "cam"}, "out": str(tmp_path / "out")}
        content[group] = {**content.get(group, {}), key: {"size": spec}}  # type: ignore[dict-item]
        (tmp_path / "recipe.yaml").write_text(json.dumps(content))
        assert main(["train", "--config", str(tmp_path / "recipe.yaml"), "--model.pretrained", "false"]) == 2
        assert not (tmp_path / "marker").exists()


def test_a_group_of_options_is_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imported.py").write_text(f"open({str(tmp_path / 'marker')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "recipe.yaml").write_text("data: imported.yaml\n")
    assert main(["train", "--config", str(tmp_path / "recipe.yaml")]) == 2
    with pytest.raises(SystemExit):
        main(["train", "--data", "imported.x"])
    assert not (tmp_path / "marker").exists()


def test_the_configuration_of_a_run_is_data(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run/config.yaml"
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "seed": {"x": 1}}))
    assert main([*TRAIN, "--out", str(tmp_path / "run"), "--resume"]) == 2
    content["model"]["options"] = {"x": [hostile(tmp_path / "marker")]}
    path.write_text(yaml.safe_dump(content))
    for words in (["--config", str(path)], [*TRAIN[1:], "--out", str(tmp_path / "run")]):
        assert main(["train", *words, "--resume"]) == 2
        assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB + "data: {options: {x: *i}}", "characters, counting what its aliases repeat"),
        ("data: &a {options: *a}", "refers to a value that contains it"),
        ("data: {options: {x: " + "[" * 200_000, "nested more than 50 levels"),
        ("- " * 200_000, "nested more than 50 levels"),
        ("seed: '" + "[" * 200_000 + "'", "nested more than 50 levels"),
        ("seed: '" + BOMB.replace("\n", "\n\n") + "'", "characters, counting what its aliases repeat"),
        ("seed: 1" + ":1" * 50_000, "has 100001 digits"),
        (b"data: {name: \xff\xfe}", "codec can't decode byte 0xff"),
        ("x: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("- seed", "must have lines of `option: value`"),
        ("data: {options: {1: 2}}", "the key 1 must be text"),
        ("? [a, b]\n: 3", "unhashable key"),
        ("seed: " + "9" * 500, "more than 64 bits"),
        ("data: {options: {x: !!binary aGVsbG8=}}", "got bytes b'hello'"),
        ("optimisation: {lr: .nan}", "expected a finite number"),
        ("config: recipe.yaml", "not an option of a recipe"),
        ("data: /dev/zero", "no such file"),
        ("model: {pretrained: null}", "--model.pretrained must have a value; got null"),
        ("seed: null", "--seed must have a value; got null"),
    ],
)
def test_a_hostile_recipe_is_a_clear_error(
    content: str | bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["train", "--config", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error) < 2000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimisation.epochs", "0"], "optimisation.epochs must be at least 1; got 0"),
        (["--optimisation.weight_decay", "-1"], "optimisation.weight_decay must be at least 0"),
        (["--optimisation.betas", "[0.9, 1.5]"], "optimisation.betas must be at least 0 and below 1"),
        (["--optimisation.lr", ".inf"], "--optimisation.lr must be a finite number; got inf"),
        (["--optimisation.lr", "9" * 400], "too large to convert to float"),
        (["--optimisation.gradient_clip", "0"], "optimisation.gradient_clip must be positive"),
        (["--data.per_class", "0"], "data.per_class must be at least 1"),
        (["--data.crop", "300"], "data.crop 300 must be at most data.resize 256"),
        (["--model.options", "{x: .nan}"], "model.options.x: expected a finite number"),
        (["--seed", "[" * 100_000], "nested more than 50 levels"),
        (["--seed=" + "[" * 100_000], "nested more than 50 levels"),
        (["--data.options", f"{{x: '{'[' * 100_000}'}}"], "nested more than 50 levels"),
        (["--seed", BOMB], "characters, counting what its aliases repeat"),
    ],
)
def test_an_invalid_flag_is_a_clear_error(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words]) == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_while_parsing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "tokenloc: interrupted\n"


def test_plain_values() -> None:
    values = {"a": [1, 2.5, None, True, "x"], "b": {"c": []}}
    assert plain(values) == values
    for other in (torch.zeros(1), Path("x"), b"x", {1: 2}, {"x": {3}}, float("nan"), 2**70, os):
        with pytest.raises(ValueError, match=r"expected a finite number|must be text"):
            plain({"x": [other]})
    shared: Any = []
    for _ in range(40):
        shared = [shared, shared]
    with pytest.raises(ValueError, match="more than"):
        plain(shared)
    shared = [1]
    shared.append(shared)
    with pytest.raises(ValueError, match="nested more than 50 levels"):
        plain(shared)


def test_anchors_and_aliases_remain_usable(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: *a}\n")
    assert read_yaml(tmp_path / "recipe.yaml") == {"a": {"x": 1}, "b": {"x": 1, "y": {"x": 1}}}
    check_yaml("[" * 40 + "]" * 40)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"x": NaN}', "[Infinity]", b"\xff", "{", ""])
def test_invalid_json(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        load_json(text)
