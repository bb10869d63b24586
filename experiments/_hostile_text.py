"""Hostile recipes, configurations, checkpoints, annotations, maps and evaluations for the fuzzer.

``cases`` yields descriptions and command lines of ``tokenloc``, of which each must end in a sentence and the exit
status 0, 1 or 2, soon and in little memory, without having created ``MARKER``.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from tokenloc.cli import main
from tokenloc.data import Preprocessing
from tokenloc.models import create_model
from tokenloc.models.metadata import ModelMetadata

MARKER = "a-value-was-called"
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}
SCENES = {"name": "scenes", "root": None, "options": {"size": 40, "length": 6}}
Case = tuple[str, list[str]]
Maker = Callable[["Fuzzer", Path], Case]
MAKERS: list[Maker] = []


def cases(rng: Random, folder: Path) -> Iterator[Case]:
    """Yield cases without end, in turn of each kind; their files are in ``folder``, those of the last 50 remain."""
    fuzzer = Fuzzer(rng, folder)
    for index in count():
        place = folder / f"case-{index}"
        place.mkdir()
        description, words = MAKERS[index % len(MAKERS)](fuzzer, place)
        yield f"{index} {description}", words
        shutil.rmtree(folder / f"case-{index - 50}", ignore_errors=True)


class Fuzzer:
    """Valid files of every kind, made once, and random changes of them."""

    def __init__(self, rng: Random, folder: Path) -> None:
        self.rng = rng
        self.valid = folder / "valid"
        self.valid.mkdir(parents=True)
        spec = {"class_path": "os.system", "init_args": {"command": f"touch '{folder / MARKER}'"}}
        self.values: list[Any] = [
            spec,
            {"x": [spec]},
            json.dumps(spec),
            "os.system",
            "",
            " ",
            "=1+1",
            "a\x00b",
            "x" * 5000,
        ]
        self.values += [None, True, 0, -1, 10**6, 2**70, 10**400, 1e-300, float("nan"), float("-inf"), b"x", [], {}]
        self.values += [
            [[]],
            {"": ""},
            [None, "x", 3],
            {"a": {"b": {"c": [1]}}},
            "\ud800",
            "../../etc/passwd",
            "/dev/zero",
        ]
        self.values += ["[" * 100_000, "&a [*a]", {"__path__": "x"}, [1e308] * 4, "1:" * 5000, "é\u202e\u0000"]
        self._make()

    def _make(self) -> None:
        torch.manual_seed(0)
        model = create_model("tscam", "vit_tiny_patch16_224", 6, False, 32, SMALL)
        names = ("butterfly", "fish", "leaf", "mushroom", "starfish", "turtle")
        metadata = ModelMetadata(model.config, names, Preprocessing((32, 32), (36, 36)), None, SCENES)
        weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        self.checkpoint = {"tokenloc": metadata.to_dict(), "state_dict": weights, "epoch": 0, "global_step": 1}
        torch.save(self.checkpoint, self.valid / "small.ckpt")
        for index in range(3):
            Image.new("RGB", (40, 40), (index, 90, 40)).save(self.valid / f"{index}.png")
            (self.valid / "images/cat").mkdir(parents=True, exist_ok=True)
            shutil.copy(self.valid / f"{index}.png", self.valid / "images/cat")
        words = ["evaluate", str(self.valid / "small.ckpt"), "--out", str(self.valid / "evaluation")]
        assert main([*words, "--save_maps", str(self.valid / "maps")]) == 0

    def changed(self, value: Any) -> Any:
        """Return a copy of nested values with one to three of them replaced, removed, added or doubled."""
        copy = {"root": deepcopy(value)}
        for _ in range(self.rng.randint(1, 3)):
            owner: Any = copy
            while True:
                keys = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
                key = self.rng.choice(keys)
                if not isinstance(owner[key], (dict, list)) or not owner[key] or self.rng.random() < 0.15:
                    break
                owner = owner[key]
            kind = self.rng.randrange(8)
            if kind == 0 and owner is not copy:
                del owner[key]
                if not copy["root"]:
                    break
            elif kind == 1 and isinstance(owner, dict) and owner is not copy:
                owner[self.rng.choice([*self.texts(), 3, None])] = self.rng.choice(self.values)
            elif kind == 2:
                owner[key] = [owner[key], owner[key]]
            else:
                owner[key] = self.rng.choice(self.values)
        return copy["root"]

    def texts(self) -> list[str]:
        return [value for value in self.values if isinstance(value, str)]

    def damaged(self, content: bytes) -> bytes:
        """Return bytes with some flipped, removed, repeated, or replaced by what often breaks a parser."""
        data = bytearray(content)
        tokens = [
            b"[" * 200_000,
            b"\xff\xfe",
            b"\x00",
            b"NaN",
            b"-Infinity",
            b"1e999",
            b"9" * 5000,
            b"&a *a",
            b"!!set ",
            b'"',
        ]
        for _ in range(self.rng.randint(1, 4)):
            start = self.rng.randrange(len(data) + 1)
            stop = min(len(data), start + self.rng.choice([0, 1, 3, 20, 500]))
            kind = self.rng.randrange(4)
            if kind == 0 and data:
                data[start % len(data)] ^= 1 << self.rng.randrange(8)
            elif kind == 1:
                del data[start:stop]
            else:
                data[start:stop] = self.rng.choice(tokens) if kind == 2 else data[start:stop] * 2
        return bytes(data)

    def write(self, path: Path, value: Any, dump: Callable[[Any], str] = json.dumps) -> Path:
        """Write a changed value, or a damaged text of the value."""
        if self.rng.random() < 0.3:
            path.write_bytes(self.damaged(dump(value).encode()))
            return path
        while True:
            try:
                text = dump(self.changed(value))
            except (TypeError, ValueError, RecursionError, yaml.YAMLError):  # values that this format does not have
                continue
            path.write_text(text, encoding="utf-8", errors="surrogatepass")
            return path


def maker(function: Maker) -> Maker:
    MAKERS.append(function)
    return function


def bomb(rng: Random) -> str:
    """Return YAML whose aliases expand to more values than fit into memory, or that contains itself."""
    lines, wide = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"], rng.randint(5, 15)
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, wide)]
    options = rng.choice([f"{{x: *a{wide - 1}}}", f"&b {{x: [*a{wide - 1}, *b]}}", f"{{<<: [*a{wide - 1}]}}"])
    return "\n".join([*lines, f"data: {{options: {options}}}"])


@maker
def recipe(fuzzer: Fuzzer, place: Path) -> Case:
    """It never trains: cached_views needs a frozen method, which is checked after the model is created."""
    data = {"name": "scenes", "options": {"size": 40, "length": 6}, "resize": 36, "crop": 32, "cached_views": 1}
    model = {"method": "tscam", "backbone": "vit_tiny_patch16_224", "pretrained": False, "backbone_options": SMALL}
    optimisation = {"epochs": 1, "lr": 1e-3, "betas": [0.9, 0.99], "freeze": "none"}
    content = {
        "data": data,
        "model": {**model, "options": {"map": "semantic"}},
        "optimisation": optimisation,
        "seed": 1,
    }
    path = fuzzer.write(place / "recipe.yaml", content, yaml.safe_dump)
    if fuzzer.rng.random() < 0.1:
        path.write_text(bomb(fuzzer.rng))
    return "recipe", ["train", "--config", str(path), "--data.cached_views", "1", "--out", str(place / "out")]


@maker
def part_of_recipe(fuzzer: Fuzzer, place: Path) -> Case:
    parts = ["_data.yaml", "/dev/zero", "os.path", "recipe.yaml", ".", "x" * 300, "a\x00b", "../case-0", ""]
    fuzzer.write(place / "_data.yaml", SCENES, yaml.safe_dump)
    (place / "recipe.yaml").write_text(yaml.safe_dump({"data": fuzzer.rng.choice(parts), "out": str(place / "out")}))
    words = ["train", "--config", str(place / "recipe.yaml"), "--protocol", "none"]
    return "part of a recipe", words


@maker
def flag(fuzzer: Fuzzer, place: Path) -> Case:
    value = fuzzer.rng.choice(fuzzer.values)
    text = value if isinstance(value, str) else repr(value)
    names = (
        "data.options",
        "data.options.size",
        "data.root",
        "split",
        "method_options",
        "method_options.map",
        "refine",
    )
    names += ("protocol", "threshold", "thresholds", "data", "data.name", "device")
    words = ["evaluate", str(fuzzer.valid / "small.ckpt"), "--out", str(place / "out")]
    return "flag", [*words, f"--{fuzzer.rng.choice(names)}={text}"]


@maker
def resumed(fuzzer: Fuzzer, place: Path) -> Case:
    (place / "run/checkpoints").mkdir(parents=True)
    torch.save(fuzzer.checkpoint, place / "run/checkpoints/last.ckpt")
    content = {"data": SCENES, "model": {"method": "tscam", "options": {}}, "seed": 1, "out": "run"}
    fuzzer.write(place / "run/config.yaml", content, yaml.safe_dump)
    return "resumed run", ["train", "--data.name", "none", "--out", str(place / "run"), "--resume"]


@maker
def checkpoint(fuzzer: Fuzzer, place: Path) -> Case:
    path = place / "hostile.ckpt"
    part = fuzzer.rng.choice(["tokenloc", "state_dict", "whole", "bytes", "model", "shared"])
    content = dict(fuzzer.checkpoint)
    if part == "model":
        content["tokenloc"] = {**content["tokenloc"], "model": fuzzer.changed(content["tokenloc"]["model"])}
    elif part == "whole":
        content = fuzzer.changed({"state_dict": {}, "tokenloc": content["tokenloc"]})
    elif part == "state_dict":
        weights = dict(content["state_dict"])
        name = fuzzer.rng.choice(list(weights))
        tensors = [torch.zeros(1).expand(2**33), torch.eye(3).to_sparse(), torch.zeros(0), weights[name].double()]
        weights[name] = fuzzer.rng.choice([*tensors, weights[name] * float("nan"), weights[name].to(torch.int8), [1]])
        content["state_dict"] = weights
    elif part == "shared":  # a kilobyte that would print as a terabyte
        values: list[Any] = []
        for _ in range(40):
            values = [values, values]
        key = fuzzer.rng.choice(list(content["tokenloc"]))
        content["tokenloc"] = {**content["tokenloc"], key: values}
    elif part == "tokenloc":
        content["tokenloc"] = fuzzer.changed(content["tokenloc"])
    torch.save(content, path)
    if part == "bytes":
        path.write_bytes(fuzzer.damaged(path.read_bytes()))
    command = fuzzer.rng.choice(["info", "evaluate", "localize"])
    ends = {"info": [], "evaluate": ["--out", str(place / "out")]}
    ends["localize"] = [str(fuzzer.valid / "images"), "--out", str(place / "out")]
    return f"checkpoint, {part}, {command}", [command, str(path), *ends[command]]


@maker
def annotations(fuzzer: Fuzzer, place: Path) -> Case:
    image = {"id": 1, "file_name": "cat/0.png", "width": 40, "height": 40}
    box = {"image_id": 1, "bbox": [1, 2, 10, 20], "category_id": 1, "iscrowd": 0}
    coco: Any = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "cat"}]}
    value = {"x": 10, "y": 10, "width": 30, "height": 40, "rotation": 0, "rectanglelabels": ["cat"]}
    region = {"type": "rectanglelabels", "original_width": 40, "original_height": 40, "value": value}
    tasks = [{"data": {"image": "cat/1.png"}, "annotations": [{"was_cancelled": False, "result": [region]}]}]
    path = fuzzer.write(place / "boxes.json", fuzzer.rng.choice([coco, tasks]))
    words = ["info", "--data.name", "folder", "--data.root", str(fuzzer.valid / "images"), "--split", "test"]
    return "annotations", [*words, "--data.options", json.dumps({"annotations": str(path)})]


@maker
def evaluation(fuzzer: Fuzzer, place: Path) -> Case:
    folder = Path(shutil.copytree(fuzzer.valid / "evaluation", place / "evaluation"))
    name = fuzzer.rng.choice(["metrics.json", "metrics.json", "images.csv", "boxes.npz", "figures/threshold.csv"])
    path = folder / name
    if name == "metrics.json":
        fuzzer.write(path, json.loads(path.read_bytes()))
    elif name == "boxes.npz":
        change_npz(fuzzer, path)
    elif fuzzer.rng.random() < 0.5:
        path.write_bytes(fuzzer.damaged(path.read_bytes()))
    else:
        rows = [line.split(",") for line in path.read_text().splitlines()]
        values = [*(text for text in fuzzer.texts() if "\ud800" not in text), "nan", "-1", "1e999", '"', "x" * 200_000]
        row = fuzzer.rng.choice(rows)
        row[fuzzer.rng.randrange(len(row))] = fuzzer.rng.choice(values)
        path.write_text("\n".join(map(",".join, rows)))
    if fuzzer.rng.random() < 0.5:
        return f"report of {name}", ["report", str(folder), "--out", str(place / "report.html")]
    return f"comparison of {name}", [
        "compare",
        str(folder),
        str(fuzzer.valid / "evaluation"),
        "--out",
        str(place / "out"),
    ]


@maker
def maps(fuzzer: Fuzzer, place: Path) -> Case:
    folder = Path(shutil.copytree(fuzzer.valid / "maps", place / "maps"))
    kind = fuzzer.rng.choice(["manifest", "npz", "npy"])
    if kind == "manifest":
        path = folder / "manifest.json"
        fuzzer.write(path, json.loads(path.read_bytes()))
    elif kind == "npz":
        change_npz(fuzzer, next(folder.glob("*.npz")))
    else:
        shutil.rmtree(folder)
        folder.mkdir()
        for index in range(3):
            content = npy(np.random.default_rng(index).random((32, 32)))
            (folder / f"{index:05d}.npy").write_bytes(hostile_array(fuzzer, content))
    words = [
        "evaluate",
        "--maps",
        str(folder),
        "--data.name",
        "scenes",
        "--data.options",
        json.dumps(SCENES["options"]),
    ]
    return f"maps, {kind}", [*words, "--out", str(place / "out")]


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def hostile_array(fuzzer: Fuzzer, content: bytes) -> bytes:
    """Return an ``.npy`` file with a header that states too much, with other values, or damaged."""
    rng = fuzzer.rng
    array = np.load(io.BytesIO(content))
    if rng.random() < 0.3:
        return fuzzer.damaged(content)
    if rng.random() < 0.5:
        shape = rng.choice([(10**12,), (2**62, 4), (-1,), (), (0, 5), (*array.shape, 10**9), (True,)])
        header = {"descr": rng.choice(["<f4", "|O", "<U9", "|V999999999", array.dtype.str]), "fortran_order": False}
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {**header, "shape": shape})
        return file.getvalue() + content[-array.nbytes :]
    others = [
        array * np.nan,
        array[:0],
        array[None],
        array.astype(np.int8),
        array.astype(complex),
        array.T,
        array.ravel(),
    ]
    return npy(rng.choice([*others, np.full(array.shape, np.inf), np.full(array.shape, -1), np.zeros(array.shape)]))


def change_npz(fuzzer: Fuzzer, path: Path) -> None:
    """Change one array of an ``.npz`` file, or remove it, or damage the file."""
    if fuzzer.rng.random() < 0.2:
        path.write_bytes(fuzzer.damaged(path.read_bytes()))
        return
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    name = fuzzer.rng.choice(list(members))
    content = members.pop(name)
    if fuzzer.rng.random() < 0.9:
        if name == "about.npy" and fuzzer.rng.random() < 0.7:
            about = fuzzer.changed(json.loads(np.load(io.BytesIO(content)).tobytes()))
            with suppress(ValueError, RecursionError):  # of values that contain themselves, or are nested too deeply
                content = npy(np.frombuffer(json.dumps(about, default=str).encode(), np.uint8))
        members[name] = hostile_array(fuzzer, content) if fuzzer.rng.random() < 0.8 else content
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, content)
