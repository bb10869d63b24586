"""Hugging Face `datasets`: memory-mapped images with random access, for training sets of any size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenloc._extras import library
from tokenloc._names import one_of, unknown_name
from tokenloc.boxes.frame import Size
from tokenloc.data.base import Boxes, ImageDataset, SampleTable, as_boxes, named, select_classes
from tokenloc.data.fingerprints import file_fingerprint
from tokenloc.data.images import read_image
from tokenloc.data.registry import DATASETS

SOURCE = "a folder of save_to_disk, a folder or glob of Parquet files, an imagefolder, or a dataset's name on the Hub"
"""What ``root`` may be."""

BoxFormat = Literal["coco", "pascal"]

Dataset = Any
"""A `datasets.Dataset`; the library has no types."""

Column = Any
"""A `pyarrow.ChunkedArray`."""

_SPLITS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "eval", "evaluation"},
}


@DATASETS.register("hf")
class HfDataset(ImageDataset):
    """Images, labels and boxes of a dataset that the library `datasets` opens (extra `hf`).

    Listing reads the columns of labels and boxes and decodes no image. Rows keep their order. Ids are row numbers
    within the split (``00000042``), the values of the column ``id``, or, for an imagefolder, paths relative to root.

    Args:
        root: a folder written by `save_to_disk`, a folder or glob of Parquet files, an imagefolder, or the name of a
            dataset on the Hub, which is downloaded once.
        split: "train", "val" or "test"; "val" also finds `validation`, `valid` and `dev`.
        classes: names to select; labels follow the selection, in the dataset's order.
        image: name of the column of images (`datasets.Image`).
        label: name of the column of labels: a `ClassLabel`, whose names are the class names, or strings or integers,
            whose sorted values over all splits are.
        boxes: name of the column of boxes, such as "objects.bbox": a list of boxes for each image, or one box. None:
            no boxes.
        box_format: "coco" for x, y, width, height; "pascal" for x0, y0, x1, y1; in original pixels.
        id: name of a column of unique ids.
        config: name of the dataset's configuration on the Hub.

    Raises:
        ImportError: if `datasets` is not installed.
        FileNotFoundError: if root or the split does not exist, or the Hub cannot be reached.
        ValueError: if root holds another kind of data, a column is missing or has another type, or rows have no label.
    """

    name = "hf"

    def __init__(
        self,
        root: str | Path | None,
        split: str,
        classes: Sequence[str] | None = None,
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
        parts = _opened(str(root), config)
        part = _split_of(parts, split, str(root))
        wanted = [name for name in (label, boxes and boxes.partition(".")[0], id) if name]
        _require_columns(part, [image, *wanted], f"{root} {split}")
        columns = part.select_columns(wanted).with_format("arrow")[:]
        names, labels = _labels(parts, part, label, f"{root} {split}")
        chosen = select_classes(names, classes)
        new = np.array([chosen.index(name) if name in set(chosen) else -1 for name in names])
        self._rows = np.flatnonzero(new[labels] >= 0)
        self._image, self._source = image, f"{root} {split}"
        self._images = _encoded(part, image, self._source)
        self._files = " ".join(file_fingerprint(Path(file["filename"])) for file in part.cache_files)
        paths = _external_paths(self._images, image)
        ids = [str(value) for value in columns.column(id).to_pylist()] if id else _ids(len(part), paths, Path(root))
        several = _boxes(columns, boxes, box_format, self._source) if boxes else {}
        rows = self._rows.tolist()
        table = SampleTable(
            [ids[row] for row in rows],
            new[labels][self._rows],
            Path(root) if paths else None,
            {ids[row]: paths[row] for row in rows} if paths else {},
            {ids[row]: several[row] for row in rows if row in several},
        )
        super().__init__(split, chosen, table)

    def image(self, index: int, min_size: Size | None = None) -> Image.Image:
        """See ``ImageDataset.image``; messages name the dataset, the split and the row."""
        row = int(self._rows[index])
        value = self._images[row][self._image] or {}
        name = f"{self._source}, row {row}"
        if value.get("bytes") is not None:
            return read_image(value["bytes"], min_size=min_size, name=name)
        if not value.get("path"):
            raise ValueError(f"{name}: the column {self._image!r} is empty; remove the row")
        return read_image(Path(value["path"]), min_size=min_size)

    def fingerprint(self, index: int) -> str:
        """See ``ImageDataset.fingerprint``: of the image's own file, or of the Arrow files and the row."""
        if self.samples[index].path is not None:
            return super().fingerprint(index)
        return f"{self._files} {self._rows[index]}"


def _opened(root: str, config: str | None) -> dict[str, Dataset]:
    """Return the dataset's splits by their own names."""
    datasets = library("datasets", "hf")

    path = Path(root)
    try:
        if path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            found = datasets.load_from_disk(root)
        elif has_magic(root):
            found = datasets.load_dataset("parquet", data_files=_by_split(root))
        elif path.is_dir() or _is_hub_name(root):
            found = datasets.load_dataset(root, config)
        else:
            raise FileNotFoundError("no such folder")
    except (FileNotFoundError, ConnectionError) as error:
        raise FileNotFoundError(f"{root}: cannot be opened ({error}); expected {SOURCE}") from error
    except (datasets.exceptions.DatasetGenerationError, ValueError, OSError) as error:
        reason = error.__cause__ or error
        raise ValueError(f"{root}: not a dataset that can be read ({reason}); expected {SOURCE}") from error
    return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}


def _is_hub_name(root: str) -> bool:
    """Return whether root may be NAME or OWNER/NAME on the Hub.

    >>> _is_hub_name("zh-plus/tiny-imagenet"), _is_hub_name("./folder"), _is_hub_name("/data/images")
    (True, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", root) is not None


def _by_split(pattern: str) -> dict[str, list[str]]:
    """Return the files that match a glob, by the split that a word of their names states; else all as train."""
    path = Path(pattern).absolute()
    folder = next(parent for parent in path.parents if not has_magic(str(parent)))
    files = sorted(folder.glob(path.relative_to(folder).as_posix()))
    if not files:
        raise FileNotFoundError("no file matches")
    words = {str(file): set(re.split(r"[^a-z]+", str(file.relative_to(folder)).lower())) for file in files}
    found = {split: [file for file in words if words[file] & names] for split, names in _SPLITS.items()}
    return {split: several for split, several in found.items() if several} or {"train": list(words)}


def _split_of(parts: Mapping[str, Dataset], split: str, root: str) -> Dataset:
    for name, part in parts.items():
        if name in _SPLITS[split]:
            return part
    raise FileNotFoundError(f"{root} has no {split} split; it has {', '.join(parts)}")


def _require_columns(part: Dataset, columns: Sequence[str], source: str) -> None:
    for name in columns:
        if name not in part.column_names:
            raise unknown_name(f"column of {source}:", name, part.column_names)


def _encoded(part: Dataset, image: str, source: str) -> Dataset:
    """Return the column of images, which gives their encoded bytes or paths."""
    datasets = library("datasets", "hf")

    kind = part.features[image]
    if not isinstance(kind, datasets.Image):
        raise ValueError(f"{source}: column {image!r} must be of type datasets.Image, got {kind}; cast it")
    encoded: Dataset = part.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return encoded


def _labels(
    parts: Mapping[str, Dataset], part: Dataset, label: str, source: str
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the class names, and the class indices of the rows of ``part``."""
    values = _column(part, label).to_pylist()
    feature = part.features[label]
    names = getattr(feature, "names", None)
    if names is None:
        if not str(getattr(feature, "dtype", "")).startswith(("string", "large_string", "int", "uint")):
            raise ValueError(f"{source}: column {label!r} must hold class names or integers, got {feature}")
        everywhere = set(values).union(*(_column(other, label).unique().to_pylist() for other in parts.values()))
        index = {value: number for number, value in enumerate(sorted(everywhere - {None}))}
        names, values = [str(value) for value in index], [index.get(value, -1) for value in values]
    labels = np.array([-1 if value is None else value for value in values], dtype=np.int64)
    bad = np.flatnonzero((labels < 0) | (labels >= len(names))).tolist()
    if bad:
        raise ValueError(
            f"{source}: {len(bad)} rows have no label of the {len(names)} classes: rows {named(bad)}; a split "
            "without labels cannot be used"
        )
    return tuple(names), labels


def _column(part: Dataset, name: str) -> Column:
    return part.select_columns([name]).with_format("arrow")[:].column(name)


def _external_paths(images: Dataset, image: str) -> list[str]:
    """Return the paths of the images' own files, as an imagefolder has them; none if any image is embedded."""
    pc = library("pyarrow.compute", "hf")

    column = _column(images, image)
    paths = pc.struct_field(column, "path")
    if len(paths.drop_null()) < len(paths) or len(pc.struct_field(column, "bytes").drop_null()):
        return []
    return [str(path) for path in paths.to_pylist()]


def _ids(count: int, paths: Sequence[str], root: Path) -> list[str]:
    """Return the paths relative to root, or row numbers."""
    base = root.absolute()
    if paths and all(Path(path).is_relative_to(base) for path in paths):
        return [Path(path).relative_to(base).as_posix() for path in paths]
    return [f"{row:08d}" for row in range(count)]


def _boxes(columns: Any, path: str, box_format: str, source: str) -> dict[int, Boxes]:
    """Return [G, 4] xyxy boxes by row, of the rows that have any."""
    pc = library("pyarrow.compute", "hf")

    name, *nested = path.split(".")
    column, counts = columns.column(name), None
    try:
        for field in nested:
            if _is_list(column.type):  # a list of objects, each with its box
                counts, column = pc.list_value_length(column), pc.list_flatten(column)
            column = pc.struct_field(column, field)
        if counts is None and _is_list(column.type.value_type):
            counts, column = pc.list_value_length(column), pc.list_flatten(column)
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        boxes = lengths > 0 if counts is None else pc.fill_null(counts, 0).to_numpy()  # of each row
        if (lengths[lengths > 0] != 4).any():
            raise ValueError("a box must have 4 numbers")
        corners = pc.list_flatten(column).to_numpy().astype(np.float64).reshape(-1, 4)
    except (library("pyarrow", "hf").ArrowException, AttributeError, ValueError) as error:
        raise ValueError(f"{source}: column {path!r} holds no boxes ({error}); it is {columns.schema}") from error
    if box_format == "coco":
        corners[:, 2:] += corners[:, :2]
    ends = np.cumsum(boxes)
    starts = [0, *ends[:-1].tolist()]
    return {
        row: as_boxes(corners[start:end])
        for row, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True))
        if end > start
    }


def _is_list(kind: Any) -> bool:
    types = library("pyarrow", "hf").types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
