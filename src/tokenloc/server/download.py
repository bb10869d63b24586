"""The annotation of one image as a file to download."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from zipfile import ZIP_DEFLATED, ZipFile

from tokenloc._extras import library
from tokenloc._files import UniqueNames
from tokenloc.export import FORMATS, list_formats
from tokenloc.export.base import valid_text
from tokenloc.inference import Localization

LONGEST = 200  # bytes of a name, so that there is room for a longer suffix


def usable_formats() -> list[str]:
    """Return the annotation formats whose library, where they need one, is installed."""
    return [name for name in list_formats() if _usable(name)]


def _usable(name: str) -> bool:
    needs = FORMATS[name].needs
    try:
        return needs is None or library(*needs) is not None
    except ImportError:
        return False


def write_annotation(
    results: Sequence[Localization],
    classes: Sequence[str],
    image: Path,
    name: str,
    form: str,
    folder: Path,
    version: str = "tokenloc",
) -> Path:
    """Write what was found in an image, as ``tokenloc localize --format`` does.

    Args:
        results: of its classes.
        classes: of the model, in its order.
        image: the file; it is in a YOLO archive, whose boxes mean nothing without it.
        name: by which the file is called in the annotation; see ``image_name``.
        form: one of ``usable_formats()``.
        folder: to write into; it is created.
        version: by which name Label Studio shows the boxes.

    Returns:
        the file that the format consists of, or a ZIP archive where it is several or a folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as work:
        photo = Path(work, "photos", name)
        photo.parent.mkdir()
        photo.symlink_to(image.resolve())
        named = [replace(result, source=str(photo)) for result in results]
        outputs = FORMATS[form].write([named], classes, Path(work, "out"), root=photo.parent, model_version=version)
        if len(outputs) == 1 and outputs[0].is_file():
            return outputs[0].rename(folder / outputs[0].name)
        return _archive(Path(work, "out"), folder / f"{form}.zip")


def _archive(content: Path, path: Path) -> Path:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for file in sorted(content.rglob("*")):
            archive.write(file, file.relative_to(content))  # a link's file is written, as is wanted
    return path


def image_name(said: str, stored: Path) -> str:
    r"""Return how an uploaded image is called: its name as the browser said it, without any folder.

    >>> image_name("../../etc/pass wd.jpg", Path("x")), image_name("C:\\a\\b.png", Path("x"))
    ('pass wd.jpg', 'b.png')
    >>> image_name("..", Path("0/stored.jpg"))
    'stored.jpg'
    """
    last = valid_text(PurePosixPath(said.replace("\\", "/")).name)
    path = PurePosixPath(last if last not in ("", ".", "..") else stored.name)
    return UniqueNames(path.suffix, LONGEST).take(path.stem) if len(path.suffix) < LONGEST // 4 else stored.name
