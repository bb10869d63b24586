"""From a checkpoint and a person's own images to boxes."""

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
from tokenloc.inference.inputs import ImageInput, as_image, name_of
from tokenloc.inference.localization import Localization
from tokenloc.inference.predictor import PredictionOptions, Predictor
from tokenloc.inference.sharing import SharingMixin
from tokenloc.inference.thresholding import components_above
from tokenloc.methods import Method, top_classes
from tokenloc.models.checkpoint import load_checkpoint
from tokenloc.models.hub import local_copy
from tokenloc.models.metadata import ModelMetadata

Objects = Literal["largest", "all"]
T = TypeVar("T")

BATCH = 16
"""Images that pass the network together, unless said otherwise."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What was found in one image.

    Attributes:
        results: a localization for each of the most probable classes, the most probable first.
        image: the upright RGB image that they are of, decoded once; None where it was not to be kept.
    """

    results: list[Localization]
    image: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class _Read:
    """An image that was read for the network: its name, the network's input [3, H, W], and its frame."""

    name: str
    tensor: Tensor
    frame: Frame
    image: Image.Image | None


class Localizer(SharingMixin):
    """Says what is in an image and where: the whole way from a file to boxes in its own pixels.

    Args:
        model: in evaluation mode, on the device that is to be used.
        metadata: classes, preprocessing and threshold of the model.
        threshold: on the map scaled to [0, 1]; None takes the calibrated one, or the method's default where there is
            none.
        objects: ``largest`` draws one box, around the largest component above the threshold; ``all`` one for each.
        viewing: how the model looks at images; None for plainly. The threshold should be calibrated for it.
        protocol: how images are shown and boxes drawn; None for ``standard``, by which the network sees the whole
            image, resized straight to its input size. Boxes are half-open in original pixels under any.
        min_score: probability in [0, 1] below which a class gets no box: the image shows none of the classes.

    Several threads may use one localizer.
    """

    def __init__(
        self,
        model: Method,
        metadata: ModelMetadata,
        threshold: float | None = None,
        objects: Objects = "largest",
        viewing: PredictionOptions | None = None,
        protocol: Protocol | None = None,
        min_score: float = 0.0,
    ) -> None:
        self.model = model
        self.metadata = metadata
        self.protocol = protocol or get_protocol("standard")
        self.threshold = checked_threshold(usual_threshold(model, metadata) if threshold is None else threshold)
        self.objects = one_of("objects", objects, Objects)
        self.viewing = viewing or PredictionOptions()
        if not 0 <= min_score <= 1:
            raise ValueError(f"min_score must be a probability in [0, 1]; got {min_score}")
        self.min_score = min_score
        self._predictor = Predictor(self.viewing, metadata.preprocessing, self.protocol)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "auto",
        threshold: float | None = None,
        objects: Objects = "largest",
        viewing: PredictionOptions | None = None,
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
        model, metadata = load_checkpoint(origin)
        localizer = cls(model.to(choose_device(device)), metadata, threshold, objects, viewing, min_score=min_score)
        localizer.origin = origin
        return localizer

    @overload
    def __call__(self, images: ImageInput) -> Localization: ...
    @overload
    def __call__(self, images: list[ImageInput] | tuple[ImageInput, ...]) -> list[Localization]: ...
    @overload
    def __call__(self, images: Iterator[ImageInput]) -> Iterator[Localization]: ...
    def __call__(
        self, images: ImageInput | list[ImageInput] | tuple[ImageInput, ...] | Iterator[ImageInput]
    ) -> Localization | list[Localization] | Iterator[Localization]:
        """Localize one image, or each of several.

        Args:
            images: a path, the bytes of a file, a PIL image, an RGB array [height, width, 3] uint8, a tensor [3,
                height, width] (uint8, or float in [0, 1]), or a list or generator of these.

        Returns:
            the most probable class of the image and its boxes; a list of these for a list; for a generator an
            iterator, which takes images as results are asked for, a batch ahead of them, in constant memory.

        Raises:
            FileNotFoundError, ValueError: an image that cannot be read, naming it; ``stream`` reports it instead.
        """
        if isinstance(images, (list, tuple)):
            return list(self._each(iter(images)))
        if isinstance(images, Iterator):
            return self._each(images)
        return self._localize([self._read(images)], 1)[0].results[0]

    def top(self, image: ImageInput, count: int) -> list[Localization]:
        """Localize the ``count`` most probable classes of an image, the most probable first; raises as a call does."""
        return self._localize([self._read(image)], self._checked_count(count))[0].results

    def stream(self, images: Iterable[ImageInput], batch_size: int = BATCH) -> Iterator[Localization | Unreadable]:
        """Localize any number of images in constant memory; unreadable ones are reported in their place.

        Threads read the next images while the network looks at a batch.

        Yields:
            one result for each image, in order.
        """
        for found in self.look(images, batch_size):
            yield found if isinstance(found, Unreadable) else found.results[0]

    def look(
        self, images: Iterable[ImageInput], batch_size: int = BATCH, top_k: int = 1, keep_images: bool = False
    ) -> Generator[Prediction | Unreadable, None, None]:
        """Localize any number of images, as ``stream`` does, and several classes of each.

        Args:
            images: in any form; a generator will do.
            batch_size: images that pass the network together; at most twice as many are in memory.
            top_k: how many classes, the most probable ones, from 1 to all.
            keep_images: whether ``Prediction.image`` is kept, for drawing on it without decoding it once more.

        Returns:
            an iterator: what was found in each image, in order.

        Raises:
            ValueError: a ``top_k`` or ``batch_size`` out of range.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        read = map_ahead(partial(self._read_or_report, keep_image=keep_images), enumerate(images), batch_size)
        return self._look(read, batch_size, self._checked_count(top_k))

    @torch.inference_mode()
    def parts(self, image: ImageInput) -> dict[str, NDArray[np.float32]]:
        """Return what the map of an image's most probable class is made of, for looking at it.

        Returns:
            by name, in the order of their making, [height, width] float32 in [0, 1] on the image's own pixels, at the
            model's own input size and unrefined; empty where there is nothing but the map (``Method.intermediate_maps``).
        """
        image = as_image(image)
        tensor, frame = Predictor(PredictionOptions(), self.metadata.preprocessing, self.protocol).transform(image)
        images = tensor[None].to(next(self.model.parameters()).device)
        logits, _ = self.model.class_maps(images)
        parts = self.model.intermediate_maps(images, logits.argmax(dim=1))
        scaled = {
            name: scaled_map(part[0].float().cpu().numpy(), frame.input_size, self.protocol)
            for name, part in parts.items()
        }
        return {name: frame.map_to_original(map_) for name, map_ in scaled.items()}

    def _each(self, images: Iterator[ImageInput]) -> Iterator[Localization]:
        with closing(map_ahead(self._read, images, BATCH)) as read:
            for batch in _batches(read, BATCH):
                found = self._localize(batch, 1)
                batch.clear()
                while found:  # as in _look
                    yield found.pop(0).results[0]

    def _look(
        self, read: Generator[_Read | Unreadable, None, None], batch_size: int, top_k: int
    ) -> Generator[Prediction | Unreadable, None, None]:
        with closing(read):
            for batch in _batches(read, batch_size):
                found = self._localize([item for item in batch if isinstance(item, _Read)], top_k)
                ready = [item if isinstance(item, Unreadable) else found.pop(0) for item in batch]
                batch.clear()
                while ready:  # handed over one by one: none is kept while the next batch is read
                    yield ready.pop(0)

    def _read(self, image: ImageInput, keep_image: bool = False) -> _Read:
        enough = None if keep_image else self._predictor.sufficient_size
        decoded = as_image(image, enough)
        tensor, frame = self._predictor.transform(decoded)
        if enough is not None and isinstance(image, (str, Path, bytes)):
            frame = frame.of_original(read_size(image))
        return _Read(name_of(image), tensor, frame, decoded if keep_image else None)

    def _read_or_report(self, numbered: tuple[int, ImageInput], keep_image: bool) -> _Read | Unreadable:
        index, image = numbered
        try:
            return self._read(image, keep_image)
        except (ValueError, OSError) as error:
            return Unreadable(index, name_of(image), str(error))

    @torch.inference_mode()
    def _localize(self, images: list[_Read], top_k: int) -> list[Prediction]:
        if not images:
            return []
        batch = torch.stack([image.tensor for image in images]).to(next(self.model.parameters()).device)
        logits, maps = self._predictor.locate(self.model, batch, top_k)
        classes = top_classes(logits, top_k)
        scores = logits.float().softmax(dim=1).gather(1, classes)
        found = zip(images, scores.tolist(), classes.tolist(), maps.float().cpu().numpy(), strict=True)
        return [Prediction(self._results(image, *of_classes), image.image) for image, *of_classes in found]

    def _results(
        self, image: _Read, scores: list[float], classes: list[int], maps: NDArray[np.float32]
    ) -> list[Localization]:
        of_classes = zip(scores, classes, maps, strict=True)
        return [self._result(image.name, image.frame, *of_class) for of_class in of_classes]

    def _checked_count(self, count: int) -> int:
        if not 1 <= count <= self.model.num_classes:
            raise ValueError(f"the number of classes, top_k, must lie in 1 … {self.model.num_classes}; got {count}")
        return count

    def _result(self, source: str, frame: Frame, score: float, index: int, map_: NDArray[np.float32]) -> Localization:
        scaled = scaled_map(map_, frame.input_size, self.protocol)
        wanted = 0 if score < self.min_score else 1 if self.objects == "largest" else None
        drawn = components_above(scaled, score, frame, self.protocol, self.threshold, wanted)
        return Localization(
            **drawn._asdict(),
            source=source,
            label=self.metadata.classes[index],
            class_index=index,
            score=min(1.0, score),
            map=scaled,
            threshold=self.threshold,
            protocol=self.protocol.name,
            frame=frame,
        )


def usual_threshold(model: Method, metadata: ModelMetadata) -> float:
    """Return the calibrated threshold of a model, or its method's default where it was never calibrated."""
    return metadata.threshold.value if metadata.threshold else model.default_threshold


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
