"""Hostile files for the command line, for experiments/fuzz.py: images, datasets, maps, checkpoints and journals."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from _hostile_requests import images, mutated
from PIL import Image
from scipy.io import savemat

from tokenloc import Localizer, create_model
from tokenloc.boxes import Frame
from tokenloc.cli import main
from tokenloc.commands.journal import FORMAT
from tokenloc.data import Preprocessing
from tokenloc.metrics.stored_maps import writing_maps
from tokenloc.models.checkpoint import save_atomically
from tokenloc.models.metadata import ModelMetadata

Case = tuple[str, list[str]]
CLASSES = ("a", "b")
SUFFIXES = (".jpg", ".png", ".webp", ".tif", ".gif", ".bmp", ".ppm", ".JPEG", ".avif")
FORMATS = ("coco", "csv", "label-studio", "parquet", "voc", "yolo")
NAMES = [b"\xff", b"\xfe", b"line\nend", b"\x1b[31m", b"x" * 246, b"\xff" * 200, "é".encode() * 120, b"a.xml", b"..a"]
NAMES += [
    b" ",
    b"'",
    b'"<&>',
    b"-rf",
    b"=1+1",
    b"%s{}",
    b"a" * 60 + b"\\..\\b",
    "\u202e\U0001f426".encode(),
    b"a",
    b"A",
]
PATHS = ["../../../../etc/passwd", "/etc/passwd", "/dev/zero", "a/../../b/0.jpg", "..", "", "a", "\0", "a\\..\\0.jpg"]
VOC = "<annotation><size><width>{}</width><height>8</height></size><object><name>a</name><bndbox><xmin>1</xmin>"
VOC += "<ymin>{}</ymin><xmax>5</xmax><ymax>4</ymax></bndbox></object></annotation>"
NUMBERS = ["1", "-1", "0", "nan", "inf", "1e999", "9" * 400, "x", "", "1.5", "18446744073709551616", "\uff11"]


def cases(rng: random.Random, folder: Path) -> Iterator[Case]:
    """Yield descriptions and command lines without an end; the files of a case exist until the next case is made."""
    valid = _valid_files(folder / "valid")
    kinds: list[Callable[[random.Random, Path, Path], Case]] = [
        *[_localize] * 4,
        *[_odd_files] * 2,
        *(_class_folders, _official_lists, _matlab, _annotations, _maps, _checkpoint, _journal, _evaluation),
    ]
    for number in count():
        place = folder / f"{number}"
        place.mkdir()
        yield rng.choice(kinds)(rng, place, valid)
        shutil.rmtree(place, ignore_errors=True)


def _valid_files(folder: Path) -> Path:
    """Write a checkpoint, a shared model, a dataset, its maps, their evaluation and annotations, to be altered."""
    torch.manual_seed(0)
    options = {"embed_dim": 24, "num_heads": 2, "depth": 2}
    model = create_model("tscam", "vit_tiny_patch16_224", len(CLASSES), False, 32, backbone_options=options).eval()
    metadata = ModelMetadata(model.config, CLASSES, Preprocessing(size=(32, 32), resize=(36, 36)))
    folder.mkdir(parents=True)
    state = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    save_atomically({"state_dict": state, "tokenloc": metadata.to_dict(), "global_step": 0}, folder / "a.ckpt")
    Localizer(model, metadata).save_pretrained(folder / "shared")
    _write_dataset(folder / "data")
    with writing_maps(folder / "maps", {"input_frame": "resize", "classes": CLASSES}) as writer:
        for name in ("a", "b"):
            for number in range(2):
                map_, frame = np.random.default_rng(number).random((4, 4)), Frame.resized((30, 20), (32, 32))
                writer.add(f"test/{name}/{number}.png", map_, [0], replace(frame), 0.5)
    words = ["evaluate", "--maps", str(folder / "maps"), *_data(folder / "data"), "--out", str(folder / "evaluated")]
    if main(words) not in (0, 1):
        raise RuntimeError("the valid maps cannot be evaluated")
    return folder


def _write_dataset(folder: Path) -> None:
    for split in ("train", "test"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new("RGB", (30, 20), (99, 9, 9)).save(folder / split / name / f"{number}.png")
                (folder / split / name / f"{number}.xml").write_text(VOC.format(30, 2).replace(">a<", f">{name}<"))


def _data(root: Path, name: str = "folder", **options: str) -> list[str]:
    return ["--data.name", name, "--data.root", str(root)] + [f"--data.options.{key}={options[key]}" for key in options]


def _localize(rng: random.Random, place: Path, valid: Path) -> Case:
    mine = place / "mine"
    mine.mkdir()
    names, source = [], images(rng)
    for index in range(rng.randint(1, 6)):
        name, content = next(source)
        names.append(name)
        (mine / f"{index}{rng.choice(SUFFIXES)}").write_bytes(content)
    return f"images: {', '.join(names)}", _localizing(rng, place, valid, mine)


def _localizing(rng: random.Random, place: Path, valid: Path, mine: Path) -> list[str]:
    chosen = [flag for flag in ("--masks", "--fast", "--flip", "--objects=all", "--top_k=2") if rng.random() < 0.3]
    formats = ["--format", *rng.sample(FORMATS, rng.randint(1, 3))] if rng.random() < 0.5 else []
    return [
        "localize",
        str(valid / "a.ckpt"),
        str(mine),
        "--device",
        "cpu",
        *chosen,
        *formats,
        "--out",
        str(place / "out"),
    ]


def _odd_files(rng: random.Random, place: Path, valid: Path) -> Case:
    """Pipes, sockets, devices, loops, folders, unreadable files and odd names, instead of images."""
    mine = place / "mine"
    mine.mkdir()
    Image.new("RGB", (30, 20)).save(mine / "good.png")
    for _ in range(rng.randint(1, 5)):
        with suppress(OSError):  # the file system does not take the name, or a file has it
            _odd_file(rng, mine, os.fsdecode(rng.choice(NAMES) + rng.choice([b"", b"", b"/b"])) + rng.choice(SUFFIXES))
    return f"names: {sorted(path.name for path in mine.iterdir())}", _localizing(rng, place, valid, mine)


def _odd_file(rng: random.Random, folder: Path, name: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    kind = rng.choice(
        ["image"] * 4 + ["pipe", "socket", "device", "loop", "dangling", "folder", "up", "closed", "empty"]
    )
    if kind == "image":
        Image.new("RGB", (rng.randint(1, 40), rng.randint(1, 40))).save(path, rng.choice(["JPEG", "PNG"]))
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(path))
    elif kind in ("folder", "empty", "closed"):
        path.mkdir() if kind == "folder" else path.touch(0o000 if kind == "closed" else 0o600)
    else:
        targets = {"device": rng.choice(["/dev/zero", "/dev/random", "/dev/tty"]), "loop": name, "up": ".."}
        path.symlink_to(targets.get(kind, "nowhere"))


def _class_folders(rng: random.Random, place: Path, valid: Path) -> Case:
    """A dataset in class folders with damaged files, pipes, and XML files of strange numbers."""
    data = Path(shutil.copytree(valid / "data", place / "data"))
    changed = rng.sample(sorted(path for path in data.rglob("*") if path.is_file()), rng.randint(1, 3))
    for path in changed:
        _alter(rng, path, VOC.format(rng.choice(NUMBERS), rng.choice(NUMBERS)).encode())
    command = rng.choice(
        [["info"], ["evaluate", str(valid / "a.ckpt"), "--device", "cpu", "--out", str(place / "out")]]
    )
    return f"class folders: {[path.name for path in changed]}", [*command, *_data(data), "--split", "test"]


def _alter(rng: random.Random, path: Path, other: bytes = b"") -> None:
    """Mutate a file, or replace it by ``other`` content, nothing, a pipe, a device, a folder, or a deep nesting."""
    content = path.read_bytes()
    path.unlink()
    kind = rng.randrange(12)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to("/dev/zero")
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.write_bytes(rng.choice([b"", b"\xff\xfe", b"[" * 100_000, b"{" * 100_000, b'{"a":' * 100_000, b"\0" * 9]))
    elif kind in (4, 5) and other:
        path.write_bytes(other)
    else:
        path.write_bytes(mutated(rng, content))


def _text(rng: random.Random, lines: Sequence[str]) -> str:
    """Return lines with some of their cells replaced."""
    cells = [line.split(" ") for line in lines]
    for _ in range(rng.randint(0, 3)):
        row = rng.choice(cells)
        row[rng.randrange(len(row))] = rng.choice(NUMBERS + PATHS)
    return "\n".join(" ".join(row) for row in cells) + rng.choice(["\n", "", "\r\n", "\n\ufeff", "\x00", "\u2028"])


def _official_lists(rng: random.Random, place: Path, _: Path) -> Case:
    """CUB's lists with paths that lead outside, strange numbers, and changed bytes."""
    root, files = place / "CUB_200_2011", ["001.A/0.jpg", "001.A/1.jpg", "002.B/0.jpg", "002.B/1.jpg"]
    for file in files:
        (root / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8)).save(root / "images" / file)
    tables = {
        "images.txt": [f"{row} {file}" for row, file in enumerate(files, start=1)],
        "classes.txt": ["1 001.A", "2 002.B"],
        "image_class_labels.txt": ["1 1", "2 1", "3 2", "4 2"],
        "train_test_split.txt": ["1 1", "2 0", "3 1", "4 0"],
        "bounding_boxes.txt": [f"{row} 1.0 2.0 6.0 5.0" for row in range(1, 5)],
    }
    for name, lines in tables.items():
        (root / name).write_text(_text(rng, lines) if rng.random() < 0.6 else "\n".join(lines), encoding="utf-8")
    name = rng.choice(list(tables))
    _alter(rng, root / name, _text(rng, tables[name]).encode())
    options = {"missing": "skip"} if rng.random() < 0.5 else {}
    return f"lists of CUB: {name}", ["info", *_data(root, "cub", **options), "--split", rng.choice(["train", "test"])]


def _matlab(rng: random.Random, place: Path, _: Path) -> Case:
    """Lists of Stanford Cars and Dogs in MATLAB files, with changed bytes, names and types."""
    files: list[object] = ["a/0.jpg", rng.choice([*PATHS, 7, np.nan, np.zeros((0, 0))])]
    cells = np.empty((2, 1), object)
    cells[:, 0] = files
    corners = [rng.choice([1, -5, np.nan, np.inf, "x", 1e300]) for _ in range(5)]
    name = rng.choice(["stanford_cars", "stanford_dogs"])
    path = place / ("cars_annos.mat" if name == "stanford_cars" else "train_list.mat")
    columns = ("relative_im_path", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "test")
    table = np.empty((1, 2), [(column, object) for column in columns])
    table[0, 0], table[0, 1] = (files[0], 1, 1, 5, 5, 1, 0), (files[1], *corners, 0)
    for below in ("Images/a", "Annotation/a", "a"):
        (place / below).mkdir(parents=True)
        Image.new("RGB", (12, 8)).save(place / below / "0.jpg")
    variables = {"annotations": table, "class_names": cells, "file_list": cells, "annotation_list": cells}
    savemat(path, {**variables, "labels": np.array([1.0, corners[0] if corners[0] != "x" else 2.0])})
    if rng.random() < 0.7:
        _alter(rng, path)
    return f"MATLAB files of {name}", ["info", *_data(place, name, missing="skip"), "--split", "train"]


def _annotations(rng: random.Random, place: Path, valid: Path) -> Case:
    """COCO and Label Studio files with strange values."""
    value: object = rng.choice([None, [], {}, "x", -1, 1e308, float("nan"), float("inf"), "../0.png", 10**30, True])
    names = [{"id": 1, "file_name": "a/0.png", "width": 30, "height": 20}, {"id": 2, "file_name": "b/0.png"}]
    boxes = [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    coco: dict[str, list[dict[str, object]]] = {
        "images": names,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "a"}],
    }
    region = {"type": "rectanglelabels", "original_width": 30, "original_height": 20}
    region["value"] = {"x": 1, "y": 2, "width": 50, "height": 50, "rectanglelabels": ["a"]}
    task = {"data": {"image": "/data/local-files/?d=a/0.png"}, "annotations": [{"result": [region]}]}
    place_of = rng.choice(
        [names[0], boxes[0], coco, task, region, region["value"], task["annotations"][0], task["data"]]
    )
    place_of[rng.choice(list(place_of))] = value
    path = place / "boxes.json"
    path.write_text(json.dumps(rng.choice([coco, [task]])))
    if rng.random() < 0.3:
        _alter(rng, path)
    return f"annotations: {value!r}", ["info", *_data(valid / "data", annotations=str(path)), "--split", "test"]


def _maps(rng: random.Random, place: Path, valid: Path) -> Case:
    """Maps of tokenloc and of other code, with changed bytes, headers, shapes and a manifest that leads outside."""
    folder = place / "maps"
    if rng.random() < 0.5:
        shutil.copytree(valid / "maps", folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        (name, ids), *_ = manifest["files"].items()
        others = [{rng.choice(PATHS): ids}, {name: ids * 2}, {name: 7}, {name: [7]}, [name], 3, {}]
        manifest[rng.choice(["files", "about", "format"])] = rng.choice(others)
        path = rng.choice([folder / name, folder / "manifest.json"])
        _alter(rng, path, json.dumps(manifest).encode())
    else:
        path = folder / "test" / "a" / "0.npy"
        path.parent.mkdir(parents=True)
        shape = rng.choice([(4, 4), (0, 4), (4, 4, 4), (), (1, 1), (70_000, 1)])
        values = rng.choice([np.nan, np.inf, -1, 0.5, 1e30])
        np.save(path, np.full(shape, values, rng.choice(["f4", "f8", "f2", "c8", "i4", "S3"])))
        header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
        if rng.random() < 0.6:
            _alter(rng, path, header.ljust(127) + b"\n")
    words = ["evaluate", "--maps", str(folder), *_data(valid / "data"), "--split", "test", "--out", str(place / "out")]
    return f"maps: {path.name}", words


def _checkpoint(rng: random.Random, place: Path, valid: Path) -> Case:
    """A damaged checkpoint, or a shared folder with a damaged file."""
    if rng.random() < 0.5:
        path = checkpoint = Path(shutil.copyfile(valid / "a.ckpt", place / "a.ckpt"))
    else:
        checkpoint = Path(shutil.copytree(valid / "shared", place / "shared"))
        path = checkpoint / rng.choice(["config.json", "model.safetensors"])
    _alter(rng, path, len(b"{}").to_bytes(8, "little") + b"{}")
    words = [
        "localize",
        str(checkpoint),
        str(valid / "data/test/a/0.png"),
        "--device",
        "cpu",
        "--out",
        str(place / "out"),
    ]
    return f"checkpoint: {path.name}", rng.choice([["info", str(checkpoint)], words])


def _journal(rng: random.Random, place: Path, valid: Path) -> Case:
    """The journal of an interrupted run, with changed bytes and values."""
    words = _localizing(rng, place, valid, valid / "data" / "test")
    settings = {"tokenloc": "0.1.0", "threshold": rng.choice([0.35, None, {}])}
    record = {"source": "x", "label": "a", "class_index": rng.choice([0, -1, "a"]), "score": rng.choice([0.5, None])}
    record |= {"boxes": rng.choice([[[1, 2, 3, 4]], 3]), "confidence": [0.5], "size": [30, 20], "threshold": 0.3}
    file = str(valid / "data/test/a/0.png")
    line = {"file": file, "version": "", "stem": "0", "records": [{**record, "protocol": "standard"}], "outputs": [{}]}
    line[rng.choice(list(line))] = rng.choice([None, 1, [], {}, "../../x", [{"image": "../../valid/a.ckpt"}]])
    header = {"format": rng.choice([FORMAT, FORMAT, 1, None, []]), "settings": rng.choice([settings, None, 1])}
    path = place / "out" / "localizations.journal.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(one) + "\n" for one in (header, line)))
    if rng.random() < 0.5:
        _alter(rng, path)
    return "journal", [*words, *rng.choice([[], ["--overwrite"]])]


def _evaluation(rng: random.Random, place: Path, valid: Path) -> Case:
    """A damaged result of an evaluation, for a report or a comparison."""
    folder = Path(shutil.copytree(valid / "evaluated", place / "evaluated"))
    path = rng.choice(sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".csv", ".npz")))
    _alter(rng, path)
    report = ["report", str(folder), "--out", str(place / "report.html")]
    compare = ["compare", str(folder), str(valid / "evaluated"), "--out", str(place / "compared")]
    return f"evaluation: {path.name}", rng.choice([report, compare])
