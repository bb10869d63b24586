"""Lists in text files: the tables of official datasets, and the split files of the `wsol-eval` evaluator.

The `wsol-eval` evaluator is Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right" (2020), whose metadata
folders hold for every split `image_ids.txt`, `class_labels.txt`, `localization.txt` and `image_sizes.txt`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenloc.data.base import as_boxes, named

REFEREE = "the metadata folders of github.com/clovaai/wsolevaluation"
"""Where a person gets the split files."""


@dataclass(frozen=True)
class SplitFiles:
    """What a folder of the `wsol-eval` evaluator's split files says; every mapping is by image id.

    Args:
        folder: where the files lie.
        image_ids: the split, in the file's order: paths relative to the dataset.
        labels: class indices.
        boxes: [G, 4] float64 xyxy, original pixels, as they are in the file; empty where boxes are unknown. The
            wsol_eval made CUB's from x, y, x + w, y + h, and clipped them to width - 1 and height - 1.
        sizes: (width, height) in pixels; empty without `image_sizes.txt`.
        masks: files of the object's masks and last that of the ignored region ("" for none); empty without masks.
    """

    folder: Path
    image_ids: tuple[str, ...]
    labels: dict[str, int]
    boxes: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    masks: dict[str, tuple[str, ...]] = field(default_factory=dict)


def has_split_files(folder: Path) -> bool:
    """Tell whether ``folder`` holds split files."""
    return (folder / "image_ids.txt").is_file()


def find_split_files(metadata: str | Path, dataset: str, split: str) -> Path:
    """Return the folder of a split's files: ``metadata``/``dataset``/``split``, ``metadata``/``split``, or itself.

    Raises:
        FileNotFoundError: where none of them holds an image_ids.txt.
    """
    metadata = Path(metadata)
    candidates = (metadata / dataset / split, metadata / split, metadata)
    found = next(filter(has_split_files, candidates), None)
    if found is None:
        raise FileNotFoundError(
            f"no image_ids.txt for {dataset} {split}: looked in {', '.join(map(str, candidates))}; get {REFEREE}"
        )
    return found


def classes_by_label(class_of: Mapping[str, str], labels: Mapping[str, int], path: Path) -> list[str]:
    """Return class names in the order of their labels.

    Args:
        class_of: class name by image id.
        labels: label by image id, at least of the images of ``class_of``.
        path: the file of the labels, for messages.

    Raises:
        ValueError: where two classes have one label.
    """
    names: dict[int, str] = {}
    for image, name in class_of.items():
        label = labels[image]
        if names.setdefault(label, name) != name:
            raise ValueError(f"{path}: label {label} is both {names[label]} and {name}; download it again")
    return [names[label] for label in sorted(names)]


def read_split_files(folder: str | Path) -> SplitFiles:
    """Read a split's files: image_ids.txt and class_labels.txt, and where present localization.txt, image_sizes.txt.

    Lines on images that image_ids.txt does not list are left out, so that a shorter image_ids.txt makes a subset.

    Raises:
        FileNotFoundError: where one of the two necessary files is missing.
        ValueError: for a line that is not as it should be (file and line are named), an image listed twice, or listed
            without a label.
    """
    folder = Path(folder)
    require([folder / "image_ids.txt", folder / "class_labels.txt"], REFEREE)
    image_ids = tuple(image_id(row[0]) for _, row in rows(folder / "image_ids.txt", 1))
    require_unique(image_ids, folder / "image_ids.txt")
    wanted = set(image_ids)
    labels = {image_id(row[0]): index(row[1], place) for place, row in rows(folder / "class_labels.txt", 2, ",")}
    require_lines(image_ids, labels, folder / "class_labels.txt")
    boxes, masks = _localization(folder / "localization.txt", wanted)
    sizes = {
        image_id(row[0]): (index(row[1], place), index(row[2], place))
        for place, row in rows(folder / "image_sizes.txt", 3, ",", optional=True)
        if image_id(row[0]) in wanted
    }
    return SplitFiles(folder, image_ids, {name: labels[name] for name in image_ids}, boxes, sizes, masks)


def _localization(path: Path, wanted: set[str]) -> tuple[dict[str, NDArray[np.float64]], dict[str, tuple[str, ...]]]:
    """Return boxes from lines of `id,x0,y0,x1,y1`, or masks from lines of `id,mask,ignored`."""
    first = next(rows(path, 1, optional=True), None)
    if first is not None and first[1][0].count(",") == 2:
        return {}, _mask_files(path, wanted)
    boxes: dict[str, list[list[float]]] = {}
    for place, row in rows(path, 5, ",", optional=True):
        name = image_id(row[0])
        if name in wanted:
            boxes.setdefault(name, []).append([number(value, place) for value in row[1:]])
    return {name: as_boxes(several) for name, several in boxes.items()}, {}


def _mask_files(path: Path, wanted: set[str]) -> dict[str, tuple[str, ...]]:
    objects: dict[str, list[str]] = {}
    ignored: dict[str, str] = {}
    for _, (text, mask, ignore) in rows(path, 3, ","):
        name = image_id(text)
        if name in wanted:
            objects.setdefault(name, []).append(image_id(mask))
            ignored[name] = ignored.get(name) or image_id(ignore)
    return {name: (*masks, ignored[name]) for name, masks in objects.items()}


def image_id(text: str) -> str:
    """Return an image's path as ids have it: relative, with forward slashes.

    >>> image_id(".\\\\cat\\\\1.jpg")
    'cat/1.jpg'
    """
    return text.replace("\\", "/").removeprefix("./").lstrip("/")


def require_unique(names: Sequence[str], path: Path) -> None:
    """Raise ValueError where ``names``, which ``path`` lists, hold one twice; it counts and names them."""
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise ValueError(f"{path} lists images more than once ({len(twice)}): {named(twice)}; keep one line of each")


def rows(
    path: Path, columns: int, separator: str | None = None, optional: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Yield ("file, line n", cells) for every line of a text table that is not blank.

    Args:
        path: a UTF-8 text file.
        columns: number of cells a line.
        separator: between cells; None is white space. With white space the last cell, with a separator the first one
            may hold the separator itself: a file's name.
        optional: a missing file has no lines.

    Raises:
        ValueError: for a line with another number of cells, or a file that is not text.
    """
    if optional and not path.is_file():
        return
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file in UTF-8 ({error}); download it again") from error
    for count, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = line.split(None, columns - 1) if separator is None else line.rsplit(separator, columns - 1)
        place = f"{path}, line {count}"
        if len(cells) != columns:
            raise ValueError(f"{place}: expected {columns} values, got {line!r}; correct it, or download it again")
        yield place, [cell.strip() for cell in cells]


def number(text: str, place: str) -> float:
    """Return ``text`` as a number; raises ValueError naming the ``place`` it was read at."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{place}: {text!r} is not a number; correct it, or download the file again") from None


def index(text: str, place: str) -> int:
    """Return ``text`` as a whole number; raises ValueError naming the ``place`` it was read at."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{place}: {text!r} is not a whole number; correct it, or download the file again") from None


def require(paths: Sequence[Path], source: str) -> None:
    """Raise FileNotFoundError where a file is missing: it lists all that were looked for, and where to get them."""
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise FileNotFoundError(
            f"missing {named([path.name for path in missing], 9)} in {missing[0].parent} (looked for "
            f"{named([path.name for path in paths], 9)}); unpack the whole dataset there: {source}"
        )


def require_classes(used: Collection[str], listed: Collection[str], path: Path, class_file: Path) -> None:
    """Raise ValueError where ``path`` uses classes that ``class_file`` does not list."""
    unknown = sorted(set(used) - set(listed))
    if unknown:
        raise ValueError(f"{path} uses classes {named(unknown)}, which {class_file} does not list; download them again")


def require_lines(names: Sequence[str], table: Collection[str], path: Path) -> None:
    """Raise ValueError where ``table``, the first cells of the lines of ``path``, lacks some of ``names``."""
    lacking = [name for name in names if name not in table]
    if lacking:
        raise ValueError(f"{path} has no line for {len(lacking)} listed images: {named(lacking)}; download it again")
