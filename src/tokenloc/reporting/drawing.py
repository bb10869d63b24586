"""Images for people: heatmaps and boxes drawn on images, and sheets of several images, all of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib.font_manager import findSystemFonts
from matplotlib.ft2font import FT2Font
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tokenloc._files import atomic_write
from tokenloc.inference import Localization
from tokenloc.inference.localizer import KEPT_SIDE

PREDICTED, TRUTH, INK = (255, 64, 64), (64, 220, 96), (32, 32, 32)  # colors
CLASSES = (PREDICTED, (30, 136, 229), (255, 145, 0), (171, 71, 188), (0, 172, 193), (216, 27, 96))  # predicted boxes
LEGEND = "green: true box, other colors: predicted boxes, one color for each class"
COLORMAP = matplotlib.colormaps["inferno"]
GAP = 4  # pixels between images


def heatmap(image: Image.Image, map_: NDArray[np.float32], opacity: float = 0.5) -> Image.Image:
    """Return the image under a map [height, width] in [0, 1] of the same size, colored from black (0) to yellow (1)."""
    colors = (opacity * 255) * COLORMAP(np.arange(COLORMAP.N))[:, :3].astype(np.float32)
    indices = (np.asarray(map_, np.float32) * COLORMAP.N).astype(np.int16).clip(0, COLORMAP.N - 1)
    mixed = (1 - opacity) * np.asarray(image.convert("RGB"), dtype=np.float32)
    mixed += colors[indices]
    return Image.fromarray(mixed.round(out=mixed).astype(np.uint8))


def draw_boxes(image: Image.Image, boxes: ArrayLike, color: tuple[int, int, int], label: str = "") -> Image.Image:
    """Return a copy of the image with boxes [N, 4] xyxy (original pixels, half-open) and a label on the first one."""
    image = image.convert("RGB")
    draw = ImageDraw.Draw(image)
    width = max(2, round(min(image.size) / 150))
    for index, box in enumerate(np.asarray(boxes, dtype=float).reshape(-1, 4).tolist()):
        x0, y0, x1, y1 = map(round, box)
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=color, width=width)
        if label and index == 0:
            font, label = font_for(label, max(10, round(min(image.size) / 18)))
            left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
            label_width, label_height = right - left + 4, bottom - top + 4
            x = max(0, min(x0, image.width - int(label_width)))
            y = max(0, min(y0 - int(label_height), image.height - int(label_height)))
            draw.rectangle((x, y, x + label_width, y + label_height), fill=color)
            draw.text((x + 2 - left, y + 2 - top), label, font=font, fill="white")
    return image


def draw_localization(
    image: Image.Image, result: Localization, truth: ArrayLike = (), with_map: bool = True
) -> Image.Image:
    """Return the localized upright RGB image with true boxes [G, 4] (green) and predicted ones, beside its map.

    The label has the probability of the class and the confidence of its first box. The image may be a reduced copy. It
    is drawn with at most ``KEPT_SIDE`` pixels on its longer side; boxes are in original pixels.
    """
    image = reduced(image)
    label = f"{result.label} {result.score:.0%}"
    label += f", box {result.first_confidence:.2f}" if len(result.boxes) else ", no box"
    left = draw_boxes(image, _on_copy(truth, image, result), TRUTH)
    left = draw_boxes(left, _on_copy(result.boxes, image, result), _color(result), label)
    return stack([left, draw_map(image, result)]) if with_map else left


def draw_map(image: Image.Image, result: Localization) -> Image.Image:
    """Return the image, or a reduced copy as ``draw_localization``, under the map of a localization, with its boxes.

    A white line surrounds the mask.
    """
    image = reduced(image)
    frame = result.frame.of_original(image.size)
    drawn = np.array(heatmap(image, frame.map_to_original(result.map)))
    mask = frame.map_to_original(result.mask.astype(np.float32)) > 0.5
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, (255, 255, 255), max(1, round(min(image.size) / 250)))
    return draw_boxes(Image.fromarray(drawn), _on_copy(result.boxes, image, result), _color(result))


def _color(result: Localization) -> tuple[int, int, int]:
    return CLASSES[result.class_index % len(CLASSES)]


def font_for(text: str, size: float) -> tuple[ImageFont.FreeTypeFont, str]:
    """Return a font that has the characters of a text, and the text; one that no font has is written as U+9CE5.

    The font is DejaVu Sans, or else one of the system that has all the characters.
    """
    path, lacking = _font_file(frozenset(text))
    return ImageFont.truetype(path, size), "".join(f"U+{ord(c):04X}" if c in lacking else c for c in text)


@cache
def _font_file(characters: frozenset[str]) -> tuple[str, frozenset[str]]:
    """Return the font with the most of these characters, and those that it lacks."""
    default = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    best = str(default), characters
    for path in (str(default), *sorted(findSystemFonts())):
        if not best[1]:
            break
        try:
            lacking = characters - set(map(chr, FT2Font(path).get_charmap()))
        except (RuntimeError, OSError):  # a font in a format that FreeType does not read
            continue
        best = (path, lacking) if len(lacking) < len(best[1]) else best
    return best


def reduced(image: Image.Image, side: int = KEPT_SIDE) -> Image.Image:
    """Return an image with at most ``side`` pixels on its longer side: itself, or a smaller copy."""
    if max(image.size) <= side:
        return image
    image = image.copy()
    image.thumbnail((side, side))
    return image


def _on_copy(boxes: ArrayLike, image: Image.Image, result: Localization) -> NDArray[np.float64]:
    """Convert boxes [N, 4] from original pixels to those of a reduced copy."""
    scale = np.divide(image.size, result.size)
    return np.multiply(np.asarray(boxes, dtype=np.float64).reshape(-1, 4), [*scale, *scale])


def stack(images: Sequence[Image.Image], vertical: bool = False) -> Image.Image:
    """Return images side by side, or one below the other, on white."""
    along, across = (1, 0) if vertical else (0, 1)
    length = sum(image.size[along] for image in images) + GAP * (len(images) - 1)
    breadth = max(image.size[across] for image in images)
    page = Image.new("RGB", (breadth, length) if vertical else (length, breadth), "white")
    offset = 0
    for image in images:
        page.paste(image, (0, offset) if vertical else (offset, 0))
        offset += image.size[along] + GAP
    return page


def save_sheet(images: Sequence[Image.Image], path: Path, title: str) -> None:
    """Write images in rows of three, each 480 pixels wide, under a title; without images, remove an earlier sheet."""
    if not images:
        path.unlink(missing_ok=True)
        return
    cells = [_scaled(image, 480) for image in images]
    rows = [stack(cells[start : start + 3]) for start in range(0, len(cells), 3)]
    save_image(_titled(stack(rows, vertical=True), title, 18), path)


def save_titled(cells: Sequence[tuple[str, Image.Image]], path: Path, title: str, columns: int) -> None:
    """Write images with a caption each, in rows of ``columns``, under a title."""
    width, caption = 180, 22
    drawn = []
    for name, image in cells:
        tall = max(1, round(image.height * width / image.width))
        smooth = Image.Resampling.NEAREST if image.width < width else Image.Resampling.LANCZOS
        cell = ImageOps.expand(image.convert("RGB").resize((width, tall), smooth), (0, caption, 0, 0), "white")
        _write_name(ImageDraw.Draw(cell), (2, 3), name, width)
        drawn.append(cell)
    rows = [stack(drawn[start : start + columns]) for start in range(0, len(drawn), columns)]
    save_image(_titled(stack(rows, vertical=True), title, 16), path)


def image_table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Return images as a table with named columns and rows."""
    left, top, side = 112, 22, 144
    cells = [stack([_scaled(image, side) for image in images]) for _, images in rows]
    page = ImageOps.expand(stack(cells, vertical=True), (left, top, 0, 0), "white")
    draw = ImageDraw.Draw(page)
    for index, name in enumerate(columns):
        _write_name(draw, (left + index * (side + GAP), 3), name, side)
    y = top
    for (name, _), row in zip(rows, cells, strict=True):
        _write_name(draw, (4, y + 4), name, left - 8)
        y += row.height + GAP
    return page


def _titled(page: Image.Image, title: str, size: int) -> Image.Image:
    """Return a page with a title above it, and white beside it if the title is wider."""
    font, title = font_for(title, size)
    right = max(0, round(font.getlength(title)) + 12 - page.width)
    page = ImageOps.expand(page, (0, size + 12, right, 0), "white")
    ImageDraw.Draw(page).text((6, 5), title, font=font, fill=INK)
    return page


def _write_name(draw: ImageDraw.ImageDraw, position: tuple[int, int], name: str, width: int) -> None:
    """Write a name of at most ``width`` pixels; of a longer one, the start and the end, which often differ."""
    font, name = font_for(name, 13)
    kept = len(name)
    shortened = name
    while font.getlength(shortened) > width:
        kept -= 1
        shortened = f"{name[: (kept + 1) // 2]}…{name[len(name) - kept // 2 :]}"
    draw.text(position, shortened, font=font, fill=INK)


def _scaled(image: Image.Image, width: int) -> Image.Image:
    """Return an image ``width`` pixels wide and at most four times as high: a higher one gets white beside it."""
    height = max(1, round(image.height * width / image.width))
    if height <= 4 * width:
        return image.resize((width, height))
    narrow = image.resize((max(1, width * 4 * width // height), 4 * width))
    return ImageOps.expand(narrow, (0, 0, width - narrow.width, 0), "white")


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write an image atomically; the suffix chooses the format."""
    with atomic_write(path) as temporary:
        image.save(temporary)
