"""Images a person looks at: heatmaps and boxes on images, and sheets of many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from tokenloc._files import atomic_write
from tokenloc.inference import Localization

Colour = tuple[int, int, int]
FOUND: Colour = (255, 64, 64)
TRUTH: Colour = (64, 220, 96)
INK: Colour = (32, 32, 32)


def heatmap(image: Image.Image, map_: NDArray[np.float32], opacity: float = 0.5) -> Image.Image:
    """Return the image with a map [height, width] in [0, 1] of its own size over it, from blue (0) to red (1)."""
    colours = matplotlib.colormaps["turbo"](np.asarray(map_))[..., :3]
    base = np.asarray(image.convert("RGB"), dtype=np.float32)
    mixed = (1 - opacity) * base + opacity * 255 * colours.astype(np.float32)
    return Image.fromarray(mixed.round().astype(np.uint8))


def with_boxes(image: Image.Image, boxes: ArrayLike, colour: Colour, label: str = "") -> Image.Image:
    """Return the image with boxes [N, 4] xyxy (original pixels, half-open) drawn on it, the first one labelled."""
    drawn = image.convert("RGB")
    draw = ImageDraw.Draw(drawn)
    width = max(2, round(min(drawn.size) / 150))
    for index, (x0, y0, x1, y1) in enumerate(np.asarray(boxes, dtype=float).reshape(-1, 4).tolist()):
        corners = (round(x0), round(y0), max(round(x0), round(x1) - 1), max(round(y0), round(y1) - 1))
        draw.rectangle(corners, outline=colour, width=width)
        if label and index == 0:
            _write(draw, (corners[0] + width, corners[1] + width), label, colour, drawn.size)
    return drawn


def _write(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: Colour, size: tuple[int, int]) -> None:
    """Write ``text`` on a plate of ``colour``, moved so that it stays inside the image."""
    font = ImageFont.load_default(max(10, round(min(size) / 28)))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    x = max(0, min(place[0], size[0] - int(right - left) - 4))
    y = max(0, min(place[1], size[1] - int(bottom - top) - 4))
    draw.rectangle((x, y, x + right - left + 4, y + bottom - top + 4), fill=colour)
    draw.text((x + 2 - left, y + 2 - top), text, font=font, fill=(255, 255, 255))


def draw_localization(image: Image.Image, result: Localization, truth: ArrayLike = ()) -> Image.Image:
    """Return an image beside itself: with its boxes, and with its map; true boxes [G, 4] in green, found ones in red.

    ``image`` is the upright RGB image that ``result`` is of.
    """
    label = f"{result.label} {result.score:.0%}"
    plain = with_boxes(image, truth, TRUTH)
    left = with_boxes(plain, result.boxes, FOUND, label)
    right = with_boxes(heatmap(image, result.map_on_image()), result.boxes, FOUND)
    return side_by_side([left, right])


def side_by_side(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Return images in one row, tops aligned, on white."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    row = Image.new("RGB", (width, max(image.height for image in images)), "white")
    x = 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + gap
    return row


def one_above_another(images: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Return images in one column, left sides aligned, on white."""
    height = sum(image.height for image in images) + gap * (len(images) - 1)
    column = Image.new("RGB", (max(image.width for image in images), height), "white")
    y = 0
    for image in images:
        column.paste(image, (0, y))
        y += image.height + gap
    return column


def sheet(images: Sequence[Image.Image], columns: int, title: str = "", cell_width: int = 480) -> Image.Image:
    """Return images in rows of ``columns``, each scaled to ``cell_width`` pixels, under a title."""
    cells = [p.resize((cell_width, max(1, round(p.height * cell_width / p.width)))) for p in images]
    rows = [side_by_side(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    font = ImageFont.load_default(18)
    head = (28 * (1 + title.count("\n"))) if title else 0
    width = max([row.width for row in rows] + [cell_width])
    page = Image.new("RGB", (width, head + sum(row.height + 4 for row in rows)), "white")
    ImageDraw.Draw(page).text((6, 4), title, font=font, fill=INK)
    y = head
    for row in rows:
        page.paste(row, (0, y))
        y += row.height + 4
    return page


def table_of_images(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image]]], side: int = 144
) -> Image.Image:
    """Return images as a table, each ``side`` pixels wide; names of columns stand above, of rows before them."""
    font = ImageFont.load_default(13)
    margin, head = 84, 22
    cells = [[p.resize((side, max(1, round(p.height * side / p.width)))) for p in images] for _, images in rows]
    heights = [max(cell.height for cell in row) + 4 for row in cells]
    page = Image.new("RGB", (margin + len(columns) * (side + 4), head + sum(heights)), "white")
    draw = ImageDraw.Draw(page)
    for column, name in enumerate(columns):
        draw.text((margin + column * (side + 4), 3), name, font=font, fill=INK)
    y = head
    for (name, _), row, height in zip(rows, cells, heights, strict=True):
        draw.text((4, y + 4), name, font=font, fill=INK)
        page.paste(side_by_side(row), (margin, y))
        y += height
    return page


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write an image, whole or not at all; the suffix chooses the format."""
    with atomic_write(path) as temporary:
        image.save(temporary)
