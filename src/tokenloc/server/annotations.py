"""Annotation files of one image, for download."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from tokenloc._files import UniqueNames
from tokenloc.export import FORMATS
from tokenloc.export.base import valid_text
from tokenloc.server.predict import Result

MAX_NAME_BYTES = 200  # leaves room for a longer suffix


def usable_formats() -> list[str]:
    """Return the annotation formats whose libraries are installed."""
    needs = {name: FORMATS[name].needs for name in FORMATS.names()}
    return [name for name, need in needs.items() if need is None or find_spec(need[0].partition(".")[0])]


def annotation_file(result: Result, form: str, scratch: Path | None = None) -> tuple[str, bytes]:
    """Return the name and content of an annotation file, a ZIP archive if the format has several files.

    They are written to a temporary folder in ``scratch``, or in that of the system.
    """
    metadata = result.localizer.metadata
    with TemporaryDirectory(dir=scratch) as folder:
        image, out = Path(folder, "images", result.predictions[0].source), Path(folder, "out")
        image.parent.mkdir()
        image.write_bytes(result.upload)
        located = [replace(one, source=str(image)) for one in result.predictions]
        version = f"tokenloc {metadata.model.method}"
        paths = FORMATS[form].write([located], metadata.classes, out, root=image.parent, model_version=version)
        if len(paths) == 1 and paths[0].is_file():
            return paths[0].name, paths[0].read_bytes()
        archive = Path(shutil.make_archive(str(Path(folder, form)), "zip", out))  # the target of a link, not the link
        return archive.name, archive.read_bytes()


def image_name(given: str | None) -> str:
    r"""Return a valid file name for an upload: the name that the client gave, without folders.

    >>> image_name("../../etc/pass wd.jpg"), image_name("C:\\a\\b.png"), image_name("..")
    ('pass wd.jpg', 'b.png', 'image')
    """
    path = PurePosixPath(valid_text(PurePosixPath((given or "").replace("\\", "/")).name))
    if path.name in ("", ".", "..") or len(path.suffix) > MAX_NAME_BYTES // 4:
        return "image"
    return UniqueNames(path.suffix, MAX_NAME_BYTES).take(path.stem)
