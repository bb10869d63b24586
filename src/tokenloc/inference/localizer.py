"""The public API: from a checkpoint and images to boxes."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from copy import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tokenloc._names import one_of
from tokenloc.boxes import Frame, Protocol, scaled_map
from tokenloc.boxes.extraction import SMALLEST
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.data import Unreadable, evaluation_transform
from tokenloc.inference.device import choose_device
from tokenloc.inference.evidence import with_evidence
from tokenloc.inference.inputs import ORIGINALS, THREADS, ImageInput, as_image, batched, map_ahead, name_of, size_of
from tokenloc.inference.labels import Classified, Images, Inputs, Labels, Stream, with_classes
from tokenloc.inference.localization import Localization, Objects, Prediction, box_count
from tokenloc.inference.options import PredictionOptions
from tokenloc.inference.predictor import NetworkInput, Predictor
from tokenloc.methods import Method
from tokenloc.models.checkpoint import OptionValue, default_threshold, load_checkpoint
from tokenloc.models.hub import local_copy, pretrained_path, save_folder, upload
from tokenloc.models.metadata import ModelMetadata, Threshold

BATCH = 16  # images that pass the network together
KEPT_SIDE = 1600  # pixels of the longer side of an image that is kept to draw on it
_Failed = Unreadable | Exception


class _Predicted(NamedTuple):
    source: NetworkInput
    scores: list[float]  # of the K classes
    classes: list[int]
    maps: NDArray[np.float32]  # [K, h, w]


class Localizer:
    """Localizes objects in images: from a file to boxes in its own pixels. Several threads may share one.

    Args:
        model: in evaluation mode, on the device to use.
        metadata: classes, preprocessing and threshold of the model.
        threshold: on the map scaled to [0, 1]; None for the calibrated one, or the default of an uncalibrated method.
        objects: ``largest`` draws one box around the largest component above the threshold; ``all`` one per object.
        options: test-time augmentation, refinement and precision, the same as for calibration; None for the defaults.
        protocol: determines the network input and how boxes are drawn; None for ``standard``.
        min_score: probability in [0, 1] below which a class gets no box, for images that show none of the classes.
        min_confidence: confidence in [0, 1] below which a box is left out.
        min_area: smallest area of ``all`` objects but the largest, as a fraction of the network input, in [0, 1].
    """

    origin: Path | None = None  # the file or folder from which it was loaded

    def __init__(
        self,
        model: Method,
        metadata: ModelMetadata,
        threshold: float | None = None,
        objects: Objects = "largest",
        options: PredictionOptions | None = None,
        protocol: Protocol | None = None,
        min_score: float = 0.0,
        min_confidence: float = 0.0,
        min_area: float = SMALLEST,
    ) -> None:
        self.model = model
        self.metadata = metadata
        self.threshold = checked_threshold(default_threshold(model, metadata) if threshold is None else threshold)
        self.objects = one_of("objects", objects, Objects)
        self.min_score, self.min_confidence, self.min_area = min_score, min_confidence, min_area
        for name in ("min_score", "min_confidence", "min_area"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1]; got {getattr(self, name)}")
        self.predictor = Predictor(model, metadata.preprocessing, options, protocol)
        self.options, self.protocol = self.predictor.options, self.predictor.protocol

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "auto",
        threshold: float | None = None,
        objects: Objects = "largest",
        options: PredictionOptions | None = None,
        min_score: float = 0.0,
        method_options: Mapping[str, OptionValue] | None = None,
        min_confidence: float = 0.0,
        min_area: float = SMALLEST,
    ) -> Localizer:
        """Load a checkpoint of ``tokenloc train``; see the class for the other arguments.

        Args:
            path: a file, a folder of ``save_pretrained``, or ``hf-hub:USER/NAME[@REVISION]``; code in it never runs.
            device: ``auto`` (a GPU if available), or a PyTorch device name.
            method_options: see ``models.checkpoint.load_checkpoint``.

        Raises:
            FileNotFoundError, ValueError: if the file is missing or not a valid checkpoint, or there is no such device.
        """
        origin = local_copy(path)
        model, metadata = load_checkpoint(origin, method_options)
        chosen = (threshold, objects, options, None, min_score, min_confidence, min_area)
        localizer = cls(model.to(choose_device(device)), metadata, *chosen)
        localizer.origin = origin
        return localizer

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, token: str | None = None, **options: Any
    ) -> Localizer:
        """Load a model from the Hugging Face Hub, or from a folder written by ``save_pretrained``.

        Its maps, scores and boxes are bit-identical to those of the saved localizer. Downloads are cached; the cache is
        used if the hub is unreachable or ``HF_HUB_OFFLINE=1`` is set.

        Args:
            name: an existing folder, or ``USER/NAME``, optionally with the prefix ``hf-hub:``.
            revision: a branch, a tag or a commit of the repository; None for its main branch.
            token: for a private repository; None uses the one stored by ``hf auth login``, or ``HF_TOKEN``.
            options: further arguments of ``from_checkpoint``.

        Raises:
            FileNotFoundError, ValueError: if the model does not exist or is invalid, or the hub is unreachable.
        """
        return cls.from_checkpoint(local_copy(pretrained_path(name), revision, token), **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model to a folder, for ``from_pretrained``; return the folder.

        The current threshold is saved, but neither ``objects``, ``options`` and ``min_score`` nor local paths.
        A model in the folder is replaced; an existing ``README.md``, which may have been edited, is kept.

        Raises:
            ValueError, OSError: if JSON cannot represent an option of the model, or the folder is not writable.
        """
        return self._save(Path(folder), Path(folder).absolute().name)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        message: str = "Add a tokenloc model",
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to a repository of the Hugging Face Hub, which is created if needed; return its URL.

        Args:
            name: ``USER/NAME``; ``NAME`` for a repository of the current user.
            private: whether a new repository is private; None for the owner's default.
            message: of the commit, to the branch ``revision``; None for the main branch.
            token: with write access; None uses the one stored by ``hf auth login``, or ``HF_TOKEN``.

        Raises:
            OSError: if the hub is unreachable or denies write access.
        """
        with TemporaryDirectory() as folder:
            saved = self._save(Path(folder), name)
            return upload(saved, name, private=private, message=message, revision=revision, token=token)

    def _save(self, folder: Path, name: str) -> Path:
        metadata = self.metadata
        if self.threshold != default_threshold(self.model, metadata):
            chosen = Threshold(self.threshold, "in use when the model was saved", str(self.options))
            metadata = replace(metadata, threshold=chosen)
        return save_folder(folder, name, self.model, metadata, self.origin)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of ``Localization.class_index``."""
        return self.metadata.classes

    @overload
    def __call__(
        self,
        images: ImageInput,
        *,
        label: Labels = None,
        threshold: float | None = None,
        objects: Objects | None = None,
    ) -> Localization: ...
    @overload
    def __call__(
        self, images: Images, *, label: Labels = None, threshold: float | None = None, objects: Objects | None = None
    ) -> list[Localization]: ...
    @overload
    def __call__(
        self, images: Stream, *, label: Labels = None, threshold: float | None = None, objects: Objects | None = None
    ) -> Iterator[Localization]: ...
    def __call__(
        self, images: Inputs, *, label: Labels = None, threshold: float | None = None, objects: Objects | None = None
    ) -> Localization | list[Localization] | Iterator[Localization]:
        """Localize the known or most probable class of one image, or of each of several.

        Args:
            images: a path, the bytes of a file, a PIL image, an RGB array [height, width, 3] uint8, or a tensor [3,
                height, width] uint8 or in [0, 1]; or a list of these, or an iterator, read in constant memory.
            label: the known class of all images, or of each; None for the most probable class.
            threshold: of this call; None for that of the localizer.
            objects: of this call, likewise.

        Raises:
            FileNotFoundError, ValueError: for an unreadable image, which ``stream`` reports, or an unknown class.
        """
        localizer = self._with(threshold, objects)
        if isinstance(images, Iterator):
            return localizer._first_results(images, label)
        if isinstance(images, (list, tuple)):
            return list(map(Localization.with_image, localizer._first_results(images, label), images))
        classified = next(iter(with_classes([images], label, self.classes)))
        return localizer._localize_now(*classified)[0].with_image(images)

    def top(self, image: ImageInput, count: int) -> list[Localization]:
        """Localize the ``count`` most probable classes of an image, the most probable first; raises as a call does."""
        return [result.with_image(image) for result in self._localize_now(image, None, self._checked_count(count))]

    def stream(self, images: Iterable[ImageInput], batch_size: int = BATCH) -> Iterator[Localization | Unreadable]:
        """Yield the most probable class of each image, in order and constant memory; see ``predict``."""
        for prediction in self.predict(images, batch_size):
            yield prediction if isinstance(prediction, Unreadable) else prediction.results[0]

    def predict(
        self,
        images: Iterable[ImageInput],
        batch_size: int = BATCH,
        top_k: int = 1,
        keep_images: bool = False,
        labels: Labels = None,
    ) -> Generator[Prediction | Unreadable, None, None]:
        """Yield one prediction per image, in order and constant memory, or an ``Unreadable``; threads read ahead.

        Args:
            images: in any form that a call takes.
            batch_size: images that pass the network together; at most three times as many are in memory.
            top_k: the number of classes per image, the most probable ones, from 1 to all.
            keep_images: keep the image in ``Prediction.image``, to draw on it, with at most ``KEPT_SIDE`` pixels on its
                longer side.
            labels: the known class of all images, or of each, which is localized instead of the most probable one.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}")
        if labels is not None and top_k != 1:
            raise ValueError(f"with known labels, each image has one class; got top_k {top_k}")
        return self._predictions(
            with_classes(images, labels, self.classes), batch_size, self._checked_count(top_k), keep_images
        )

    @torch.inference_mode()
    def intermediate_maps(self, image: ImageInput, figures: bool = False) -> dict[str, NDArray[np.float32]]:
        """Return the maps that the map of the most probable class is computed from, by name, in order of computation.

        Each is [height, width] float32 in [0, 1] in original pixels, at the default input size without refinement.
        With ``figures``, the maps are those of ``Method.figure_maps`` instead.
        """
        transform = evaluation_transform(self.metadata.preprocessing, self.protocol.input_frame)
        tensor, frame = transform(as_image(image))
        images = tensor[None].to(self.predictor.device)
        logits, _ = self.model.class_maps(images)
        maps_of = self.model.figure_maps if figures else self.model.intermediate_maps
        maps = maps_of(images, logits.argmax(dim=1))
        return self._in_original_pixels({name: map_[0] for name, map_ in maps.items()}, frame)

    @torch.inference_mode()
    def refinement_maps(self, image: ImageInput) -> dict[str, NDArray[np.float32]]:
        """Return the map of the most probable class before and in the course of refinement, by title, in order.

        The steps are those of the options, else the method's (LCAR, Figs. 3 and 4). Each map is [height, width] float32
        in [0, 1] in original pixels.
        """
        tensor, frame = self.predictor.transform(as_image(image))
        maps = self.predictor.refinement_maps(tensor[None])
        return self._in_original_pixels({name: map_[0, 0] for name, map_ in maps.items()}, frame)

    def _in_original_pixels(self, maps: dict[str, Tensor], frame: Frame) -> dict[str, NDArray[np.float32]]:
        arrays = {name: map_.float().cpu().numpy() for name, map_ in maps.items()}
        scaled = {name: scaled_map(map_, frame.input_size, self.protocol) for name, map_ in arrays.items()}
        return {name: frame.map_to_original(map_) for name, map_ in scaled.items()}

    def _with(self, threshold: float | None, objects: Objects | None) -> Localizer:
        """Return a localizer with the given values, which shares everything else with this one."""
        localizer = copy(self)
        if threshold is not None:
            localizer.threshold = checked_threshold(threshold)
        if objects is not None:
            localizer.objects = one_of("objects", objects, Objects)
        return localizer

    def _first_results(self, images: Iterable[ImageInput], labels: Labels) -> Iterator[Localization]:
        for prediction in self._predictions(with_classes(images, labels, self.classes), BATCH, 1, report=False):
            if isinstance(prediction, Prediction):
                yield prediction.results[0]

    def _predictions(
        self, images: Iterable[Classified], batch_size: int, top_k: int, keep_images: bool = False, report: bool = True
    ) -> Generator[Prediction | Unreadable, None, None]:
        def read(numbered: tuple[int, Classified]) -> NetworkInput | _Failed:
            index, (image, class_index) = numbered
            try:
                return self._read(image, class_index, keep_images)
            except (ValueError, OSError) as error:
                return Unreadable(index, name_of(image), str(error)) if report else error

        def predict(batch: list[NetworkInput | _Failed]) -> list[_Predicted | _Failed]:
            predicted = iter(self._run_network([item for item in batch if isinstance(item, NetworkInput)], top_k))
            return [next(predicted) if isinstance(item, NetworkInput) else item for item in batch]

        def localize(item: _Predicted | _Failed) -> Prediction | Unreadable:
            if isinstance(item, Exception):
                raise item
            return item if isinstance(item, Unreadable) else self._localize(item)

        # One thread runs the network on the next batch, while others read ahead and find the boxes of this one.
        with (
            closing(map_ahead(read, enumerate(images), batch_size)) as inputs,
            closing(map_ahead(predict, batched(inputs, batch_size), 1, threads=1)) as batches,
            ThreadPoolExecutor(THREADS) as threads,
        ):
            for batch in batches:
                ready = list(threads.map(localize, batch))
                tensors = [item.source.tensor for item in batch if isinstance(item, _Predicted)]
                found = iter(self._confident(tensors, [item.results for item in ready if isinstance(item, Prediction)]))
                ready = [replace(p, results=next(found)) if isinstance(p, Prediction) else p for p in ready]
                del batch, tensors, found
                while ready:  # one by one, so that none stays in memory while the next batch is read
                    yield ready.pop(0)

    def _read(self, image: ImageInput, class_index: int | None = None, keep_image: bool = False) -> NetworkInput:
        min_size = None if keep_image else self.predictor.sufficient_size
        size = size_of(image)
        with ORIGINALS.hold(size):
            decoded = as_image(image, min_size)
            try:
                tensor, frame = self.predictor.transform(decoded)
            except MemoryError as error:
                raise ValueError(f"{name_of(image)}: {size[0]}x{size[1]} pixels do not fit into memory") from error
            if min_size is not None and isinstance(image, (str, Path, bytes)):
                frame = frame.of_original(size)
            if keep_image:
                decoded.thumbnail((KEPT_SIDE, KEPT_SIDE))
        return NetworkInput(name_of(image), tensor, frame, decoded if keep_image else None, class_index)

    def _run_network(self, inputs: list[NetworkInput], top_k: int) -> list[_Predicted]:
        if not inputs:
            return []
        known = [each.class_index for each in inputs if each.class_index is not None]
        classes = torch.tensor(known)[:, None] if known else top_k
        predicted = self.predictor.class_maps(torch.stack([each.tensor for each in inputs]), classes)
        columns = predicted.scores.tolist(), predicted.classes.tolist(), predicted.maps.cpu().numpy()
        return [_Predicted(*row) for row in zip(inputs, *columns, strict=True)]

    def _localize_now(self, image: ImageInput, class_index: int | None, top_k: int = 1) -> list[Localization]:
        (predicted,) = self._run_network([self._read(image, class_index)], top_k)
        return self._confident([predicted.source.tensor], [self._localize(predicted).results])[0]

    def _confident(self, images: list[Tensor], found: list[list[Localization]]) -> list[list[Localization]]:
        if self.options.evidence:
            found = with_evidence(self.predictor.recognised, images, found)
        return [[result.confident(self.min_confidence) for result in results] for results in found]

    def _localize(self, predicted: _Predicted) -> Prediction:
        source, *of_classes = predicted
        return Prediction([self._result(source, *of_class) for of_class in zip(*of_classes, strict=True)], source.image)

    def _result(self, source: NetworkInput, score: float, index: int, map_: NDArray[np.float32]) -> Localization:
        score = min(1.0, score)
        count = 0 if score < self.min_score else box_count(self.metadata.classes[index], self.objects)
        scaled, found = self.predictor.boxes(map_, score, source.frame, self.threshold, count, self.min_area)
        return Localization(
            **found._asdict(),
            source=source.name,
            label=self.metadata.classes[index],
            class_index=index,
            score=score,
            map=scaled,
            threshold=self.threshold,
            protocol=self.protocol.name,
            frame=source.frame,
        )

    def _checked_count(self, count: int) -> int:
        if not 1 <= count <= self.model.num_classes:
            raise ValueError(f"the number of classes, top_k, must lie in 1 … {self.model.num_classes}; got {count}")
        return count
