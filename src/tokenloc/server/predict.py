"""Predictions on uploaded images, and results that stay in memory for a short time."""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from fastapi import HTTPException
from numpy.typing import NDArray
from PIL import Image

from tokenloc._names import unknown_name
from tokenloc.data import read_image
from tokenloc.inference import Localization, Localizer, PredictionOptions
from tokenloc.inference.localizer import Objects
from tokenloc.inference.thresholding import at_threshold
from tokenloc.reporting.drawing import heatmap
from tokenloc.server.limits import Limits

MAX_CLASSES = 10
PREVIEW_SIDE = 960
KEEP_SECONDS = 600.0
MAX_KEPT_BYTES = 256_000_000
NO_REFINEMENT = "none"


@dataclass(frozen=True, eq=False)
class Result:
    """What a model predicts for one image, at every threshold.

    Attributes:
        model: name of the model.
        localizer: the model.
        predictions: one for each of the most probable classes, the most probable first.
        upload: bytes of the image file.
        preview: JPEG of the upright image, at most ``PREVIEW_SIDE`` pixels on its longer side.
    """

    model: str
    localizer: Localizer
    predictions: list[Localization]
    upload: bytes
    preview: bytes

    @cached_property
    def nbytes(self) -> int:
        """Size in memory, in bytes."""
        maps = sum(one.map.nbytes + one.mask.nbytes for one in self.predictions)
        return len(self.upload) + len(self.preview) + maps

    def at(self, threshold: float | None, objects: Objects) -> list[Localization]:
        """Return the predictions at a threshold on the map, in [0, 1]; None for the model's."""
        threshold = self.localizer.threshold if threshold is None else threshold
        return [at_threshold(one, threshold, objects == "all") for one in self.predictions]

    def map_png(self, index: int) -> bytes:
        """Return the map of a class as a grey PNG (255 for 1) of the preview's size."""
        _, map_ = self._preview_and_map(index)
        return _encoded(Image.fromarray((255 * map_).round().astype(np.uint8)), "PNG")

    def heatmap_jpeg(self, index: int) -> bytes:
        """Return the map of a class, in colour over the preview, as a JPEG."""
        return _encoded(heatmap(*self._preview_and_map(index)), "JPEG")

    def _preview_and_map(self, index: int) -> tuple[Image.Image, NDArray[np.float32]]:
        image, prediction = Image.open(io.BytesIO(self.preview)), self.predictions[index]
        return image, prediction.frame.of_original(image.size).map_to_original(prediction.map)


class ResultStore:
    """Keeps results in memory for ``KEEP_SECONDS``, each under a token that nobody can guess.

    The oldest ones are removed earlier where all together need more than ``MAX_KEPT_BYTES``.
    """

    def __init__(self) -> None:
        self._results: dict[str, Result] = {}

    def add(self, result: Result) -> str:
        """Keep a result and return its token; to be called in the event loop."""
        token = secrets.token_urlsafe(24)
        self._results[token] = result
        asyncio.get_running_loop().call_later(KEEP_SECONDS, self.remove, token)
        while len(self._results) > 1 and sum(one.nbytes for one in self._results.values()) > MAX_KEPT_BYTES:
            self.remove(next(iter(self._results)))
        return token

    def remove(self, token: str) -> None:
        """Remove a result if it is still there."""
        self._results.pop(token, None)

    def __getitem__(self, token: str) -> Result:
        try:
            return self._results[token]
        except KeyError:
            message = f"no such result; results are kept for {KEEP_SECONDS / 60:g} minutes: send the image again"
            raise HTTPException(404, message) from None


class PredictionService:
    """Runs models on uploaded images, one image at a time: a network uses all cores.

    Args:
        models: localizers by name; the first one is the default.
        limits: limits of an upload.
    """

    def __init__(self, models: Mapping[str, Localizer], limits: Limits) -> None:
        self.models = dict(models)
        self.limits = limits
        self.results = ResultStore()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="tokenloc-predict")

    async def predict(self, upload: bytes, name: str, model: str | None, top_k: int, refine: str | None) -> Result:
        """Predict an image without blocking the event loop.

        Args:
            upload: bytes of an image file.
            name: name of the file, for messages and annotations.
            model: name of a model; None for the first.
            top_k: number of classes; fewer if the model has fewer.
            refine: refinement steps separated by commas, ``none``, or None for the method's own steps.

        Raises:
            HTTPException: 422 for an unknown name or an image that is too large or cannot be read.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._worker, self._predict, upload, name, model, top_k, refine)

    def close(self) -> None:
        """Stop the worker; requests that wait for it fail."""
        self._worker.shutdown(cancel_futures=True)

    def _predict(self, upload: bytes, name: str, model: str | None, top_k: int, refine: str | None) -> Result:
        model = next(iter(self.models)) if model is None else model
        try:
            localizer = self._localizer(model, refine)
            image = read_image(upload, self.limits.max_pixels, name=name)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        predictions = localizer.top(image, min(top_k, localizer.model.num_classes))
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        named = [replace(one, source=name) for one in predictions]
        return Result(model, localizer, named, upload, _encoded(image, "JPEG"))

    def _localizer(self, model: str, refine: str | None) -> Localizer:
        if model not in self.models:
            raise unknown_name("model", model, self.models)
        base = self.models[model]
        if refine is None:
            return base
        options = PredictionOptions(refine=() if refine == NO_REFINEMENT else tuple(refine.split(",")))
        return Localizer(base.model, base.metadata, base.threshold, viewing=options, protocol=base.protocol)


def _encoded(image: Image.Image, form: str) -> bytes:
    file = io.BytesIO()
    image.save(file, form, quality=85)
    return file.getvalue()
