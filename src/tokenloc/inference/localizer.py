"""From a checkpoint and a person's own photographs to boxes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokenloc._names import one_of
from tokenloc.boxes import Frame, Protocol, component_masks, get_protocol, quantised_map, scaled_map
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.data import Unreadable, read_image
from tokenloc.inference.localization import Localization
from tokenloc.inference.viewing import Viewer, Viewing
from tokenloc.methods import Method
from tokenloc.training.checkpoint import Card, load_checkpoint

Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor
Objects = Literal["largest", "all"]
T = TypeVar("T")


class Localizer:
    """Says what is in a picture and where: the whole way from a file to boxes in its own pixels.

    Args:
        model: in evaluation mode, on the device that is to be used.
        card: classes, preprocessing and threshold of the model.
        threshold: on the map scaled to [0, 1]; None takes the calibrated one, or the method's default where there is
            none.
        objects: ``largest`` draws one box, around the largest component above the threshold; ``all`` one for each.
        viewing: how the model looks at pictures; None for plainly. The threshold should be calibrated for it.
        protocol: how pictures are shown and boxes drawn; None for ``standard``, by which the network sees the whole
            picture, resized straight to its input size. Boxes are half-open in original pixels under any.
    """

    def __init__(
        self,
        model: Method,
        card: Card,
        threshold: float | None = None,
        objects: Objects = "largest",
        viewing: Viewing | None = None,
        protocol: Protocol | None = None,
    ) -> None:
        self.model = model
        self.card = card
        self.protocol = protocol or get_protocol("standard")
        self.threshold = checked_threshold(usual_threshold(model, card) if threshold is None else threshold)
        self.objects = one_of("objects", objects, Objects)
        self.viewing = viewing or Viewing()
        self._viewer = Viewer(self.viewing, card.preprocessing, self.protocol)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "auto",
        threshold: float | None = None,
        objects: Objects = "largest",
        viewing: Viewing | None = None,
    ) -> Localizer:
        """Load a checkpoint of ``tokenloc train``; see the class for the arguments.

        Args:
            path: the checkpoint; code in it is never run.
            device: ``auto`` (a GPU where there is one), or torch's name of a device.
            threshold: see the class.
            objects: see the class.
            viewing: see the class.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a checkpoint of tokenloc, a damaged one, or a device that is not there.
        """
        model, card = load_checkpoint(path)
        return cls(model.to(choose_device(device)), card, threshold, objects, viewing)

    @overload
    def __call__(self, pictures: Picture) -> Localization: ...
    @overload
    def __call__(self, pictures: list[Picture] | tuple[Picture, ...]) -> list[Localization]: ...
    def __call__(self, pictures: Picture | list[Picture] | tuple[Picture, ...]) -> Localization | list[Localization]:
        """Localize one picture, or each of several.

        Args:
            pictures: a path, a PIL image, an RGB array [height, width, 3] uint8, a tensor [3, height, width] (uint8, or
                float in [0, 1]), or a list of these.

        Returns:
            the most probable class of the picture and its boxes; a list of these where several were given.

        Raises:
            FileNotFoundError, ValueError: a picture that cannot be read, naming it.
        """
        if not isinstance(pictures, (list, tuple)):
            return self._localize(_read_all([pictures]))[0]
        return [result for batch in _batches(pictures, 16) for result in self._localize(_read_all(batch))]

    def stream(self, pictures: Iterable[Picture], batch_size: int = 16) -> Iterator[Localization | Unreadable]:
        """Localize any number of pictures in constant memory; unreadable ones are reported in their place.

        Yields:
            one result for each picture, in order.
        """
        for batch in _batches(enumerate(pictures), batch_size):
            read = [_read_or_report(index, picture) for index, picture in batch]
            good = iter(self._localize([item for item in read if not isinstance(item, Unreadable)]))
            for item in read:
                yield item if isinstance(item, Unreadable) else next(good)

    @torch.inference_mode()
    def parts(self, picture: Picture) -> dict[str, NDArray[np.float32]]:
        """Return what the map of a picture's most probable class is made of, for looking at it.

        Returns:
            by name, in the order of their making, [height, width] float32 in [0, 1] on the picture's own pixels, at the
            model's own input size and unrefined; empty where there is nothing but the map (``Method.inner_maps``).
        """
        image = as_image(picture)
        tensor, frame = Viewer(Viewing(), self.card.preprocessing, self.protocol).transform(image)
        images = tensor[None].to(next(self.model.parameters()).device)
        logits, _ = self.model.class_maps(images)
        parts = self.model.inner_maps(images, logits.argmax(dim=1))
        scaled = {
            name: scaled_map(part[0].float().cpu().numpy(), frame.network_size, self.protocol)
            for name, part in parts.items()
        }
        return {name: frame.map_to_original(map_) for name, map_ in scaled.items()}

    @torch.inference_mode()
    def _localize(self, pictures: list[tuple[str, Image.Image]]) -> list[Localization]:
        if not pictures:
            return []
        tensors, frames = zip(*(self._viewer.transform(image) for _, image in pictures), strict=True)
        device = next(self.model.parameters()).device
        logits, maps = self._viewer.locate(self.model, torch.stack(tensors).to(device))
        scores, classes = logits.float().softmax(dim=1).max(dim=1)
        rows = zip(pictures, frames, scores.tolist(), classes.tolist(), maps[:, 0].float().cpu().numpy(), strict=True)
        return [self._result(name, frame, score, index, map_) for (name, _), frame, score, index, map_ in rows]

    def _result(self, source: str, frame: Frame, score: float, index: int, map_: NDArray[np.float32]) -> Localization:
        scaled = scaled_map(map_, frame.network_size, self.protocol)
        prepared = quantised_map(scaled) if self.protocol.quantised else scaled
        masks = component_masks(prepared, self.threshold, self.protocol)
        masks = masks[masks.any(axis=(1, 2))][: 1 if self.objects == "largest" else None]
        boxes = np.array([_box_of(mask) for mask in masks], dtype=np.float64).reshape(-1, 4)
        return Localization(
            source=source,
            label=self.card.classes[index],
            class_index=index,
            score=min(1.0, score),
            boxes=frame.to_original(boxes),
            map=scaled,
            mask=np.asarray(masks.any(axis=0)),
            threshold=self.threshold,
            protocol=self.protocol.name,
            frame=frame,
        )


def usual_threshold(model: Method, card: Card) -> float:
    """Return the calibrated threshold of a model, or its method's default where it was never calibrated."""
    return card.threshold.value if card.threshold else model.default_threshold


def choose_device(name: str = "auto") -> torch.device:
    """Return the device ``name``; ``auto`` is a CUDA device, else Apple's, else the CPU.

    Raises:
        ValueError: where there is no such device here, naming those there are.
    """
    available = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device(available[-1])
    if name.split(":")[0] not in available:
        raise ValueError(f"device {name!r} is not available here; use auto or one of {', '.join(available)}")
    return torch.device(name)


def as_image(picture: Picture) -> Image.Image:
    """Return a picture in any accepted form as an upright RGB image.

    Raises:
        FileNotFoundError, ValueError: a file that is not there or cannot be read, or an array of another form.
    """
    if isinstance(picture, (str, Path, Image.Image)):
        return read_image(picture)
    array = _pixels(picture) if isinstance(picture, Tensor) else picture
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"expected an RGB array [height, width, 3] uint8 or a tensor [3, height, width], got {array.dtype} "
            f"of shape {tuple(array.shape)}"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _pixels(tensor: Tensor) -> NDArray[np.uint8]:
    """Return a tensor [3, height, width] (uint8, or float in [0, 1]) as [height, width, 3] uint8."""
    if tensor.ndim != 3 or len(tensor) != 3:
        raise ValueError(f"expected a tensor [3, height, width], got {list(tensor.shape)}")
    if tensor.is_floating_point():
        low, high = float(tensor.min()), float(tensor.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"a float tensor must hold RGB in [0, 1], not normalised; got values {low:g} to {high:g}")
        tensor = (tensor * 255).round().to(torch.uint8)
    return np.asarray(tensor.permute(1, 2, 0).cpu().numpy())


def _box_of(mask: NDArray[np.bool_]) -> list[int]:
    """Return the half-open box x0, y0, x1, y1 around the True pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]


def _name(picture: Picture) -> str:
    if isinstance(picture, (str, Path)):
        return str(picture)
    return str(getattr(picture, "filename", "") or "picture in memory")


def _read_all(pictures: Iterable[Picture]) -> list[tuple[str, Image.Image]]:
    return [(_name(picture), as_image(picture)) for picture in pictures]


def _read_or_report(index: int, picture: Picture) -> tuple[str, Image.Image] | Unreadable:
    try:
        return _name(picture), as_image(picture)
    except (ValueError, OSError) as error:
        return Unreadable(index, _name(picture), str(error))


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
