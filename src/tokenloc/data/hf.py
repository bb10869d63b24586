"""Hugging Face `datasets`: memory-mapped images with random access, for training sets of any size."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any, Literal

import numpy as np
from huggingface_hub import constants
from numpy.typing import NDArray
from PIL import Image

from tokenloc._extras import library
from tokenloc._files import require_regular
from tokenloc._names import one_of, unknown_name
from tokenloc.boxes.frame import Size
from tokenloc.data.base import (
    AnyPath,
    Boxes,
    Classes,
    ImageDataset,
    SampleTable,
    as_boxes,
    file_fingerprint,
    refuse,
    select_classes,
)
from tokenloc.data.images import read_image
from tokenloc.data.registry import DATASETS

SOURCE = "a folder of save_to_disk, a folder or glob of Parquet files, an imagefolder, or a dataset's name on the Hub"

BoxFormat = Literal["coco", "pascal"]

Table = Any  # a datasets.Dataset
Column = Any  # a pyarrow.ChunkedArray

_SPLITS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}


@DATASETS.register("hf")
class HfDataset(ImageDataset):
    """A dataset that the library `datasets` opens (extra `hf`): images, labels and optional boxes.

    The root is a folder written by `save_to_disk`, a folder or glob of Parquet files, an imagefolder, or a dataset's
    name on the Hub. Listing reads the columns of labels, boxes and ids and decodes no image. Rows keep their order.

    Args:
        image: name of the column of images (`datasets.Image`).
        label: name of the column of labels: a `ClassLabel`, or strings or integers, whose sorted values over all splits
            are the class names.
        boxes: name of a column such as "objects.bbox": a list of boxes for each image, or one box.
        box_format: "coco" for x, y, width, height; "pascal" for x0, y0, x1, y1; in original pixels.
        id: name of a column of unique ids; by default these are row numbers (``00000042``), or paths in an imagefolder.
        config: name of the dataset's configuration on the Hub.

    Raises:
        FileNotFoundError: if root or the split does not exist, or the Hub cannot be reached.
        ValueError: if root holds other data, a column is missing or has another type, or rows have no label.
    """

    name = "hf"

    def __init__(
        self,
        root: AnyPath,
        split: str,
        classes: Classes = None,
        *,
        image: str = "image",
        label: str = "label",
        boxes: str | None = None,
        box_format: str = "coco",
        id: str | None = None,
        config: str | None = None,
    ) -> None:
        self.require_split(split)
        one_of("value of option box_format:", box_format, BoxFormat)
        if root is None:
            raise ValueError(f"dataset 'hf' needs a root, got None; expected {SOURCE}")
        tables = _open(str(root), config)
        own_name = next((name for name in tables if name in _SPLITS[split]), None)
        if own_name is None:
            raise FileNotFoundError(f"{root} has no {split} split; it has {', '.join(tables)}")
        table = tables[own_name]
        self._source, self._image = f"{root} {split}", image
        for column in filter(None, (image, label, boxes and boxes.partition(".")[0], id)):
            if column not in table.column_names:
                raise unknown_name(f"column of {self._source}:", column, table.column_names)
        names, labels = _labels(table, tables.values(), label, self._source)
        chosen = select_classes(names, classes)
        labels = np.array([chosen.index(name) if name in chosen else -1 for name in names])[labels]
        self._rows = np.flatnonzero(labels >= 0)
        self._images = _encoded(table, image, self._source)
        self._fingerprint = " ".join(file_fingerprint(Path(file["filename"])) for file in table.cache_files)
        paths = _file_paths(_column(self._images, image))
        self._own_folders = _own_folders(str(root))
        for path in paths:
            self._require_own(path)
        ids = _column(table, id).to_pylist() if id else _ids(len(table), paths, Path(root).absolute())
        by_row = _boxes(_column(table, boxes.partition(".")[0]), boxes, box_format, self._source) if boxes else {}
        rows = self._rows.tolist()
        files = {str(ids[row]): paths[row] for row in rows} if paths else None
        by_id = {str(ids[row]): by_row[row] for row in rows if row in by_row}
        chosen_ids, folder = [str(ids[row]) for row in rows], Path(root) if paths else None
        super().__init__(split, chosen, SampleTable(chosen_ids, labels[self._rows], folder, files, by_id))

    def image(self, index: int, min_size: Size | None = None) -> Image.Image:
        """See ``ImageDataset.image``."""
        row = int(self._rows[index])
        value = self._images[row][self._image] or {}
        name = f"{self._source}, row {row}"
        if value.get("bytes") is not None:
            return read_image(value["bytes"], min_size=min_size, name=name)
        if not value.get("path"):
            raise ValueError(f"{name}: the column {self._image!r} is empty; remove the row")
        self._require_own(value["path"])
        return read_image(Path(value["path"]), min_size=min_size)

    def _require_own(self, path: str) -> None:
        """Raise ValueError if a row names an image outside the dataset's folder and the caches of downloads."""
        if not any(_absolute(path).is_relative_to(folder) for folder in self._own_folders):
            remedy = "copy the images into it, or embed them, as save_to_disk does"
            raise ValueError(f"{self._source} names the image {path}, which is outside the dataset; {remedy}")

    def fingerprint(self, index: int) -> str:
        """See ``ImageDataset.fingerprint``: of the image's own file, or of the Arrow files and the row."""
        if self.samples[index].path is not None:
            return super().fingerprint(index)
        return f"{self._fingerprint} {self._rows[index]}"


def _open(root: str, config: str | None) -> dict[str, Table]:
    datasets = library("datasets", "hf")
    path = Path(root)
    for file in path.rglob("*") if path.is_dir() else ():
        if file.exists() and not file.is_dir():
            require_regular(file)  # the library would wait for a pipe
    try:
        if path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(root)
        elif has_magic(root):
            by_split = _by_split(path.absolute())
            _refuse_false_counts(file for files in by_split.values() for file in files)
            found = datasets.load_dataset("parquet", data_files=by_split)
        elif path.is_dir() or re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", root):  # NAME or OWNER/NAME on the Hub
            _refuse_false_counts(map(str, path.rglob("*.parquet")))
            found = datasets.load_dataset(root, config)
        else:
            raise FileNotFoundError("no such folder")
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{root}: cannot be opened ({error}); expected {SOURCE}") from error
    except (datasets.exceptions.DatasetGenerationError, ValueError, OSError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"{root}: not a dataset that can be read ({reason}); expected {SOURCE}") from error
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def _own_folders(root: str) -> list[Path]:
    """Return the folders that may hold a dataset's images: its own, and the caches of downloads."""
    config = library("datasets", "hf").config
    own = _folder_of(Path(root).absolute()) if has_magic(root) else Path(root)
    caches = constants.HF_HUB_CACHE, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH
    return [path for folder in (own, *map(Path, caches)) for path in (_absolute(folder), folder.resolve())]


def _absolute(path: str | Path) -> Path:
    return Path(os.path.normpath(Path(path).absolute()))  # without resolving links, which belong to the user's folder


def _folder_of(pattern: Path) -> Path:
    return next(parent for parent in pattern.parents if not has_magic(str(parent)))


def _by_split(pattern: Path) -> dict[str, list[str]]:
    """Return the files that match a glob, by the split that a word in their path states; else all as train."""
    folder = _folder_of(pattern)
    files = sorted(folder.glob(pattern.relative_to(folder).as_posix()))
    if not files:
        raise FileNotFoundError("no file matches")
    for file in files:
        require_regular(file)
    words = {str(file): set(re.split(r"[^a-z]+", str(file.relative_to(folder)).lower())) for file in files}
    found = {split: [file for file in words if words[file] & names] for split, names in _SPLITS.items()}
    return {split: several for split, several in found.items() if several} or {"train": list(words)}


def _refuse_false_counts(files: Iterable[str]) -> None:
    """Raise ValueError if a Parquet file states more rows than it has bytes: compressed, a row may need almost none."""
    parquet = library("pyarrow.parquet", "hf")
    for path in files:
        rows, size = parquet.read_metadata(path).num_rows, Path(path).stat().st_size
        if rows > size:
            raise ValueError(f"{path} states {rows} rows in {size} bytes, which cannot be different images")


def _column(table: Table, name: str) -> Column:
    column = table.select_columns([name]).with_format("arrow")[:].column(name)
    try:
        column.validate(full=True)  # lengths and offsets that lead out of the file would crash the process
    except library("pyarrow", "hf").ArrowException as error:
        files = ", ".join(file["filename"] for file in table.cache_files)
        raise ValueError(f"{files}: column {name!r} is damaged ({error}); copy or download it again") from error
    return column


def _encoded(table: Table, image: str, source: str) -> Table:
    kind, found = library("datasets", "hf").Image, table.features[image]
    if not isinstance(found, kind):
        raise ValueError(f"{source}: column {image!r} must be of type datasets.Image, got {found}; cast it")
    return table.select_columns([image]).cast_column(image, kind(decode=False))


def _labels(table: Table, tables: Iterable[Table], label: str, source: str) -> tuple[list[str], NDArray[np.int64]]:
    """Return the class names, and the class index of every row of ``table``."""
    values = _column(table, label).to_pylist()
    feature = table.features[label]
    names = getattr(feature, "names", None)
    if names is None:
        if not str(getattr(feature, "dtype", "")).startswith(("string", "large_string", "int", "uint")):
            raise ValueError(f"{source}: column {label!r} must hold class names or integers, got {feature}")
        distinct = set().union(*(_column(each, label).unique().to_pylist() for each in tables)) - {None}
        index = {value: number for number, value in enumerate(sorted(distinct))}
        names, values = [str(value) for value in index], [index.get(value) for value in values]
    labels = np.array([-1 if value is None else value for value in values], dtype=np.int64)
    bad = np.flatnonzero((labels < 0) | (labels >= len(names))).tolist()
    refuse(bad, f"{source}: rows without a label of the {len(names)} classes", "remove them, or use another split")
    return list(names), labels


def _file_paths(images: Column) -> list[str]:
    """Return the paths of the images' own files, as in an imagefolder; none if any image is embedded."""
    pc = library("pyarrow.compute", "hf")
    paths = pc.struct_field(images, "path")
    embedded = pc.struct_field(images, "bytes").null_count < len(images)
    return [] if embedded or paths.null_count else [str(path) for path in paths.to_pylist()]


def _ids(count: int, paths: Sequence[str], root: Path) -> list[str]:
    """Return the paths relative to root if all are below it, else row numbers."""
    if paths and all(Path(path).is_relative_to(root) for path in paths):
        return [Path(path).relative_to(root).as_posix() for path in paths]
    return [f"{row:08d}" for row in range(count)]


def _boxes(column: Column, path: str, box_format: str, source: str) -> Mapping[int, Boxes]:
    """Return [G, 4] xyxy boxes by row, for the rows that have any."""
    arrow, pc = library("pyarrow", "hf"), library("pyarrow.compute", "hf")
    kind, counts = str(column.type), None
    try:
        for field in path.split(".")[1:]:
            if hasattr(column.type, "value_type"):  # a list of objects, each with its box
                counts, column = pc.list_value_length(column), pc.list_flatten(column)
            column = pc.struct_field(column, field)
        if counts is None and hasattr(column.type.value_type, "value_type"):
            counts, column = pc.list_value_length(column), pc.list_flatten(column)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        boxes = lengths > 0 if counts is None else pc.fill_null(counts, 0).to_numpy()  # number of boxes of each row
        if (lengths[lengths > 0] != 4).any():
            raise ValueError("a box must have 4 numbers")
        corners = pc.list_flatten(column).to_numpy().astype(np.float64).reshape(-1, 4)
    except (arrow.ArrowException, AttributeError, ValueError) as error:
        raise ValueError(f"{source}: column {path!r} of type {kind} holds no boxes ({error})") from error
    if box_format == "coco":
        corners[:, 2:] += corners[:, :2]
    ends = np.cumsum(boxes)
    return {int(row): as_boxes(corners[ends[row] - boxes[row] : ends[row]]) for row in np.flatnonzero(boxes)}
