"""Generated scenes: one patterned object in front of an out-of-focus background, with its exact box and mask."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenloc.boxes.frame import Size, checked_size
from tokenloc.data.base import AnyPath, Classes, ImageDataset, Sample, as_boxes, select_classes
from tokenloc.data.registry import DATASETS

LENGTHS = {"train": 3000, "val": 300, "test": 600}
Bytes = NDArray[np.uint8]
Plane = NDArray[np.float32]
Points = NDArray[np.float64]  # [P, 2] (x, y)
Texture = Callable[[Plane, Plane], Plane]

_TURN, _PI = np.float32(2 * np.pi), np.float32(np.pi)
_ANGLES = np.linspace(0, 2 * np.pi, 60, endpoint=False)
_FRACTION_BITS = 4  # of OpenCV's coordinates: a sixteenth of a pixel


class Part(NamedTuple):
    """A part of an object: a closed outline, painted with the class's texture or with one dark or light color."""

    outline: Points
    paint: str


class Kind(NamedTuple):
    """A class of objects: parts from back to front, in any frame, and the texture of those that are not plain."""

    parts: tuple[Part, ...]
    texture: Texture


def _ellipse(x: float, y: float, radius_x: float, radius_y: float, turn: float = 0.0, paint: str = "texture") -> Part:
    points = np.stack([radius_x * np.cos(_ANGLES), radius_y * np.sin(_ANGLES)], axis=1)
    return Part(_turned(points, turn) + np.array([x, y]), paint)


def _polygon(*points: tuple[float, float], paint: str = "texture") -> Part:
    return Part(np.array(points, dtype=np.float64), paint)


def _radial(radius: Points, paint: str = "texture") -> Part:
    """Return the outline at ``radius`` from the origin, at each of ``_ANGLES``."""
    return Part(np.stack([radius * np.cos(_ANGLES), radius * np.sin(_ANGLES)], axis=1), paint)


def _turned(points: Points, angle: float) -> Points:
    turned: Points = points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turned


def _wave(x: Plane) -> Plane:
    value: Plane = np.sin(_TURN * x)
    return value


def _zigzag(u: Plane, v: Plane) -> Plane:
    bent: Plane = v + np.float32(1.2) * np.abs(u / 2 - np.round(u / 2))
    return _wave(bent)


_BLADE = np.concatenate([np.linspace(-1, 1, 24), np.linspace(1, -1, 24)])  # x along the edges of a leaf
OBJECTS: dict[str, Kind] = {
    "butterfly": Kind(
        (
            *(_ellipse(0.52 * side, -0.38, 0.62, 0.4, -0.6 * side) for side in (-1, 1)),
            *(_ellipse(0.4 * side, 0.42, 0.42, 0.32, 0.7 * side) for side in (-1, 1)),
            _ellipse(0, 0, 0.09, 0.7, paint="dark"),
        ),
        lambda u, v: np.sin(_PI * u) * np.sin(_PI * v),
    ),
    "fish": Kind(
        (
            _polygon((-0.5, 0), (-1.15, -0.5), (-0.98, 0), (-1.15, 0.5), paint="dark"),
            _polygon((-0.3, -0.3), (0.1, -0.72), (0.4, -0.3), paint="dark"),
            _ellipse(0.15, 0, 0.85, 0.46),
            _ellipse(0.68, -0.1, 0.11, 0.11, paint="light"),
            _ellipse(0.7, -0.1, 0.055, 0.055, paint="dark"),
        ),
        lambda u, _: _wave(u),
    ),
    "leaf": Kind(
        (
            _polygon((-1.25, -0.1), (-0.8, -0.1), (-0.8, 0.1), (-1.25, 0.1), paint="dark"),
            Part(np.stack([_BLADE, 0.55 * np.repeat([-1, 1], 24) * (1 - _BLADE**2) ** 0.9], axis=1), "texture"),
            _polygon((-1, -0.045), (0.85, 0), (-1, 0.045), paint="dark"),
        ),
        _zigzag,
    ),
    "mushroom": Kind(
        (
            _polygon((-0.22, -0.1), (0.22, -0.1), (0.33, 1), (-0.33, 1), paint="light"),
            Part(np.stack([np.cos(_ANGLES), np.where(np.sin(_ANGLES) > 0, 0.2, 0.95) * np.sin(_ANGLES)], 1), "texture"),
        ),
        lambda u, v: np.cos(_TURN * u) + np.cos(_TURN * v) - np.float32(0.6),
    ),
    "starfish": Kind(
        (_radial(0.72 + 0.28 * np.cos(5 * _ANGLES)), _ellipse(0, 0, 0.13, 0.13, paint="light")),
        lambda _, v: _wave(v),
    ),
    "turtle": Kind(
        (
            *(_ellipse(0.62 * x, 0.62 * y, 0.34, 0.17, 0.7 * x * y, "dark") for x in (-1, 1) for y in (-1, 1)),
            _ellipse(1.0, 0, 0.28, 0.21, paint="dark"),
            _ellipse(0, 0, 0.86, 0.68),
        ),
        lambda u, v: np.maximum(np.cos(_TURN * u), np.cos(_TURN * v)) - np.float32(0.75),
    ),
}
"""Classes by name. A texture is a function of two coordinates in periods, [h, w] float32, positive where the second of
the object's colors appears. The slope at the border is about that of a sine, so that clipping gives soft edges."""


@DATASETS.register("scenes")
class ScenesDataset(ImageDataset):
    """Scenes of one object each: classes differ by outline and texture.

    Angle, size (sides of 28 to 70 % of the image's), aspect, position, colors and background, of colored lights out of
    focus and grain, are drawn independently of the class. No constant box finds the objects. A scene depends on seed,
    split, index and size only. The root is ignored; classes are names of objects, in turn: class
    ``index % len(classes)``.

    Args:
        size: side of the images in pixels, or (width, height); at least 16.
        length: number of scenes, None for 3000, 300 and 600 in train, val and test.
        seed: of all scenes, at least 0.
    """

    name = "scenes"
    has_masks = True

    def __init__(
        self,
        root: AnyPath,
        split: str,
        classes: Classes = None,
        *,
        size: int | Size = 96,
        length: int | None = None,
        seed: int = 0,
    ) -> None:
        del root
        self.require_split(split)
        self.size = checked_size((size, size) if isinstance(size, int) else size)
        length = LENGTHS[split] if length is None else length
        if min(self.size) < 16 or length < 1 or seed < 0:
            limits = "a size of at least 16 pixels, a length of at least 1 and a seed of at least 0"
            raise ValueError(f"scenes need {limits}, got size {size}, length {length}, seed {seed}")
        self._seed = (seed, self.splits.index(split))
        chosen = select_classes(list(OBJECTS), classes)
        samples = [self._sample(index, chosen[index % len(chosen)], index % len(chosen)) for index in range(length)]
        super().__init__(split, chosen, samples)

    def image(self, index: int, min_size: tuple[int, int] | None = None) -> Image.Image:
        """Return a scene, RGB, of the full ``size``."""
        del min_size
        kind, generator = OBJECTS[self.classes[self.samples[index].label]], self._generator(index)
        parts = place_object(generator, kind, self.size)
        scene = paint_background(generator, self.size)
        paint_object(generator, scene, parts, kind.texture)
        return Image.fromarray(scene)

    def mask(self, index: int) -> Bytes:
        """Return the object's mask [H, W] uint8: 1 where it covers more than half of a pixel."""
        return self._mask(index, self.classes[self.samples[index].label])

    def _mask(self, index: int, name: str) -> Bytes:
        parts = place_object(self._generator(index), OBJECTS[name], self.size)
        return (_cover(self.size, [part.outline for part in parts]) > 127).astype(np.uint8)

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng([*self._seed, index])

    def _sample(self, index: int, name: str, label: int) -> Sample:
        x, y, width, height = cv2.boundingRect(self._mask(index, name))
        return Sample(f"{index:06d}", None, label, as_boxes([[x, y, x + width, y + height]]))


def place_object(generator: np.random.Generator, kind: Kind, size: Size) -> list[Part]:
    """Return the parts of an object in pixels, at a random angle, aspect, size and position inside the image."""
    angle, mirrored, stretch, longer = generator.uniform([-0.5, -1, -0.25, 0.4], [0.5, 1, 0.25, 0.7])
    where = generator.uniform(size=2)
    outlines = [_turned(part.outline * (np.sign(mirrored), 1), angle) for part in kind.parts]
    points = np.concatenate(outlines)
    low, extent = points.min(0), np.ptp(points, axis=0)
    sides = extent * np.exp([stretch, -stretch])
    sides = np.maximum(sides / sides.max() * longer, 0.28)
    corner = where * (1 - sides)
    placed = [(corner + (outline - low) / extent * sides) * size for outline in outlines]
    return [Part(outline, part.paint) for outline, part in zip(placed, kind.parts, strict=True)]


def paint_background(generator: np.random.Generator, size: Size) -> Bytes:
    """Return a background [H, W, 3] uint8 RGB: a gradient, colored lights out of focus, and grain."""
    small = (max(4, size[0] // 4), max(4, size[1] // 4))
    hue, brightness = generator.uniform(0, 1), generator.uniform(0.25, 0.75)
    corners = [_color(generator, hue, 0.12, (0.15, 0.5), (brightness - 0.15, brightness + 0.15)) for _ in range(4)]
    gradient = np.array(corners, np.float32).reshape(2, 2, 3)
    scene: Plane = cv2.resize(gradient, small, interpolation=cv2.INTER_LINEAR).astype(np.float32, copy=False)
    for _ in range(int(generator.integers(5, 10))):
        radius = float(generator.uniform(0.05, 0.18)) * max(small)
        center = generator.uniform(-0.1, 1.1, 2) * small
        cover = _cover(small, [center + radius * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], 1)])
        light = _color(generator, hue, 0.3, (0.1, 0.5), (brightness - 0.2, brightness + 0.25))
        _blend(scene, cover, np.asarray(light, np.float32), 0.7)
    soft = cv2.resize(cv2.GaussianBlur(scene, (0, 0), 1), size, interpolation=cv2.INTER_CUBIC)
    noise = np.random.default_rng(int(generator.integers(2**32)))  # so that objects are the same at every size
    grain = np.frombuffer(noise.bytes(size[0] * size[1]), np.uint8).reshape(size[1], size[0], 1)
    background: Bytes = np.clip(soft + (grain.astype(np.float32) - 127.5) * np.float32(0.07), 0, 255).astype(np.uint8)
    return background


def paint_object(generator: np.random.Generator, scene: Bytes, parts: Sequence[Part], texture: Texture) -> None:
    """Paint an object on ``scene`` [H, W, 3]: its parts, a shade that makes it look solid, and a dark outline."""
    image_size = (scene.shape[1], scene.shape[0])
    cover = _cover(image_size, [part.outline for part in parts])
    x, y, width, height = cv2.boundingRect(cover)
    window = np.s_[y : y + height, x : x + width]
    hue, shift = generator.uniform(0, 1), generator.uniform(-0.15, 0.15)
    light = np.array(_color(generator, hue, 0.03, (0.25, 0.6), (0.85, 1)), np.float32)
    dark = np.array(_color(generator, hue + shift, 0.03, (0.6, 1), (0.3, 0.55)), np.float32)
    pattern = _pattern(generator, texture, (width, height), max(image_size))[..., None]
    paints = {"texture": dark + pattern * (light - dark), "dark": 0.8 * dark, "light": 0.3 * light + np.float32(178)}
    body = np.zeros((height, width, 3), np.float32)
    for part in parts:
        _blend(body, _cover((width, height), [part.outline - (x, y)]), paints[part.paint])
    body *= _shade(cover[window], max(image_size))[..., None]
    below = scene[window].astype(np.float32)
    _blend(below, cover[window], np.clip(body, 0, 255))
    scene[window] = below


def _shade(cover: Bytes, image_side: int) -> Plane:
    """Return factors of brightness: light from the upper left on a rounded body, and a dark line along its border."""
    margin = max(2, image_side // 12)
    padded = cv2.copyMakeBorder(cover, margin, margin, margin, margin, cv2.BORDER_CONSTANT).astype(np.float32) / 255
    inner = np.s_[margin:-margin, margin:-margin]
    height = cv2.GaussianBlur(padded, (0, 0), image_side / 24)
    slope = (cv2.Sobel(height, -1, 1, 0) + cv2.Sobel(height, -1, 0, 1))[inner]
    border = cv2.GaussianBlur(padded, (0, 0), image_side / 96)[inner]
    outline = np.clip((np.float32(0.9) - border) * 2, 0, 0.6)
    shade: Plane = (1 + np.float32(image_side / 96) * slope) * (1 - outline)
    return shade


def _cover(size: Size, outlines: Sequence[Points]) -> Bytes:
    """Return how much closed outlines (x, y in pixel edges) cover each pixel: [H, W] uint8, 255 for all."""
    canvas = np.zeros((size[1], size[0]), np.uint8)
    for points in outlines:  # OpenCV counts from pixel centers
        cv2.fillPoly(
            canvas, [np.rint((points - 0.5) * 2**_FRACTION_BITS).astype(np.int32)], 255, cv2.LINE_AA, _FRACTION_BITS
        )
    return canvas


def _blend(below: Plane, cover: Bytes, above: Plane, opacity: float = 1.0) -> None:
    """Paint ``above``, a color or an image, on ``below`` [H, W, 3] where ``cover`` [H, W] is above 0."""
    below += cover[..., None] * np.float32(opacity / 255) * (above - below)


def _pattern(generator: np.random.Generator, texture: Texture, size: Size, image_side: int) -> Plane:
    """Return a texture [h, w] in 0 to 1, at a random phase, angle and scale."""
    turn = generator.uniform(-0.25, 0.25)
    period = image_side * generator.uniform(0.085, 0.125)
    phase = generator.uniform(0, 1, 2)
    step_x, step_y = np.cos(turn) / period, np.sin(turn) / period
    x = np.arange(size[0])[None, :]
    y = np.arange(size[1])[:, None]
    u = (x * step_x + phase[0]).astype(np.float32) + (y * step_y).astype(np.float32)
    v = (y * step_x + phase[1]).astype(np.float32) - (x * step_y).astype(np.float32)
    pattern: Plane = np.clip(texture(u, v) * 3 + np.float32(0.5), 0, 1)
    return pattern


def _color(
    generator: np.random.Generator,
    hue: float,
    spread: float,
    saturation: tuple[float, float],
    value: tuple[float, float],
) -> list[float]:
    """Return a random RGB color, 0 to 255, within ``spread`` of a hue and in these ranges."""
    drawn = generator.uniform([hue - spread, saturation[0], value[0]], [hue + spread, saturation[1], value[1]])
    return [255 * channel for channel in colorsys.hsv_to_rgb(drawn[0] % 1, drawn[1], drawn[2])]
