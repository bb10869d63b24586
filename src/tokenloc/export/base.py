"""What the annotation formats share: destinations, image names, and writing several formats in one pass."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tokenloc._extras import library
from tokenloc._names import Registry
from tokenloc.data.annotations import Box
from tokenloc.data.base import BACKGROUND, refuse, shorten
from tokenloc.inference.localization import LocalizationRecord

ImageResult = LocalizationRecord | Sequence[LocalizationRecord]  # of one class, or of several
WriteImage = Callable[[str, Sequence[LocalizationRecord]], object]  # given the image's name in the file
PIXEL_DIGITS = 4
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Destination:
    """Where and how to write annotations.

    Args:
        folder: the output folder; it is created.
        classes: the class names of the checkpoint, in the order of ``class_index``.
        root: images in this folder are named relative to it, others by their ``source``.
        image_url: Label Studio only: the prefix of image names; None for its local files.
        model_version: Label Studio only: the model's name.
        overwrite: replace existing annotation files.
    """

    folder: Path
    classes: tuple[str, ...]
    root: Path | None = None
    image_url: str | None = None
    model_version: str = "tokenloc"
    overwrite: bool = False

    @property
    def labels(self) -> list[str]:
        """The class names as files store them; see ``valid_text``."""
        return [valid_text(name) for name in self.classes]

    @property
    def categories(self) -> list[str]:
        """The ``labels`` that boxes may have: all, without ``BACKGROUND`` at the end."""
        return self.labels[:-1] if self.classes[-1:] == (BACKGROUND,) else self.labels

    def image_name(self, source: str) -> str:
        """Return the name of an image in the files, with forward slashes."""
        path = Path(source)
        if self.root is not None and absolute(path).is_relative_to(absolute(self.root)):
            path = absolute(path).relative_to(absolute(self.root))
        return valid_text(path.as_posix())


@dataclass(frozen=True)
class Format:
    """An annotation format.

    Attributes:
        outputs: the files or folders that it writes into the destination.
        open: a context manager that yields a writer of images; the outputs appear when it ends without an error.
        needs: the module that it needs and the extra that installs it.
    """

    outputs: tuple[str, ...]
    open: Callable[[Destination], AbstractContextManager[WriteImage]]
    needs: tuple[str, str] | None = None

    def write(
        self, results: Iterable[ImageResult], classes: Sequence[str], folder: str | Path, **options: Any
    ) -> list[Path]:
        """Write annotations as ``write_annotations`` to a ``Destination`` of the other arguments; return the paths."""
        destination = Destination(Path(folder), tuple(classes), **options)
        write_annotations([self], results, destination)
        return [destination.folder / name for name in self.outputs]


FORMATS: Registry[Format] = Registry("format")
"""The annotation formats by name."""


def find_formats(names: Iterable[str]) -> list[Format]:
    """Return the formats of these names, each once; a name may be several, separated by commas.

    >>> find_formats(["coco,yolo", "coco"]) == [FORMATS["coco"], FORMATS["yolo"]]
    True
    """
    return [FORMATS[name] for name in dict.fromkeys(",".join(names).split(",")) if name]


def write_annotations(formats: Sequence[Format], results: Iterable[ImageResult], destination: Destination) -> None:
    """Write the annotations of any number of images in several formats, in one pass and in constant memory.

    The files appear when all are complete; after an error nothing is written.

    Raises:
        FileExistsError: if an annotation file exists, without ``destination.overwrite``.
        ValueError: if the class of a localization does not match ``destination.classes``.
        ImportError: if a library that a format needs is not installed.
    """
    check_outputs(formats, destination.folder, destination.overwrite)
    classes = dict(enumerate(destination.classes))
    with ExitStack() as stack:
        writers = [stack.enter_context(chosen.open(destination)) for chosen in formats]
        for result in results:
            records = [result] if isinstance(result, LocalizationRecord) else result
            for record in records:
                if classes.get(record.class_index) != record.label:
                    given = f"{classes.get(record.class_index)!r} among the {len(classes)} given classes"
                    raise ValueError(
                        f"{record.source}: class {record.class_index} is {record.label!r} in the localization, but "
                        f"{given}; pass the checkpoint's classes, in its order"
                    )
            for write_image in writers if records else []:
                write_image(destination.image_name(records[0].source), records)


def check_outputs(formats: Sequence[Format], folder: Path, overwrite: bool = False) -> None:
    """Raise FileExistsError or ImportError as ``write_annotations`` does, before anything is computed."""
    for chosen in formats:
        if chosen.needs is not None:
            library(*chosen.needs)
        for name in chosen.outputs:
            refuse_existing(folder / name, overwrite)


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError if ``path`` exists and must not be overwritten."""
    if path.exists() and not overwrite:
        content = " and everything in it" if path.is_dir() else ""
        raise FileExistsError(f"{path} already exists; choose another folder, or replace it{content} with --overwrite")


def absolute(path: str | Path) -> Path:
    """Return an absolute path without ``..``; symbolic links are not resolved, since they are part of image names."""
    return Path(os.path.normpath(Path(path).absolute()))


def common_folder(inputs: Sequence[str | Path]) -> Path:
    """Return the folder that contains all files and folders, or the only folder itself; see ``Destination.root``.

    >>> common_folder(["/photos/a/1.jpg", "/photos/b"]).as_posix()
    '/photos'
    """
    paths = [absolute(path) for path in inputs]
    return Path(os.path.commonpath([path.parent if path.is_file() else path for path in paths]))


def folder_labels(files: Iterable[Path], root: Path, classes: Collection[str]) -> dict[Path, str]:
    """Return the class of each image in ``root``: the name of its outermost folder there that is among ``classes``.

    If there is none, it is the nearest such folder among ``root`` and those above it. Raises ValueError, which lists
    the images, if some are in no such folder.
    """
    above = list(reversed(root.parts))
    labels = {}
    for file in files:
        names = [*absolute(file).relative_to(root).parts[:-1], *above]
        labels[file] = next((name for name in names if name in classes), "")
    strays = [file for file, label in labels.items() if not label]
    refuse(strays, f"no folder of these images is named as a class ({shorten(sorted(classes))})", "sort or omit them")
    return labels


def rounded_boxes(record: LocalizationRecord) -> list[Box]:
    """Return the boxes as rounded Python numbers: xyxy, original pixels, half-open."""
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in record.boxes.round(PIXEL_DIGITS).tolist()]


def valid_text(text: str) -> str:
    r"""Return ``text`` with U+FFFD for control characters, which XML forbids, and bytes that are not UTF-8.

    Names that differ in such bytes stay different: their hexadecimal values follow.

    >>> valid_text("a\x07b, \n\U0001f426"), valid_text("caf\udce9")
    ('a\ufffdb, \n🐦', 'caf\ufffde9')
    """
    return _NOT_IN_XML.sub(_replacement, text)


def _replacement(found: re.Match[str]) -> str:
    byte = ord(found[0]) - 0xDC00  # see PEP 383
    return f"\ufffd{byte:02x}" if 0x80 <= byte <= 0xFF else "\ufffd"


class JsonArray:
    """Writes the items of a JSON array, one per line, in constant memory; the caller writes the brackets."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.count = 0

    def append(self, item: dict[str, Any]) -> None:
        """Write an item. NaN raises ValueError, since standard readers refuse it."""
        self.file.write((",\n" if self.count else "\n") + json.dumps(item, ensure_ascii=False, allow_nan=False))
        self.count += 1
