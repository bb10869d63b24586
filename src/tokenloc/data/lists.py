"""Tables of official datasets, in text and MATLAB files, and the split files of `wsol-eval` (Choe et al. 2020)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenloc import _matlab
from tokenloc._files import read_text, require_regular
from tokenloc.boxes.frame import Size
from tokenloc.data.base import Boxes, as_boxes, refuse, require_unique, shorten

MAX_MAT_BYTES, MAT_SECONDS = 256_000_000, 600
WSOL_EVAL = "the metadata folders of github.com/clovaai/wsolevaluation"


@dataclass(frozen=True)
class Listing:
    """A split as its lists describe it, before classes are selected; every mapping is by image id.

    Args:
        classes: all class names, in the order of their labels.
        class_of: in the order of the samples.
        folders: that may hold the images; the first that holds one of them is used.
        boxes: see ``Sample``.
        sizes: (width, height), if the lists state them.
        files: paths below the folder, where these are not the ids.
        masks: paths of the objects' masks, and last that of the mask of ignored pixels or "".
        from_disk: the listing was made from the folder itself, so no image can be missing.
    """

    classes: tuple[str, ...]
    class_of: Mapping[str, str]
    folders: tuple[Path, ...]
    boxes: Mapping[str, Boxes] = field(default_factory=dict)
    sizes: Mapping[str, Size] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    from_disk: bool = False


def has_split_files(folder: Path) -> bool:
    """Return whether ``folder`` holds a split."""
    return (folder / "image_ids.txt").is_file()


def find_split_files(metadata: str | Path, dataset: str, split: str) -> Path:
    """Return the folder of a split's files: ``metadata``/``dataset``/``split``, ``metadata``/``split``, or itself."""
    metadata = Path(metadata)
    candidates = (metadata / dataset / split, metadata / split, metadata)
    found = next(filter(has_split_files, candidates), None)
    if found is None:
        raise FileNotFoundError(
            f"no image_ids.txt for {dataset} {split}: looked in {', '.join(map(str, candidates))}; get {WSOL_EVAL}"
        )
    return found


def read_split_files(folder: Path, class_name: Callable[[str, int], str]) -> Listing:
    """Read a split: image_ids.txt and class_labels.txt, and localization.txt and image_sizes.txt if present.

    Images that image_ids.txt does not list are left out. Boxes are unchanged. (CUB's were made from x, y, x + w, y + h
    and clipped to width - 1 and height - 1.) ``class_name`` returns the class name of an image id and its label.
    """
    listed, path = folder / "image_ids.txt", folder / "class_labels.txt"
    require([listed, path], WSOL_EVAL)
    image_ids = [image_id(row[0]) for _, row in rows(listed, 1)]
    require_unique(image_ids, listed)
    wanted = set(image_ids)
    labels = {image_id(row[0]): integer(row[1], location) for location, row in rows(path, 2, ",")}
    require_listed(image_ids, labels, f"{path} has no line for listed images")
    class_of = {name: class_name(name, labels[name]) for name in image_ids}
    boxes, masks = _localization(folder / "localization.txt", wanted)
    sizes = {
        image_id(row[0]): (integer(row[1], location), integer(row[2], location))
        for location, row in rows(folder / "image_sizes.txt", 3, ",", optional=True)
        if image_id(row[0]) in wanted
    }
    return Listing(tuple(classes_by_label(class_of, labels, path)), class_of, (), boxes, sizes, masks=masks)


def _localization(path: Path, wanted: set[str]) -> tuple[dict[str, Boxes], dict[str, tuple[str, ...]]]:
    """Return boxes from lines of `id,x0,y0,x1,y1`, or masks from lines of `id,mask,ignored`."""
    first = next(rows(path, 1, optional=True), None)
    columns = 3 if first is not None and first[1][0].count(",") == 2 else 5
    boxes: dict[str, list[list[float]]] = {}
    masks: dict[str, list[str]] = {}
    for location, (text, *cells) in rows(path, columns, ",", optional=True):
        name = image_id(text)
        if name in wanted and columns == 5:
            boxes.setdefault(name, []).append([number(cell, location) for cell in cells])
        elif name in wanted:
            *objects, ignored = masks.get(name, [""])
            mask, ignore = map(image_id, cells)
            masks[name] = [*objects, mask, ignored or ignore]
    return {name: as_boxes(several) for name, several in boxes.items()}, {name: tuple(masks[name]) for name in masks}


def image_id(text: str) -> str:
    """Return an image's path in the form of ids: relative, with forward slashes.

    >>> image_id(".\\\\cat\\\\1.jpg")
    'cat/1.jpg'
    """
    return text.replace("\\", "/").removeprefix("./").lstrip("/")


def classes_by_label(class_of: Mapping[str, str], labels: Mapping[str, int], path: Path) -> list[str]:
    """Return class names in the order of their labels; raise, naming the labels' file, if two classes have one."""
    names: dict[int, str] = {}
    for image, name in class_of.items():
        label = labels[image]
        if names.setdefault(label, name) != name:
            raise ValueError(f"{path}: label {label} is both {names[label]} and {name}; download it again")
    return [names[label] for label in sorted(names)]


def rows(
    path: Path, columns: int, separator: str | None = None, optional: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Yield ("file, line n", cells) for every line of a UTF-8 text table that is not blank.

    Cells are separated by ``separator`` (None: white space), which the first cell (None: the last) may contain. If
    ``optional``, a missing file has no lines.
    """
    if optional and not path.exists():
        return
    try:
        lines = read_text(path, "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error}); download it again") from error
    for count, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = line.split(None, columns - 1) if separator is None else line.rsplit(separator, columns - 1)
        location = f"{path}, line {count}"
        if len(cells) != columns:
            raise ValueError(f"{location}: expected {columns} values, got {line!r}; correct it, or download it again")
        yield location, [cell.strip() for cell in cells]


def number(text: str, location: str) -> float:
    """Return ``text`` as a float, or raise ValueError, naming its ``location``."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{location}: {text!r} is not a number; correct it, or download it again") from None


def integer(text: str, location: str) -> int:
    """Return ``text`` as an integer, or raise ValueError, naming its ``location``."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{location}: {text!r} is not a whole number; correct it, or download it again") from None


def read_mat(path: Path, variable: str, fields: Sequence[str] = ()) -> list[Any]:
    """Return a variable [N] of a MATLAB file as a list, or of a structure array the named fields, each a list [N].

    The file is parsed in another process, see ``tokenloc._matlab``. Raises ValueError if that fails.
    """
    if require_regular(path).stat().st_size > MAX_MAT_BYTES:
        raise ValueError(f"{path}: larger than {MAX_MAT_BYTES:,} bytes, which no official list is; download it again")
    command = [sys.executable, _matlab.__file__, str(path.absolute()), variable, *fields]
    single = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # each thread reserves memory
    try:
        done = subprocess.run(command, env={**os.environ, **single}, capture_output=True, timeout=MAT_SECONDS)
        result = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired) as error:
        reason = "SciPy's reader crashed or took too long"
        raise ValueError(f"{path}: cannot be read as a MATLAB file ({reason}); download it again") from error
    if "error" in result:
        raise ValueError(f"{path}: {result['error']}")
    values: list[Any] = result["values"]
    return values


def require_kind(values: Iterable[object], kind: Literal["text", "numbers", "whole numbers"], path: Path) -> None:
    """Raise ValueError, naming the file, if ``values`` from a MATLAB file are not of a kind."""
    types, whole = str if kind == "text" else (int, float), kind == "whole numbers"
    others = [one for one in values if not isinstance(one, types) or (whole and not float(one).is_integer())]
    refuse(others, f"{path}: values that are not {kind}", "download it again")


def require(paths: Sequence[Path], source: str) -> None:
    """Raise FileNotFoundError if a file is missing, with all that are expected and where to get them."""
    missing = [path.name for path in paths if not path.exists()]
    remedy = f"expected {shorten([path.name for path in paths], 9)}; unpack the whole dataset there: {source}"
    refuse(missing, f"missing files in {paths[0].parent}", remedy, FileNotFoundError)


def require_listed(used: Collection[str], listed: Collection[str], report: str) -> None:
    """Raise ValueError with the report if ``used`` holds names that are not among ``listed``."""
    refuse([name for name in used if name not in listed], report, "download it again")
