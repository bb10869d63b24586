"""What the annotation formats share: where to write, how images are called, and several formats in one pass."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenloc._extras import library
from tokenloc._names import Registry
from tokenloc.data.annotations import Annotation, Box
from tokenloc.inference.localization import Localization, LocalizationRecord

Result = Localization | LocalizationRecord | Sequence[Localization | LocalizationRecord]
"""What was found in one image: one class, or several."""

AddImage = Callable[[str, Sequence[LocalizationRecord]], None]
"""Takes an image's name as the file is to have it, and what was found in it."""

PIXEL_DIGITS = 4
SCORE_DIGITS = 6

_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Destination:
    """Where annotations are written, and how.

    Args:
        folder: is created where it is absent.
        classes: class names, in the order of ``class_index``: those of the checkpoint.
        root: images are named relative to this folder; those that are not in it, and all where it is None, are named
            as their ``source`` has them.
        image_url: for Label Studio: what stands before an image's name; None for its local files.
        model_version: for Label Studio: by which name the boxes are shown.
        overwrite: replace annotation files of the formats that are written, rather than refuse.
    """

    folder: Path
    classes: tuple[str, ...]
    root: Path | None = None
    image_url: str | None = None
    model_version: str = "tokenloc"
    overwrite: bool = False

    @property
    def labels(self) -> list[str]:
        """The class names as every file can hold them; see ``valid_text``."""
        return [valid_text(name) for name in self.classes]

    def name_of(self, source: str) -> str:
        """Return how an image is called in the files: relative to ``root``, with forward slashes."""
        if self.root is not None:
            path, root = absolute(source), absolute(self.root)
            if path.is_relative_to(root):
                return valid_text(path.relative_to(root).as_posix())
        return valid_text(Path(source).as_posix())


@dataclass(frozen=True)
class Format:
    """One annotation format.

    Attributes:
        outputs: what it writes into the folder: files, or folders of its own. The first is what ``read`` wants.
        writing: given a destination, a context manager that yields ``AddImage``. It writes as images come, and the
            outputs appear when the block ends without an error, whole.
        read: from the path of the first output to what it holds, images without boxes included, for round trips and
            for boxes that a person corrected. Raises FileNotFoundError, and ValueError naming what is wrong.
    """

    outputs: tuple[str, ...]
    writing: Callable[[Destination], AbstractContextManager[AddImage]]
    read: Callable[[Path], list[Annotation]]
    needs: tuple[str, str] | None = None

    def write(
        self, localizations: Iterable[Result], classes: Sequence[str], folder: str | Path, **options: Any
    ) -> list[Path]:
        """Write annotations of any number of images; memory stays flat where ``localizations`` are streamed.

        Args:
            localizations: for each image its localization, or a sequence of those of several classes.
            classes: class names of the checkpoint, in its order.
            folder: to write to; it is created.
            options: further fields of ``Destination``.

        Returns:
            the paths of ``outputs``.

        Raises:
            FileExistsError: an output that exists already, without ``overwrite=True``.
            ValueError: a localization whose class is not as ``classes`` has it.
        """
        destination = Destination(Path(folder), tuple(classes), **options)
        with _writing([self], destination) as add:
            for result in localizations:
                add(result)
        return [destination.folder / name for name in self.outputs]


FORMATS: Registry[Format] = Registry("format")
"""The annotation formats by name."""


def list_formats(pattern: str | None = None) -> list[str]:
    """Return the names of the annotation formats, sorted; ``pattern`` is a shell wildcard."""
    return FORMATS.names(pattern)


def writing(formats: Iterable[str], destination: Destination) -> AbstractContextManager[Callable[[Result], None]]:
    """Write several formats in one pass: a context manager that yields a function which takes each image's result.

    The files appear when the block ends without an error; otherwise nothing does.

    Args:
        formats: names of ``list_formats()``.
        destination: where and how.

    Raises:
        ValueError: an unknown format; in the block, a localization whose class is not as ``destination`` has it.
        FileExistsError: an annotation file that exists already, where they are not to be overwritten.
        ImportError: a format whose library is not installed.
    """
    return _writing(_chosen(formats), destination)


def check_writing(formats: Iterable[str], folder: Path, overwrite: bool = False) -> None:
    """Raise, before anything is written, what ``writing`` would raise when its block begins."""
    _check_writing(_chosen(formats), folder, overwrite)


def _chosen(formats: Iterable[str]) -> list[Format]:
    return [FORMATS[name] for name in dict.fromkeys(formats)]


def _check_writing(formats: Sequence[Format], folder: Path, overwrite: bool) -> None:
    for chosen in formats:
        if chosen.needs is not None:
            library(*chosen.needs)
        for name in chosen.outputs:
            refuse_existing(folder / name, overwrite)


@contextmanager
def _writing(formats: Sequence[Format], destination: Destination) -> Iterator[Callable[[Result], None]]:
    _check_writing(formats, destination.folder, destination.overwrite)
    with ExitStack() as stack:
        writers = [stack.enter_context(chosen.writing(destination)) for chosen in formats]

        def add(result: Result) -> None:
            several = [result] if isinstance(result, (Localization, LocalizationRecord)) else result
            found = [one.record() if isinstance(one, Localization) else one for one in several]
            for localization in found:
                _check_class(localization, destination.classes)
            for write in writers if found else []:
                write(destination.name_of(found[0].source), found)

        yield add


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise FileExistsError where ``path`` exists and is not to be overwritten."""
    if path.exists() and not overwrite:
        what = "with all that is in it " if path.is_dir() else ""
        raise FileExistsError(f"{path} exists already; choose another place, or replace it {what}with --overwrite")


def _check_class(localization: LocalizationRecord, classes: Sequence[str]) -> None:
    index = localization.class_index
    named = classes[index] if 0 <= index < len(classes) else None
    if named != localization.label:
        raise ValueError(
            f"{localization.source}: class {index} is {localization.label!r} there, but {named!r} among the "
            f"{len(classes)} classes given; give the checkpoint's classes, in its order"
        )


def absolute(path: str | Path) -> Path:
    """Return an absolute path without ``..``; links are not followed, since an image is called as it was found."""
    return Path(os.path.normpath(Path(path).absolute()))


def common_folder(inputs: Sequence[str | Path]) -> Path:
    """Return the folder that files and folders lie in, or the one folder itself; see ``Destination.root``.

    >>> common_folder(["/photos/a/1.jpg", "/photos/b"]).as_posix()
    '/photos'
    """
    paths = [absolute(path) for path in inputs]
    return Path(os.path.commonpath([path.parent if path.is_file() else path for path in paths]))


def boxes_of(localization: LocalizationRecord) -> list[Box]:
    """Return the boxes as rounded python numbers: xyxy, original pixels, half-open."""
    rounded: NDArray[np.float64] = localization.boxes.round(PIXEL_DIGITS)
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in rounded.tolist()]


def valid_text(text: str) -> str:
    r"""Return ``text`` as XML, JSON, YAML, CSV and Parquet can hold it, the same in all of them.

    Control characters, which XML cannot hold, and bytes of a file name that are no UTF-8 become U+FFFD.

    >>> valid_text("a\x07b, \n\U0001f426")
    'a\ufffdb, \n🐦'
    """
    return _NOT_IN_XML.sub("\ufffd", text)
