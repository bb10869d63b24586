"""Generated scenes: one textured object on a cluttered background, with its exact box and mask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
Texture = Callable[[Plane, Plane], Plane]

_TURN, _PI = np.float32(2 * np.pi), np.float32(np.pi)


def _zigzag(u: Plane, v: Plane) -> Plane:
    bent: Plane = v + np.float32(1.2) * np.abs(u / 2 - np.round(u / 2))
    return _wave(bent)


def _wave(x: Plane) -> Plane:
    value: Plane = np.sin(_TURN * x)
    return value


TEXTURES: dict[str, Texture] = {
    "stripes": lambda _, v: _wave(v),
    "columns": lambda u, _: _wave(u),
    "checks": lambda u, v: np.sin(_PI * u) * np.sin(_PI * v),
    "dots": lambda u, v: np.cos(_TURN * u) + np.cos(_TURN * v) - np.float32(0.6),
    "grid": lambda u, v: np.maximum(np.cos(_TURN * u), np.cos(_TURN * v)) - np.float32(0.75),
    "zigzag": _zigzag,
}
"""Textures by class name, as functions of two coordinates in periods: [h, w] float32, positive where the second of the
object's colours appears. The slope at the border is about that of a sine, so that clipping gives soft edges."""

_ANGLES = np.linspace(0, 2 * np.pi, 40, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_WAVES = _ANGLES[:, None] * np.array([2, 3, 5])
_FRACTION_BITS = 4  # of OpenCV's coordinates: a sixteenth of a pixel


@DATASETS.register("scenes")
class ScenesDataset(ImageDataset):
    """Scenes of one textured object each: classes differ by texture alone.

    Shape, size (sides of 25 to 70 % of the image's), position, colours, background and its plain or speckled
    distractors are drawn independently of the class. No constant box finds the objects. A scene depends on seed, split,
    index and size only. The root is ignored; classes are names of textures, in turn: class ``index % len(classes)``.

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
        chosen = select_classes(list(TEXTURES), classes)
        samples = [self._sample(index, index % len(chosen)) for index in range(length)]
        super().__init__(split, chosen, samples)

    def image(self, index: int, min_size: tuple[int, int] | None = None) -> Image.Image:
        """Return a scene, RGB, of the full ``size``."""
        del min_size
        generator = self._generator(index)
        cover = draw_object(generator, self.size)
        return Image.fromarray(paint_scene(generator, cover, self.classes[self.samples[index].label]))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Return the object's mask [H, W] uint8: 1 where it covers more than half of a pixel."""
        return object_mask(draw_object(self._generator(index), self.size))

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng([*self._seed, index])

    def _sample(self, index: int, label: int) -> Sample:
        x, y, width, height = cv2.boundingRect(object_mask(draw_object(self._generator(index), self.size)))
        return Sample(f"{index:06d}", None, label, as_boxes([[x, y, x + width, y + height]]))


def draw_object(generator: np.random.Generator, size: Size) -> Bytes:
    """Return how much an object of random shape, size and position covers each pixel: [H, W] uint8, 255 for all."""
    sides = generator.uniform(0.25, 0.7, 2)
    corner = generator.uniform(0, 1 - sides)
    cover = np.zeros((size[1], size[0]), np.uint8)
    _fill(cover, (corner + sides * _outlines(generator, 1)[0]) * size, 255)
    return cover


def object_mask(cover: Bytes) -> Bytes:
    """Return 1 for pixels that are covered by more than half, else 0; [H, W] uint8."""
    return (cover > 127).astype(np.uint8)


def paint_scene(generator: np.random.Generator, cover: Bytes, texture: str) -> Bytes:
    """Return a scene [H, W, 3] uint8 RGB: background, distractors, and the object where ``cover`` is above 0."""
    size = (cover.shape[1], cover.shape[0])
    speckles = _smooth_noise(generator, size, (24, 24))
    scene = _ground(generator, size, speckles)
    _paint_distractors(generator, scene, (speckles > 127).astype(np.uint8))
    x, y, width, height = cv2.boundingRect(cover)
    window = np.s_[y : y + height, x : x + width]
    dark, light = _colour_pairs(generator, 1)[0]
    pattern = _pattern(generator, texture, (width, height), max(size))[..., None]
    part = cover[window][..., None] / np.float32(255)
    below = scene[window].astype(np.float32)
    scene[window] = below + part * (dark + pattern * (light - dark) - below)
    return scene


def _outlines(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return closed outlines [count, P, 2] (x, y) that span the unit square: ellipses to boxes, with bumps."""
    bumps = generator.uniform(-0.12, 0.12, (count, 1, 3))
    phases = generator.uniform(0, 2 * np.pi, (count, 1, 3))
    radius = 1 + (bumps * np.cos(_WAVES + phases)).sum(2, keepdims=True)
    points = radius * np.sign(_CIRCLE) * np.abs(_CIRCLE) ** generator.uniform(0.4, 1, (count, 1, 1))
    low, high = points.min(1, keepdims=True), points.max(1, keepdims=True)
    outlines: NDArray[np.float64] = (points - low) / (high - low)
    return outlines


def _fill(canvas: Bytes, points: NDArray[np.float64], colour: float | Sequence[float]) -> None:
    """Fill an outline [P, 2] (x, y in pixel edges) on ``canvas``, with soft edges."""
    centred = np.rint((points - 0.5) * 2**_FRACTION_BITS).astype(np.int32)  # OpenCV counts from pixel centres
    cv2.fillPoly(canvas, [centred], colour, cv2.LINE_AA, _FRACTION_BITS)


def _smooth_noise(generator: np.random.Generator, size: Size, shape: tuple[int, ...]) -> Bytes:
    """Return noise [H, W, …] uint8 that interpolates ``shape`` random values smoothly."""
    values = np.frombuffer(generator.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
    return cv2.resize(values, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)


def _ground(generator: np.random.Generator, size: Size, speckles: Bytes) -> Bytes:
    """Return a background [H, W, 3] of clouds around one colour, speckles and grain."""
    clouds = _smooth_noise(generator, size, (4, 4, 3))
    grain = np.frombuffer(generator.bytes(size[0] * size[1]), np.uint8).reshape(size[1], size[0])
    light = cv2.addWeighted(speckles, 0.3, grain, 0.12, -54)
    colour = generator.integers(50, 140) + generator.integers(-40, 41, 3)
    tinted = cv2.convertScaleAbs(clouds, alpha=0.3) + colour.astype(np.uint8)
    return cv2.add(tinted, cv2.merge([light] * 3)).astype(np.uint8, copy=False)


def _paint_distractors(generator: np.random.Generator, scene: Bytes, blobs: Bytes) -> None:
    """Paint shapes without a class's texture on ``scene``: plain ones, and ones with two-coloured ``blobs``."""
    count = int(generator.integers(4, 8))
    size = np.array([scene.shape[1], scene.shape[0]])
    sides = generator.uniform(0.1, 0.4, (count, 1, 2))
    corners = generator.uniform(-0.1, 1 - sides / 2)
    outlines = (corners + sides * _outlines(generator, count)) * size
    colours = _colour_pairs(generator, count).astype(np.uint8)
    for number, (points, pair) in enumerate(zip(outlines, colours, strict=True)):
        if number % 2:
            _fill(scene, points, pair[0].tolist())
        else:
            cover = np.zeros(scene.shape[:2], np.uint8)
            _fill(cover, points, 255)
            x, y, width, height = cv2.boundingRect(cover)
            window = np.s_[y : y + height, x : x + width]
            np.copyto(scene[window], pair[blobs[window]], where=cover[window][..., None] > 127)


def _pattern(generator: np.random.Generator, texture: str, size: Size, image_side: int) -> Plane:
    """Return a texture [h, w] in 0 to 1, at a random phase, angle and scale."""
    turn = generator.uniform(-0.25, 0.25)
    period = image_side * generator.uniform(0.085, 0.125)
    phase = generator.uniform(0, 1, 2)
    step_x, step_y = np.cos(turn) / period, np.sin(turn) / period
    x = np.arange(size[0])[None, :]
    y = np.arange(size[1])[:, None]
    u = (x * step_x + phase[0]).astype(np.float32) + (y * step_y).astype(np.float32)
    v = (y * step_x + phase[1]).astype(np.float32) - (x * step_y).astype(np.float32)
    pattern: Plane = np.clip(TEXTURES[texture](u, v) * 3 + np.float32(0.5), 0, 1)
    return pattern


def _colour_pairs(generator: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Return pairs of RGB colours [count, 2, 3], 0 to 255, clearly different in lightness, in random order."""
    pairs = generator.random((count, 2, 3), np.float32) * 110
    pairs[:, 1] = 255 - pairs[:, 1]
    swapped = generator.random(count) < 0.5
    pairs[swapped] = pairs[swapped, ::-1]
    return pairs
