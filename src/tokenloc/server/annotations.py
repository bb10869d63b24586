"""Annotation files of one image, for download."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile

from tokenloc._files import UniqueNames
from tokenloc.export import FORMATS, list_formats
from tokenloc.export.base import valid_text
from tokenloc.inference import Localization

MAX_NAME_BYTES = 200  # leaves room for a longer suffix


def usable_formats() -> list[str]:
    """Return the annotation formats whose libraries are installed."""
    needs = {name: FORMATS[name].needs for name in list_formats()}
    return [name for name, need in needs.items() if need is None or find_spec(need[0].partition(".")[0])]


def annotation_file(
    predictions: Sequence[Localization], classes: Sequence[str], upload: bytes, form: str, model_version: str
) -> tuple[str, bytes]:
    """Return the name and content of an annotation file: a ZIP archive if the format has several files.

    ``predictions`` are of one image, whose file is ``upload`` and whose name is their source (see ``image_name``).
    """
    with TemporaryDirectory(prefix="tokenloc-") as folder:
        image, out = Path(folder, "images", predictions[0].source), Path(folder, "out")
        image.parent.mkdir()
        image.write_bytes(upload)
        located = [replace(one, source=str(image)) for one in predictions]
        paths = FORMATS[form].write([located], classes, out, root=image.parent, model_version=model_version)
        if len(paths) == 1 and paths[0].is_file():
            return paths[0].name, paths[0].read_bytes()
        content = io.BytesIO()
        with ZipFile(content, "w", ZIP_DEFLATED) as archive:
            for file in sorted(out.rglob("*")):
                archive.write(file, file.relative_to(out))  # the target of a link, not the link
        return f"{form}.zip", content.getvalue()


def image_name(given: str | None) -> str:
    r"""Return a valid file name for an upload: the name that the client gave, without folders.

    >>> image_name("../../etc/pass wd.jpg"), image_name("C:\\a\\b.png"), image_name("..")
    ('pass wd.jpg', 'b.png', 'image')
    """
    path = PurePosixPath(valid_text(PurePosixPath((given or "").replace("\\", "/")).name))
    if path.name in ("", ".", "..") or len(path.suffix) > MAX_NAME_BYTES // 4:
        return "image"
    return UniqueNames(path.suffix, MAX_NAME_BYTES).take(path.stem)
