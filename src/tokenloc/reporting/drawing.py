"""Images for people: heatmaps and boxes drawn on images, and sheets of several images, all of bounded size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tokenloc._files import atomic_write
from tokenloc.inference import Localization
from tokenloc.inference.localizer import KEPT_SIDE

PREDICTED, TRUTH, INK = (255, 64, 64), (64, 220, 96), (32, 32, 32)  # colors
GAP = 4  # pixels between images


def heatmap(image: Image.Image, map_: NDArray[np.float32], opacity: float = 0.5) -> Image.Image:
    """Return the image under a map [height, width] in [0, 1] of the same size, colored from blue (0) to red (1)."""
    turbo = matplotlib.colormaps["turbo"]
    colors = (opacity * 255) * turbo(np.arange(turbo.N))[:, :3].astype(np.float32)
    indices = (np.asarray(map_, np.float32) * turbo.N).astype(np.int16).clip(0, turbo.N - 1)
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
            font = ImageFont.load_default(max(10, round(min(image.size) / 28)))
            left, top, right, bottom = draw.textbbox((0, 0), label, font=font)
            label_width, label_height = right - left + 4, bottom - top + 4
            x = max(0, min(x0 + width, image.width - int(label_width)))
            y = max(0, min(y0 + width, image.height - int(label_height)))
            draw.rectangle((x, y, x + label_width, y + label_height), fill=color)
            draw.text((x + 2 - left, y + 2 - top), label, font=font, fill="white")
    return image


def draw_localization(image: Image.Image, result: Localization, truth: ArrayLike = ()) -> Image.Image:
    """Return the localized upright RGB image with true boxes [G, 4] (green) and predicted ones, beside its map.

    The image may be a reduced copy. It is drawn with at most ``KEPT_SIDE`` pixels on its longer side; boxes are in
    original pixels.
    """
    image = reduced(image)
    left = draw_boxes(image, _on_copy(truth, image, result), TRUTH)
    left = draw_boxes(left, _on_copy(result.boxes, image, result), PREDICTED, f"{result.label} {result.score:.0%}")
    return stack([left, draw_map(image, result)])


def draw_map(image: Image.Image, result: Localization) -> Image.Image:
    """Return the image, or a reduced copy as ``draw_localization``, under the map of a localization, with its boxes."""
    image = reduced(image)
    map_ = result.frame.of_original(image.size).map_to_original(result.map)
    return draw_boxes(heatmap(image, map_), _on_copy(result.boxes, image, result), PREDICTED)


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
    page = ImageOps.expand(stack(rows, vertical=True), (0, 28, 0, 0), "white")
    ImageDraw.Draw(page).text((6, 4), title, font=ImageFont.load_default(18), fill=INK)
    save_image(page, path)


def save_titled(cells: Sequence[tuple[str, Image.Image]], path: Path, title: str, columns: int) -> None:
    """Write images with a caption each, in rows of ``columns``, under a title."""
    width, caption, font = 180, 22, ImageFont.load_default(13)
    drawn = []
    for name, image in cells:
        tall = max(1, round(image.height * width / image.width))
        smooth = Image.Resampling.NEAREST if image.width < width else Image.Resampling.LANCZOS
        cell = ImageOps.expand(image.convert("RGB").resize((width, tall), smooth), (0, caption, 0, 0), "white")
        while font.getlength(name) > width:
            name = f"{name.removesuffix('…')[:-1]}…"
        ImageDraw.Draw(cell).text((2, 3), name, font=font, fill=INK)
        drawn.append(cell)
    rows = [stack(drawn[start : start + columns]) for start in range(0, len(drawn), columns)]
    page = ImageOps.expand(stack(rows, vertical=True), (0, 30, 0, 0), "white")
    heading = ImageFont.load_default(16)
    right = max(0, round(heading.getlength(title)) + 12 - page.width)
    page = ImageOps.expand(page, (0, 0, right, 0), "white")
    ImageDraw.Draw(page).text((6, 6), title, font=heading, fill=INK)
    save_image(page, path)


def image_table(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Return images as a table with named columns and rows."""
    font, left, top, side = ImageFont.load_default(13), 84, 22, 144
    cells = [stack([_scaled(image, side) for image in images]) for _, images in rows]
    page = ImageOps.expand(stack(cells, vertical=True), (left, top, 0, 0), "white")
    draw = ImageDraw.Draw(page)
    for index, name in enumerate(columns):
        draw.text((left + index * (side + GAP), 3), name, font=font, fill=INK)
    y = top
    for (name, _), row in zip(rows, cells, strict=True):
        draw.text((4, y + 4), name, font=font, fill=INK)
        y += row.height + GAP
    return page


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
