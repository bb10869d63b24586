"""From a checkpoint and a person's own photographs to boxes."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tokenloc._names import one_of
from tokenloc._threads import map_ahead
from tokenloc.boxes import Frame, Protocol, get_protocol, scaled_map
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.data import Unreadable, read_size
from tokenloc.inference.localization import Localization
from tokenloc.inference.picture import Picture, as_image, name_of
from tokenloc.inference.pretrained import Pretrained
from tokenloc.inference.thresholding import drawn_above
from tokenloc.inference.viewing import Viewer, Viewing, top_classes
from tokenloc.methods import Method
from tokenloc.training.checkpoint import Card, load_checkpoint
from tokenloc.training.hub import local_copy

Objects = Literal["largest", "all"]
T = TypeVar("T")

BATCH = 16
"""Pictures that pass the network together, unless said otherwise."""


@dataclass(frozen=True, eq=False)
class Found:
    """What was found in one picture.

    Attributes:
        results: a localization for each of the most probable classes, the most probable first.
        image: the upright RGB picture that they are of, decoded once; None where it was not to be kept.
    """

    results: list[Localization]
    image: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class _Read:
    """A picture that was read for the network: its name, the network's input [3, H, W], and its frame."""

    name: str
    tensor: Tensor
    frame: Frame
    image: Image.Image | None


class Localizer(Pretrained):
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
        min_score: probability in [0, 1] below which a class gets no box: the picture shows none of the classes.

    Several threads may use one localizer.
    """

    def __init__(
        self,
        model: Method,
        card: Card,
        threshold: float | None = None,
        objects: Objects = "largest",
        viewing: Viewing | None = None,
        protocol: Protocol | None = None,
        min_score: float = 0.0,
    ) -> None:
        self.model = model
        self.card = card
        self.protocol = protocol or get_protocol("standard")
        self.threshold = checked_threshold(usual_threshold(model, card) if threshold is None else threshold)
        self.objects = one_of("objects", objects, Objects)
        self.viewing = viewing or Viewing()
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be a probability in [0, 1]; got {min_score}")
        self.min_score = min_score
        self._viewer = Viewer(self.viewing, card.preprocessing, self.protocol)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "auto",
        threshold: float | None = None,
        objects: Objects = "largest",
        viewing: Viewing | None = None,
        min_score: float = 0.0,
    ) -> Localizer:
        """Load a checkpoint of ``tokenloc train``; see the class for the arguments.

        Args:
            path: the file, a folder of ``save_pretrained``, or ``hf-hub:USER/NAME[@REVISION]``; code in it is never
                run.
            device: ``auto`` (a GPU where there is one), or torch's name of a device.
            threshold: see the class.
            objects: see the class.
            viewing: see the class.
            min_score: see the class.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a checkpoint of tokenloc, a damaged one, or a device that is not there.
        """
        origin = local_copy(path)
        model, card = load_checkpoint(origin)
        localizer = cls(model.to(choose_device(device)), card, threshold, objects, viewing, min_score=min_score)
        localizer.origin = origin
        return localizer

    @overload
    def __call__(self, pictures: Picture) -> Localization: ...
    @overload
    def __call__(self, pictures: list[Picture] | tuple[Picture, ...]) -> list[Localization]: ...
    @overload
    def __call__(self, pictures: Iterator[Picture]) -> Iterator[Localization]: ...
    def __call__(
        self, pictures: Picture | list[Picture] | tuple[Picture, ...] | Iterator[Picture]
    ) -> Localization | list[Localization] | Iterator[Localization]:
        """Localize one picture, or each of several.

        Args:
            pictures: a path, the bytes of a file, a PIL image, an RGB array [height, width, 3] uint8, a tensor [3,
                height, width] (uint8, or float in [0, 1]), or a list or generator of these.

        Returns:
            the most probable class of the picture and its boxes; a list of these for a list; for a generator an
            iterator, which takes pictures as results are asked for, a batch ahead of them, in constant memory.

        Raises:
            FileNotFoundError, ValueError: a picture that cannot be read, naming it; ``stream`` reports it instead.
        """
        if isinstance(pictures, (list, tuple)):
            return list(self._each(iter(pictures)))
        if isinstance(pictures, Iterator):
            return self._each(pictures)
        return self._localize([self._read(pictures)], 1)[0].results[0]

    def top(self, picture: Picture, count: int) -> list[Localization]:
        """Localize the ``count`` most probable classes of a picture, the most probable first; raises as a call does."""
        return self._localize([self._read(picture)], self._checked_count(count))[0].results

    def stream(self, pictures: Iterable[Picture], batch_size: int = BATCH) -> Iterator[Localization | Unreadable]:
        """Localize any number of pictures in constant memory; unreadable ones are reported in their place.

        Threads read the next pictures while the network looks at a batch.

        Yields:
            one result for each picture, in order.
        """
        for found in self.look(pictures, batch_size):
            yield found if isinstance(found, Unreadable) else found.results[0]

    def look(
        self, pictures: Iterable[Picture], batch_size: int = BATCH, top_k: int = 1, keep_images: bool = False
    ) -> Generator[Found | Unreadable, None, None]:
        """Localize any number of pictures, as ``stream`` does, and several classes of each.

        Args:
            pictures: in any form; a generator will do.
            batch_size: pictures that pass the network together; at most twice as many are in memory.
            top_k: how many classes, the most probable ones, from 1 to all.
            keep_images: whether ``Found.image`` is kept, for drawing on it without decoding it once more.

        Returns:
            an iterator: what was found in each picture, in order.

        Raises:
            ValueError: a ``top_k`` or ``batch_size`` out of range.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        read = map_ahead(partial(self._read_or_report, keep_image=keep_images), enumerate(pictures), batch_size)
        return self._look(read, batch_size, self._checked_count(top_k))

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

    def _each(self, pictures: Iterator[Picture]) -> Iterator[Localization]:
        with closing(map_ahead(self._read, pictures, BATCH)) as read:
            for batch in _batches(read, BATCH):
                found = self._localize(batch, 1)
                batch.clear()
                while found:  # as in _look
                    yield found.pop(0).results[0]

    def _look(
        self, read: Generator[_Read | Unreadable, None, None], batch_size: int, top_k: int
    ) -> Generator[Found | Unreadable, None, None]:
        with closing(read):
            for batch in _batches(read, batch_size):
                found = self._localize([item for item in batch if isinstance(item, _Read)], top_k)
                ready = [item if isinstance(item, Unreadable) else found.pop(0) for item in batch]
                batch.clear()
                while ready:  # handed over one by one: none is kept while the next batch is read
                    yield ready.pop(0)

    def _read(self, picture: Picture, keep_image: bool = False) -> _Read:
        enough = None if keep_image else self._viewer.sufficient_size
        image = as_image(picture, enough)
        tensor, frame = self._viewer.transform(image)
        if enough is not None and isinstance(picture, (str, Path, bytes)):
            frame = frame.of_original(read_size(picture))
        return _Read(name_of(picture), tensor, frame, image if keep_image else None)

    def _read_or_report(self, numbered: tuple[int, Picture], keep_image: bool) -> _Read | Unreadable:
        index, picture = numbered
        try:
            return self._read(picture, keep_image)
        except (ValueError, OSError) as error:
            return Unreadable(index, name_of(picture), str(error))

    @torch.inference_mode()
    def _localize(self, pictures: list[_Read], top_k: int) -> list[Found]:
        if not pictures:
            return []
        images = torch.stack([picture.tensor for picture in pictures]).to(next(self.model.parameters()).device)
        logits, maps = self._viewer.locate(self.model, images, top_k)
        classes = top_classes(logits, top_k)
        scores = logits.float().softmax(dim=1).gather(1, classes)
        found = zip(pictures, scores.tolist(), classes.tolist(), maps.float().cpu().numpy(), strict=True)
        return [Found(self._results(picture, *of_classes), picture.image) for picture, *of_classes in found]

    def _results(
        self, picture: _Read, scores: list[float], classes: list[int], maps: NDArray[np.float32]
    ) -> list[Localization]:
        of_classes = zip(scores, classes, maps, strict=True)
        return [self._result(picture.name, picture.frame, *of_class) for of_class in of_classes]

    def _checked_count(self, count: int) -> int:
        if not 1 <= count <= self.model.num_classes:
            raise ValueError(f"the number of classes, top_k, must lie in 1 … {self.model.num_classes}; got {count}")
        return count

    def _result(self, source: str, frame: Frame, score: float, index: int, map_: NDArray[np.float32]) -> Localization:
        scaled = scaled_map(map_, frame.network_size, self.protocol)
        wanted = 0 if score < self.min_score else 1 if self.objects == "largest" else None
        drawn = drawn_above(scaled, score, frame, self.protocol, self.threshold, wanted)
        return Localization(
            **drawn._asdict(),
            source=source,
            label=self.card.classes[index],
            class_index=index,
            score=min(1.0, score),
            map=scaled,
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


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
