"""From an image to the network's input: resize, crop, normalize; for evaluation with its frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from PIL import Image
from torchvision.transforms import v2

from tokenloc._names import one_of, unknown_name
from tokenloc.boxes.frame import Frame, InputFrame, Size, checked_size

TrainTransform = Callable[[Image.Image], torch.Tensor]
FramedTransform = Callable[[Image.Image], tuple[torch.Tensor, Frame]]

_INTERPOLATIONS = {
    "bilinear": v2.InterpolationMode.BILINEAR,
    "bicubic": v2.InterpolationMode.BICUBIC,
    "nearest": v2.InterpolationMode.NEAREST_EXACT,
}


@dataclass(frozen=True)
class Preprocessing:
    """The image format that a network expects; stored in checkpoints and exports. Values are validated.

    Args:
        size: (width, height) of the network's input, in pixels.
        resize: (width, height) to which an image is resized before the crop, whatever its shape; at least ``size``.
        mean: of R, G, B in 0 to 1.
        std: of R, G, B, above 0.
        interpolation: "bilinear", "bicubic" or "nearest", with antialiasing as in PIL.

    >>> Preprocessing(size=(224, 160)).resize
    (256, 256)
    """

    size: Size = (224, 224)
    resize: Size = (256, 256)
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        """Validate; lists, as JSON has them, become tuples."""
        object.__setattr__(self, "size", checked_size(self.size))
        object.__setattr__(self, "resize", checked_size(self.resize, "resize"))
        if self.resize[0] < self.size[0] or self.resize[1] < self.size[1]:
            raise ValueError(
                f"resize {self.resize} must be at least size {self.size} (width, height), which is cropped from it; "
                f"{(self.size[0] * 8 // 7, self.size[1] * 8 // 7)} has the usual proportion of 256 to 224"
            )
        for name in ("mean", "std"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != 3 or (name == "std" and min(values) <= 0):
                raise ValueError(f"{name} must be three numbers{' above 0' * (name == 'std')}, got {values}")
            object.__setattr__(self, name, values)
        if self.interpolation not in _INTERPOLATIONS:
            raise unknown_name("interpolation", self.interpolation, _INTERPOLATIONS)

    def at(self, side: int) -> Preprocessing:
        """Return a copy whose shorter input side has ``side`` pixels, with the rest in proportion.

        >>> Preprocessing().at(448).size, Preprocessing().at(448).resize
        ((448, 448), (512, 512))
        """
        factor = side / min(self.size)
        size = (round(self.size[0] * factor), round(self.size[1] * factor))
        return replace(self, size=size, resize=(round(self.resize[0] * factor), round(self.resize[1] * factor)))


def train_transform(preprocessing: Preprocessing) -> TrainTransform:
    """Return the training transform of TS-CAM, SCM and SAT: resize, random crop, random mirror, normalize.

    It takes an RGB PIL image and returns [3, H, W] float32, and draws from torch's global generator.
    """
    width, height = preprocessing.size
    resize = _resize(preprocessing, preprocessing.resize)
    steps = [resize, v2.RandomCrop((height, width)), v2.RandomHorizontalFlip(), *_to_input(preprocessing)]
    return cast(TrainTransform, v2.Compose(steps))


def evaluation_transform(
    preprocessing: Preprocessing, frame_kind: InputFrame, side: int | None = None, margin: bool = False
) -> FramedTransform:
    """Return a picklable transform: from an RGB PIL image to ([3, H, W] float32, its frame).

    Args:
        preprocessing: the format that the network expects.
        frame_kind: "crop" resizes the image to ``preprocessing.resize`` and crops the centre, as SAT does; "resize"
            resizes it straight to ``preprocessing.size``, as `wsol-eval` and TS-CAM do; "shorter_side" resizes the
            shorter side to that of ``preprocessing.resize``, and crops the centre, as LCTR does.
        side: pixels of the result's shorter side; None for that of ``preprocessing.size``. The frame does not depend on
            it: its input pixels are those of ``preprocessing.size``, so that results of all scales are comparable.
        margin: return the whole image at ``preprocessing.resize`` (in proportion to ``side``), of which the frame
            covers the centre ("crop", "shorter_side") or all ("resize"): for ten crops.
    """
    cropped = one_of("frame kind", frame_kind, InputFrame) != "resize"
    scaled = preprocessing if side is None else preprocessing.at(side)
    width, height = scaled.size
    steps = [_resize(scaled, scaled.resize if cropped or margin else scaled.size)]
    if frame_kind == "shorter_side":
        steps = [v2.Lambda(partial(_shorter_side_crop, scaled, margin))]
    elif cropped and not margin:
        steps.append(v2.CenterCrop((height, width)))
    return partial(_framed, v2.Compose([*steps, *_to_input(scaled)]), preprocessing, frame_kind)


def _framed(
    steps: v2.Compose, preprocessing: Preprocessing, frame_kind: InputFrame, image: Image.Image
) -> tuple[torch.Tensor, Frame]:
    frame = Frame.of(frame_kind, image.size, preprocessing.resize, preprocessing.size)
    return cast(torch.Tensor, steps(image)), frame


def _shorter_side_crop(preprocessing: Preprocessing, margin: bool, image: Image.Image) -> Image.Image:
    """Resize in proportion, and crop the frame's part of the image, with ``margin`` one of ``preprocessing.resize``."""
    frame = Frame.of("shorter_side", image.size, preprocessing.resize, preprocessing.size)
    resized = v2.Resize(min(preprocessing.resize), _INTERPOLATIONS[preprocessing.interpolation], antialias=True)(image)
    left, top = map(int, frame.offset)
    width, height = preprocessing.size
    if margin:
        left, top = left - (preprocessing.resize[0] - width) // 2, top - (preprocessing.resize[1] - height) // 2
        width, height = preprocessing.resize
    return cast(Image.Image, v2.functional.crop(resized, top, left, height, width))


def _resize(preprocessing: Preprocessing, size: Size) -> v2.Transform:
    return v2.Resize((size[1], size[0]), _INTERPOLATIONS[preprocessing.interpolation], antialias=True)


def _to_input(preprocessing: Preprocessing) -> list[v2.Transform]:
    normalize = v2.Normalize(list(preprocessing.mean), list(preprocessing.std), inplace=True)
    # Contiguous channels and no copies give the same result in half the time.
    return [v2.PILToTensor(), v2.Lambda(torch.Tensor.contiguous), v2.ToDtype(torch.float32, scale=True), normalize]
