"""Images as people have them: any mode, any orientation, broken or not, read into upright 8-bit RGB."""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
"""Suffixes, lower case, by which images are found in folders."""

IMAGE_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of what is read, whatever a file is called: Pillow would hand EPS to a PostScript interpreter."""

MAX_PIXELS = 178_956_970
"""Width times height up to which an image is decoded: the number from which Pillow itself refuses, 0.5 GB of RGB."""

_SIXTEEN_BIT = frozenset(["I", "I;16", "I;16B", "I;16L", "I;16N"])
_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF orientations that swap width and height
_FILTERS = threading.Lock()


def read_image(
    source: str | Path | bytes | Image.Image,
    max_pixels: int = MAX_PIXELS,
    min_size: tuple[int, int] | None = None,
    name: str | None = None,
) -> Image.Image:
    """Return an image as an upright RGB PIL image of its own, 8 bits a channel.

    EXIF orientation is applied. Transparent pixels are laid on white, as on a page: dropping the alpha channel would
    show whatever colour, mostly black, the file hides there. 16-bit grey is divided by 257 (65535 becomes 255), where
    Pillow alone would clip it. CMYK, palette and grey are converted; of an animation the first frame is read.

    Args:
        source: a path, the bytes of a file, or a PIL image (an animation's current frame; it is left as it is).
        max_pixels: largest width times height; a larger image is refused from its header, before it is decoded.
        min_size: (width, height) that suffices. A JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, but not
            below this: several times faster for large images. Pixels then differ a little from those of a whole
            decoding and the size is no longer the original one (``read_size``). Default: decode it whole.
        name: what messages call the image; None for its path.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is empty, cut short, not an image, or too large; the message names it.
    """
    if isinstance(source, Image.Image):
        name = name or str(getattr(source, "filename", "")) or "PIL image"
        _refuse_large(source.size, max_pixels, name)
        return _decoded(source, name)
    name = name or _called(source)
    with _opened(source, name) as image:
        _refuse_large(image.size, max_pixels, name)
        if min_size is not None:
            side = max(min_size)  # an image on its side by EXIF swaps width and height
            image.draft(image.mode, (side, side))
        return _decoded(image, name)


def read_size(source: str | Path | bytes) -> tuple[int, int]:
    """Return the (width, height) that ``read_image`` would give, from an image's header alone; raises as it does."""
    with _opened(source, _called(source)) as image:
        width, height = image.size
        try:
            with _quiet():
                turned = image.getexif().get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
        except Exception:  # as in _upright: a broken EXIF block says nothing
            turned = False
    return (height, width) if turned else (width, height)


def _called(source: str | Path | bytes) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)


def find_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """Return the images among ``paths``, each once: files as they are named, folders with all that lies in them.

    Folders are searched recursively for names with an image's suffix (``IMAGE_SUFFIXES``, any case), in sorted
    order; hidden files and folders are left out, links are followed, but no folder is visited twice.

    Raises:
        FileNotFoundError: where a path does not exist, or no path leads to an image.
    """
    named = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    found: dict[Path, None] = {}
    for path in named:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder; check the path")
        found.update(dict.fromkeys(files_under(path, IMAGE_SUFFIXES) if path.is_dir() else [path]))
    if not found:
        raise FileNotFoundError(
            f"no images in {', '.join(map(str, named)) or 'an empty list of paths'}; looked for files that end in "
            + " ".join(sorted(IMAGE_SUFFIXES))
        )
    return list(found)


def files_under(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Return the files of ``names_under`` as paths."""
    return [folder / name for name in names_under(folder, suffixes)]


def names_under(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Return the visible files below ``folder`` whose lower-case suffix is among ``suffixes``, sorted.

    Names are relative to ``folder``, with forward slashes. Folders are listed; no file is looked at by itself, so
    that a million take seconds.

    Raises:
        OSError: where a folder cannot be listed.
    """
    seen = {os.path.realpath(folder)}
    found: list[str] = []
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        folders[:] = [name for name in sorted(folders) if _is_new(parent, name, seen)]
        below = os.path.relpath(parent, folder).replace(os.sep, "/") + "/"
        prefix = "" if below == "./" else below
        visible = (name for name in files if not name.startswith("."))
        # Joined as strings, which keeps a million files quick.
        found.extend(prefix + name for name in visible if "." + name.rpartition(".")[2].lower() in suffixes)
    return sorted(found)


def _is_new(parent: str, name: str, seen: set[str]) -> bool:
    """Tell whether a folder is visible and was not visited (by a link, say), and note it as visited."""
    real = os.path.realpath(f"{parent}/{name}")
    if name.startswith(".") or real in seen:
        return False
    seen.add(real)
    return True


def _raise(error: OSError) -> None:
    raise error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's warnings on odd headers to ourselves; what matters of them is an error of ours."""
    with _FILTERS, warnings.catch_warnings():  # the filters are global: one thread at a time
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _opened(source: str | Path | bytes, name: str) -> Iterator[Image.Image]:
    """Yield the image, header read and pixels not; raise as ``read_image``."""
    try:
        with _quiet():
            Image.init()
            formats = [kind for kind in IMAGE_FORMATS if kind in Image.OPEN]  # a Pillow may be built without AVIF
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name}: no such image; check the path") from error
    except IsADirectoryError as error:
        raise ValueError(f"{name}: a folder, not an image; find_images lists the images in it") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name}: {error}. That limit is Pillow's; to read it all the same, raise PIL.Image.MAX_IMAGE_PIXELS "
            "and max_pixels"
        ) from error
    except Exception as error:  # decoders raise a dozen types on broken headers
        raise ValueError(_unopened(source, name, error)) from error
    with image:
        yield image


def _unopened(source: str | Path | bytes, name: str, error: Exception) -> str:
    size = len(source) if isinstance(source, bytes) else Path(source).stat().st_size
    if size == 0:
        return f"{name}: the file is empty; copy or download it again"
    if isinstance(error, UnidentifiedImageError):
        return f"{name}: not an image in any format that is read here; convert it to JPEG or PNG, or remove it"
    return f"{name}: cannot be opened ({error}); copy or download it again"


def _refuse_large(size: tuple[int, int], max_pixels: int, name: str) -> None:
    if size[0] * size[1] > max_pixels:
        raise ValueError(
            f"{name}: {size[0]}x{size[1]} is more than max_pixels = {max_pixels:,} pixels; "
            "make it smaller, or raise max_pixels"
        )


def _decoded(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
        return _rgb(_upright(image))
    except Exception as error:  # as for broken headers
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{name}: cannot be decoded ({reason}); copy or download it again, or save it as 8-bit JPEG or PNG"
        ) from error


def _upright(image: Image.Image) -> Image.Image:
    """Return a copy turned as its EXIF orientation says."""
    try:
        with _quiet():
            return ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing of the orientation, and the pixels are well
        return image.copy()


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("32-bit float pixels, whose range no header states")
    if image.mode in _SIXTEEN_BIT:
        image = _eight_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy once more


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8-bit grey: a 257th, rounded."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"32-bit grey values {values.min()} to {values.max()} beyond the 16 bits 0 to 65535")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
