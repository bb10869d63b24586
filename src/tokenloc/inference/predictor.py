"""How a trained model looks at an image: at which sizes, mirrored or not, and what refines its maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from tokenloc.boxes import Protocol
from tokenloc.data import Preprocessing, evaluation_transform
from tokenloc.data.transforms import FramedTransform
from tokenloc.methods import Method, top_classes
from tokenloc.methods._scaling import min_max
from tokenloc.refinement import find_steps, refine

SPARE = 2
"""How much finer than the network's input a reduced decoding stays: the input then differs by 0.4 % of its spread."""


@dataclass(frozen=True)
class PredictionOptions:
    """What may be changed when a trained model is used, without training it again.

    Attributes:
        scales: sides of the network's input in pixels (of the shorter side, where it is not square), each a multiple
            of the patch size; none for the side that the model was trained with. Position embeddings are
            interpolated. Maps are scaled to [0, 1] each and averaged, logits are averaged.
        flip: whether each is looked at mirrored too.
        ten_crop: whether the classes come from ten crops instead: the corners and the centre of the larger resize, and
            their mirrors (SAT, section 4.1). The maps are not concerned.
        refine: steps of ``tokenloc.refinement.list_steps()`` that the maps go through; None for the steps that belong
            to the method, as LCAR's do, () for none.
        fast: whether the network computes in bfloat16, about 1.7 times faster on a CPU with
            AVX512-BF16 (nothing else was measured), and `Localizer` decodes large JPEGs at a reduced size. Boxes
            move little.

    Raises:
        ValueError: a scale below 1 pixel or given twice, or an unknown step.
    """

    scales: tuple[int, ...] = ()
    flip: bool = False
    ten_crop: bool = False
    refine: tuple[str, ...] | None = None
    fast: bool = False

    def __post_init__(self) -> None:
        """Refuse what makes no sense; lists become tuples."""
        object.__setattr__(self, "scales", tuple(self.scales))
        if min(self.scales, default=1) < 1 or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales must be different sides of at least 1 pixel; got {list(self.scales)}")
        if self.refine is not None:
            object.__setattr__(self, "refine", tuple(self.refine))
            find_steps(self.refine)

    def __str__(self) -> str:
        """Return a short description: what differs from the plain look at the model's own size.

        >>> str(PredictionOptions(scales=(224, 448), flip=True)), str(PredictionOptions())
        ('scales 224 448, flip', 'plain')
        """
        parts = [f"scales {' '.join(map(str, self.scales))}"] * bool(self.scales)
        parts += ["flip"] * self.flip + ["ten crops"] * self.ten_crop
        parts += [] if self.refine is None else [f"refine {','.join(self.refine) or 'none'}"]
        parts += ["fast"] * self.fast
        return ", ".join(parts) or "plain"


class Predictor:
    """Looks at images as a ``PredictionOptions`` says.

    Args:
        viewing: how.
        preprocessing: of the model.
        protocol: says which part of an image is shown.

    ``transform`` turns an image into what ``locate`` takes, and its frame; it can be sent to worker processes. A
    decoding of ``sufficient_size``, (width, height), is as good for it as the whole image; None: nothing less is.
    """

    def __init__(self, viewing: PredictionOptions, preprocessing: Preprocessing, protocol: Protocol) -> None:
        self.viewing = viewing
        self.preprocessing = preprocessing
        self.cropped = protocol.input_frame == "crop"
        self.scales = viewing.scales or (min(preprocessing.size),)
        wide, high = preprocessing.at(max(self.scales)).resize
        self.sufficient_size = (SPARE * wide, SPARE * high) if viewing.fast else None
        self.transform: FramedTransform = evaluation_transform(
            preprocessing, protocol.input_frame, max(self.scales), margin=viewing.ten_crop
        )

    @torch.inference_mode()
    def locate(self, model: Method, images: Tensor, classes: Tensor | int = 1) -> tuple[Tensor, Tensor]:
        """Say what is in the images, and where; see ``Method.localize``.

        Args:
            model: in evaluation mode.
            images: [B, 3, height, width] of ``transform``.
            classes: the classes to map, [B, K] int64 in [0, C), or K: the K most probable ones of each image.

        Returns:
            logits [B, C] and maps [B, K, h, w] float: of one view as the method gives them, of several in [0, 1] on
            the finest of their grids, refined ones in [0, 1] on the pixels of the largest view.
        """
        region = self._region(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.viewing.fast):
            logits, maps = self._seen(model, images, region, classes)
        steps = model.refinement if self.viewing.refine is None else self.viewing.refine
        return logits, refine(maps, self._pixels(region), steps) if steps else maps

    def _seen(self, model: Method, images: Tensor, region: Tensor, classes: Tensor | int) -> tuple[Tensor, Tensor]:
        """Return the logits and the maps, which no step has refined yet."""
        views = list(self._views(region))
        seen = [model.class_maps(view) for view, _ in views]
        logits = self._ten_crop_logits(model, images) if self.viewing.ten_crop else _mean([one for one, _ in seen])
        if isinstance(classes, int):
            classes = top_classes(logits, classes)
        model.check_classes(classes, len(images))
        pairs = zip(seen, views, strict=True)
        return logits, combined([_turned(maps_of(classes), mirrored) for (_, maps_of), (_, mirrored) in pairs])

    def _region(self, images: Tensor) -> Tensor:
        """Return the part of ``images`` that the frame shows, at the largest scale."""
        width, height = self.preprocessing.at(max(self.scales)).size
        if self.viewing.ten_crop and self.cropped:
            images = T.center_crop(images, [height, width])
        return _resized(images, height, width)

    def _views(self, region: Tensor) -> Iterator[tuple[Tensor, bool]]:
        """Yield what the network sees, and whether it is mirrored; smaller scales are made from the largest."""
        for side in self.scales:
            width, height = self.preprocessing.at(side).size
            view = _resized(region, height, width)
            yield view, False
            if self.viewing.flip:
                yield view.flip(-1), True

    def _ten_crop_logits(self, model: Method, images: Tensor) -> Tensor:
        width, height = self.preprocessing.size
        whole = _resized(images, *reversed(self.preprocessing.resize))
        return _mean([model.class_maps(crop)[0] for crop in T.ten_crop(whole, [height, width])])

    def _pixels(self, region: Tensor) -> Tensor:
        """Return ``region`` as RGB in [0, 1]."""
        mean, std = (region.new_tensor(v)[:, None, None] for v in (self.preprocessing.mean, self.preprocessing.std))
        return (region * std + mean).float().clamp(0, 1)


def combined(maps: list[Tensor]) -> Tensor:
    """Return the mean of several views' maps [B, K, h, w], each scaled to [0, 1], on the finest of their grids.

    A single one is returned as it is.
    """
    if len(maps) == 1:
        return maps[0]
    finest = max((map_.shape[-2:] for map_ in maps), key=lambda grid: grid[0] * grid[1])
    return _mean([F.interpolate(min_max(map_.float()), finest, mode="bilinear") for map_ in maps])


def _turned(maps: Tensor, mirrored: bool) -> Tensor:
    return maps.flip(-1) if mirrored else maps


def _mean(values: list[Tensor]) -> Tensor:
    return values[0] if len(values) == 1 else torch.stack(values).mean(dim=0)


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)
