"""Predictions on uploaded images, and results that stay in memory for a short time."""

from __future__ import annotations

import asyncio
import io
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fastapi import HTTPException, UploadFile
from fastapi.concurrency import run_in_threadpool

from tokenloc._names import unknown_name
from tokenloc.data import read_image
from tokenloc.inference import Localization, Localizer
from tokenloc.inference.localization import Objects
from tokenloc.server.limits import Limits

MAX_CLASSES = 10
PREVIEW_SIDE = 960
KEEP_SECONDS = 600.0
MAX_KEPT_BYTES = 256_000_000


@dataclass(frozen=True, eq=False)
class Result:
    """What a model predicts for an uploaded file: one localization per class, the most probable first."""

    model: str
    localizer: Localizer
    predictions: list[Localization]  # their source is the name of the file
    upload: bytes
    preview: bytes  # JPEG of the upright image, at most PREVIEW_SIDE pixels on its longer side

    @property
    def nbytes(self) -> int:
        """Approximate size in memory, in bytes."""
        return len(self.upload) + len(self.preview) + sum(5 * one.map.size for one in self.predictions)

    def at(self, threshold: float | None, objects: Objects) -> Result:
        """Return the result at a threshold on the map, in [0, 1]; None for the model's own."""
        threshold = self.localizer.threshold if threshold is None else threshold
        return replace(self, predictions=[one.at_threshold(threshold, objects) for one in self.predictions])


class PredictionService:
    """Runs models on uploaded images, one image at a time since a network uses all cores."""

    def __init__(self, models: Mapping[str, Localizer], limits: Limits, scratch: Path | None = None) -> None:
        self.models = dict(models)
        self.limits = limits
        self.scratch = scratch  # for temporary files
        self._kept: dict[tuple[str, str], Result] = {}  # by session and token
        self._network = asyncio.Lock()
        self._unfinished = 0

    async def predict(self, image: UploadFile, name: str, model: str, top_k: int, refine: str) -> Result:
        """Predict a class and boxes for an upload called ``name``, which is read into memory when its turn comes.

        Raises:
            HTTPException: 503 if too many others wait, 413 if the file is too large, 422 for an unreadable image or an
                unknown name.
        """
        async with self.turn():
            upload = await image.read()
            if len(upload) > self.limits.max_bytes:
                raise HTTPException(413, f"the image is too large; the limit is {self.limits.max_bytes / 1e6:g} MB")
            return await run_in_threadpool(self._predict, upload, name, model, top_k, refine)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until no other request uses a network; raise HTTPException 503 if too many wait already."""
        if self._unfinished > self.limits.max_queue:
            message = f"the server is busy: {self.limits.max_queue} requests are waiting; try again later"
            raise HTTPException(503, message, {"Retry-After": "5"})
        self._unfinished += 1
        try:
            async with self._network:
                yield
        finally:
            self._unfinished -= 1

    def _predict(self, upload: bytes, name: str, model: str, top_k: int, refine: str) -> Result:
        model = model or next(iter(self.models))
        try:
            if model not in self.models:
                raise unknown_name("model", model, self.models)
            if not re.fullmatch(r"[\w@.,]*", refine):
                raise ValueError(f"refine takes the names of steps, comma-separated; got {refine[:80]!r}")
            base = self.models[model]
            options = replace(base.options, refine=(refine,) if refine else base.options.refine)
            localizer = Localizer(base.model, base.metadata, base.threshold, options=options, protocol=base.protocol)
            image = read_image(upload, self.limits.max_pixels, name=name)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        predictions = localizer.top(image, min(top_k, localizer.model.num_classes))
        image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        preview = io.BytesIO()
        image.save(preview, "JPEG", quality=85)
        named = [replace(one, source=name, image=None) for one in predictions]
        return Result(model, localizer, named, upload, preview.getvalue())

    def keep(self, session: str, result: Result) -> str:
        """Keep a result for ``KEEP_SECONDS``, within ``MAX_KEPT_BYTES``; return a secret token. Needs an event loop."""
        token = new_secret()
        self._kept[session, token] = result
        asyncio.get_running_loop().call_later(KEEP_SECONDS, self._kept.pop, (session, token), None)
        while len(self._kept) > 1 and sum(one.nbytes for one in self._kept.values()) > MAX_KEPT_BYTES:
            self._kept.pop(next(iter(self._kept)))
        return token

    def kept(self, session: str, token: str) -> Result:
        """Return a kept result; raise HTTPException 404 if it has expired or belongs to another session."""
        if (result := self._kept.get((session, token))) is None:
            expired = f"no such result; results expire after {KEEP_SECONDS:g} s, and belong to the session that sent"
            raise HTTPException(404, f"{expired} the image: send the image again")
        return result


def new_secret() -> str:
    """Return the unguessable id of a session or a result."""
    return secrets.token_urlsafe(24)
