"""Annotation files of one image, for download."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile

from tokenloc._extras import library
from tokenloc._files import FreeNames
from tokenloc.export import FORMATS, list_formats
from tokenloc.export.base import valid_text
from tokenloc.inference import Localization

DEFAULT_NAME = "image"
MAX_NAME_BYTES = 200  # leaves room for a longer suffix
MAX_SUFFIX = 50


def usable_formats() -> list[str]:
    """Return the annotation formats whose libraries are installed."""
    return [name for name in list_formats() if _is_usable(name)]


def _is_usable(name: str) -> bool:
    needs = FORMATS[name].needs
    try:
        return needs is None or library(*needs) is not None
    except ImportError:
        return False


def annotation_file(
    predictions: Sequence[Localization], classes: Sequence[str], upload: bytes, form: str, model_version: str
) -> tuple[str, bytes]:
    """Return the name and the content of an annotation file, as ``tokenloc localize --format`` writes it.

    Args:
        predictions: of one image, whose name is their ``source``; see ``image_name``.
        classes: class names of the model, in its order.
        upload: bytes of the image file. The YOLO format contains it.
        form: one of ``usable_formats()``.
        model_version: name under which Label Studio lists the predictions.

    Returns:
        the one file of the format, or a ZIP archive where a format has several files or a folder.
    """
    with TemporaryDirectory(prefix="tokenloc-") as folder:
        image, out = Path(folder, "images", predictions[0].source), Path(folder, "out")
        image.parent.mkdir()
        image.write_bytes(upload)
        located = [replace(one, source=str(image)) for one in predictions]
        paths = FORMATS[form].write([located], classes, out, root=image.parent, model_version=model_version)
        if len(paths) == 1 and paths[0].is_file():
            return paths[0].name, paths[0].read_bytes()
        return f"{form}.zip", _archive(out)


def _archive(folder: Path) -> bytes:
    content = io.BytesIO()
    with ZipFile(content, "w", ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))  # the target of a link, not the link
    return content.getvalue()


def image_name(given: str | None) -> str:
    r"""Return a safe file name for an upload: the name that the client gave, without folders.

    >>> image_name("../../etc/pass wd.jpg"), image_name("C:\\a\\b.png"), image_name("..")
    ('pass wd.jpg', 'b.png', 'image')
    """
    path = PurePosixPath(valid_text(PurePosixPath((given or "").replace("\\", "/")).name))
    if path.name in ("", ".", "..") or len(path.suffix) > MAX_SUFFIX:
        return DEFAULT_NAME
    return FreeNames(path.suffix, MAX_NAME_BYTES).take(path.stem)
