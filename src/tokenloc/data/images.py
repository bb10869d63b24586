"""Finding image files, and reading any of them as upright 8-bit RGB."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tokenloc._files import open_regular
from tokenloc.boxes.frame import Size

_NAMES = ("avif", "bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "pnm", "ppm", "tif", "tiff", "webp")
IMAGE_SUFFIXES = frozenset(f".{name}" for name in _NAMES)
"""Suffixes, lower case, of the files that count as images in folders."""

IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are read, whatever the suffix. Pillow passes EPS to a PostScript interpreter."""

MAX_PIXELS = 178_956_970
"""Largest width times height that is decoded: Pillow's own limit, 0.5 GB of RGB."""

_SIXTEEN_BIT = frozenset(["I", "I;16", "I;16B", "I;16L", "I;16N"])
_BAND_PIXELS = 1 << 22  # that are converted at once, so that a conversion takes little memory
_FILTERS = threading.Lock()


def read_image(
    source: str | Path | bytes | Image.Image,
    max_pixels: int = MAX_PIXELS,
    min_size: Size | None = None,
    name: str | None = None,
) -> Image.Image:
    """Return an image as a new upright RGB PIL image, 8 bits a channel.

    EXIF orientation is applied. Transparent pixels are composited on white: dropping the alpha channel would reveal
    hidden colours, mostly black. 16-bit grey is divided by 257 (65535 becomes 255); Pillow alone would clip it. CMYK,
    palette and grey are converted; of an animation the first frame is read.

    Args:
        source: a path, the bytes of a file, or a PIL image (an animation's current frame), which is not changed.
        max_pixels: largest width times height; a larger image is refused before it is decoded.
        min_size: (width, height) that suffices: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size (see
            ``read_size``), but not below this, which is several times faster and changes pixels slightly.
        name: name of the image in messages; None for its path.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is empty, truncated, not an image, too large, or a pipe or device; the message names it.
    """
    if isinstance(source, Image.Image):
        name = name or str(getattr(source, "filename", "")) or "PIL image"
        _refuse_large(source.size, max_pixels, name)
        return _decoded(source, name)
    name = name or _name_of(source)
    with _opened(source, name) as image:
        _refuse_large(image.size, max_pixels, name)
        if min_size is not None:
            side = max(min_size)  # EXIF orientation may swap width and height
            image.draft(image.mode, (side, side))
        return _decoded(image, name)


def read_size(source: str | Path | bytes) -> Size:
    """Return the (width, height) of ``read_image``'s result from the header alone; raises as it does."""
    with _opened(source, _name_of(source)) as image:
        width, height = image.size
        try:
            with _no_warnings():
                transposed = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        except Exception:  # a broken EXIF block, as in _upright
            transposed = False
    return (height, width) if transposed else (width, height)


def _name_of(source: str | Path | bytes) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the images among ``paths``, each once: files as given, and those of ``IMAGE_SUFFIXES`` in folders, sorted.

    Hidden files and folders are ignored; links are followed, but no folder is visited twice. For wildcards see
    ``expand_wildcards``.

    Raises:
        FileNotFoundError: if a path does not exist, or there is no image.
    """
    given = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    found: dict[Path, None] = {}
    for path in expand_wildcards(given):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder; check the path")
        images = [path / name for name in names_under(path, IMAGE_SUFFIXES)] if path.is_dir() else [path]
        found.update(dict.fromkeys(images))
    if not found:
        places, suffixes = ", ".join(map(str, given)) or "an empty list of paths", " ".join(sorted(IMAGE_SUFFIXES))
        raise FileNotFoundError(f"no images in {places}; looked for files that end in {suffixes}")
    return list(found)


def expand_wildcards(paths: Iterable[str | Path]) -> list[Path]:
    """Return the folders and images that match paths with wildcards (``*``, ``?``, ``[…]``, ``**``), sorted.

    Paths that exist, or that nothing matches, stay as they are.
    """
    expanded: list[Path] = []
    for path in map(Path, paths):
        base = Path(path.anchor)
        matches = [] if path.exists() else sorted(base.glob(str(path.relative_to(base))))
        visible = (each for each in matches if not each.name.startswith("."))
        expanded += [each for each in visible if each.is_dir() or each.suffix.lower() in IMAGE_SUFFIXES] or [path]
    return expanded


def names_under(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Return the visible files below ``folder`` whose lower-case suffix is among ``suffixes``, sorted.

    Names are relative to ``folder``, with forward slashes. Only folders are read, so a million files take seconds.
    """
    visited = {os.path.realpath(folder)}
    found: list[str] = []
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        folders[:] = [name for name in sorted(folders) if _is_new(parent, name, visited)]
        below = os.path.relpath(parent, folder).replace(os.sep, "/") + "/"
        prefix = "" if below == "./" else below
        visible = (name for name in files if not name.startswith("."))
        # Strings, not paths, which keeps a million files fast.
        found.extend(prefix + name for name in visible if "." + name.rpartition(".")[2].lower() in suffixes)
    return sorted(found)


def _is_new(parent: str, name: str, visited: set[str]) -> bool:
    """Return whether a folder is visible and was not visited (through a link), and add it to ``visited``."""
    real = os.path.realpath(f"{parent}/{name}")
    if name.startswith(".") or real in visited:
        return False
    visited.add(real)
    return True


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings about unusual headers."""
    with _FILTERS, warnings.catch_warnings():  # the filters are global: one thread at a time
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(source: str | Path | bytes, name: str) -> Iterator[Image.Image]:
    """Yield the image with its header read but not its pixels; raise as ``read_image``."""
    with io.BytesIO(source) if isinstance(source, bytes) else _opened_file(source, name) as file:
        try:
            with _no_warnings():
                Image.init()
                formats = [kind for kind in IMAGE_FORMATS if kind in Image.OPEN]  # a Pillow may be built without AVIF
                image = Image.open(file, formats=formats)
        except Image.DecompressionBombError as error:
            remedy = "This is Pillow's limit; to read it, raise PIL.Image.MAX_IMAGE_PIXELS and max_pixels"
            raise ValueError(f"{name}: {error}. {remedy}") from error
        except Exception as error:  # decoders raise a dozen types on broken headers
            reason = f"cannot be opened ({error}); copy or download it again"
            if not file.seek(0, os.SEEK_END):
                reason = "the file is empty; copy or download it again"
            elif isinstance(error, UnidentifiedImageError):
                reason = "not an image in any format that tokenloc reads; convert it to JPEG or PNG, or remove it"
            raise ValueError(f"{name}: {reason}") from error
        with image:
            yield image


def _opened_file(path: str | Path, name: str) -> IO[bytes]:
    try:
        return open_regular(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such image; check the path") from error
    except IsADirectoryError as error:
        raise ValueError(f"{name}: a folder, not an image; find_images lists the images in it") from error
    except OSError as error:  # such as a name that is too long, or a link to itself
        raise ValueError(f"{name}: cannot be opened ({error.strerror}); check the path and its permissions") from error


def _refuse_large(size: Size, max_pixels: int, name: str) -> None:
    if size[0] * size[1] > max_pixels:
        limit = f"max_pixels = {max_pixels:,} pixels; make it smaller, or raise max_pixels"
        raise ValueError(f"{name}: {size[0]}x{size[1]} is more than {limit}")


def _decoded(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
        return _rgb(_upright(image))
    except Exception as error:  # as for broken headers
        reason, remedy = (
            str(error) or type(error).__name__,
            "copy or download it again, or save it as 8-bit JPEG or PNG",
        )
        if isinstance(error, MemoryError):
            reason, remedy = f"{image.width}x{image.height} pixels do not fit into memory", "make it smaller"
        raise ValueError(f"{name}: cannot be decoded ({reason}); {remedy}") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        with _no_warnings():
            return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block states no orientation, and the pixels are intact
        return image.copy()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("32-bit float pixels, whose range no header states")
    if image.mode not in _SIXTEEN_BIT and not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy once more
    converted, rows = Image.new("RGB", image.size), max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        converted.paste(_band_to_rgb(image.crop(box)), box)
    return converted


def _band_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"32-bit grey values {values.min()} to {values.max()} beyond the 16 bits 0 to 65535")
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
