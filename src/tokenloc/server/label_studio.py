"""An ML backend of Label Studio, https://labelstud.io/guide/ml: predictions of tasks, and a threshold that learns.

Label Studio calls ``/setup`` and ``/predict`` when it needs predictions, and ``/webhook`` when an annotation was
submitted. The map threshold is part of the model's version, so that predictions are renewed when it changes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from tokenloc._files import exclusive_lock, remove_partial_files
from tokenloc._names import counted
from tokenloc._plain import load_json, require_types
from tokenloc.boxes import box_faults
from tokenloc.data import read_image
from tokenloc.data.annotations import parse_xml, region_box
from tokenloc.data.base import shorten
from tokenloc.export.base import valid_text
from tokenloc.export.label_studio import task_prediction
from tokenloc.inference import Localizer
from tokenloc.server.api import ErrorResponse, Service
from tokenloc.server.corrections import MOST_BOXES, MOST_CHARACTERS, Correction, Corrections
from tokenloc.server.limits import JSON_PATHS, Limits
from tokenloc.server.predict import PredictionService
from tokenloc.server.task_images import TaskImages

CORRECTIONS = "corrections.json"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Control:
    """The tags of a labeling configuration that boxes belong to.

    Attributes:
        tags: the names of ``RectangleLabels`` and ``Image``.
        key: of the image's address in the data of a task.
        labels: the names of the labels.
    """

    tags: tuple[str, str]
    key: str
    labels: frozenset[str]

    @classmethod
    def read(cls, configuration: str) -> Control:
        """Return the first ``RectangleLabels`` of an ``Image``; raise ValueError if there is none."""
        root = parse_xml(configuration)
        images = {image.get("name"): image.get("value", "") for image in root.iter("Image")}
        for control in root.iter("RectangleLabels"):
            name, image = control.get("name", ""), control.get("toName", "")
            if name and images.get(image, "").startswith("$"):
                labels = frozenset(label.get("value", "") for label in control.iter("Label"))
                return cls((name, image), images[image][1:], labels)
        raise ValueError("the labeling configuration has no RectangleLabels of an Image; add one to the project")

    def address(self, task: dict[str, Any]) -> str:
        """Return the address of a task's image."""
        require_types(task, {"id": int, "data": dict[str, Any]})
        address = task["data"].get(self.key)
        if not isinstance(address, str):
            raise ValueError(f"task {task['id']} names no image: {self.key!r:.80} of its data is {address!r:.80}")
        return address


class LabelStudioBackend:
    """Predicts boxes for tasks, and keeps the corrections.

    Args:
        name: of the model.
        images: reads the images of tasks.
        corrections: with the model and its threshold.
        limits: of an image.
    """

    def __init__(self, name: str, images: TaskImages, corrections: Corrections, limits: Limits) -> None:
        self.name = name
        self.images = images
        self.corrections = corrections
        self.limits = limits
        self._labels = [valid_text(label) for label in corrections.localizer.classes]
        self._measuring = False
        self._failed: list[Correction] = []

    @property
    def version(self) -> str:
        """The version of the model, with its threshold."""
        return f"{self.name}, threshold {self.corrections.threshold:g}"

    def control(self, configuration: str) -> Control:
        """Return the tags for boxes; raise ValueError if no label is a class of the model."""
        control = Control.read(configuration)
        if not control.labels.intersection(self._labels):
            given, classes = shorten(sorted(control.labels)), shorten(sorted(self._labels))
            raise ValueError(f"no label of the project ({given}) is a class of the model ({classes}); add such labels")
        return control

    def predict(self, content: bytes, name: str, control: Control) -> dict[str, Any]:
        """Return the prediction for an image's file; it is empty for a class that the project lacks."""
        version, threshold = self.version, self.corrections.threshold
        image = read_image(content, self.limits.max_pixels, name=name)
        record = self.corrections.localizer(image, threshold=threshold).record()
        if self._labels[record.class_index] not in control.labels:
            return {"model_version": version, "score": 0.0, "result": []}
        return task_prediction([record], self._labels, version, control.tags)

    def correction(self, event: dict[str, Any]) -> Correction:
        """Return the correction of a submitted annotation, without boxes if it was skipped or has none."""
        require_types(event, dict.fromkeys(("annotation", "task", "project"), dict[str, Any]))
        annotation, task, project = event["annotation"], event["task"], event["project"]
        require_types(project, {"id": int, "label_config": str})
        require_types(annotation, {"id": int, "result": list[dict[str, Any]], "was_cancelled": bool | None})
        control = self.control(project["label_config"])
        address = control.address(task)
        regions = [one for one in annotation["result"] if one.get("from_name") == control.tags[0]]
        found = [] if annotation.get("was_cancelled") else [_percent_box(one) for one in regions]
        label = next((label for label, _ in found if label in self._labels), "")
        boxes = [box for name, box in found if name == label and label]
        if len(boxes) > MOST_BOXES or len(address) > MOST_CHARACTERS:
            raise ValueError(f"task {task['id']}: more than {MOST_BOXES} boxes, or an image in the task itself")
        name = self.corrections.localizer.classes[self._labels.index(label)] if boxes else ""
        return Correction(project["id"], task["id"], annotation["id"], address, name, boxes)

    async def measure_pending(self, service: PredictionService) -> None:
        """Compute the IoU of new corrections, one by one; those whose image cannot be read wait for a restart."""
        if self._measuring:
            return
        self._measuring = True
        try:
            while pending := [one for one in self.corrections.pending() if one not in self._failed]:
                try:
                    content = await run_in_threadpool(self.images.read, pending[0].image)
                    async with service.turn():
                        await run_in_threadpool(self._measure, pending[0], content)
                except ValueError as error:
                    self._failed.append(pending[0])
                    _logger.warning("the correction of task %d is not used: %s", pending[0].task, error)
        except (HTTPException, OSError) as error:  # busy, or the file cannot be written: the next event tries again
            _logger.warning("corrections are not used yet: %s", error)
        finally:
            self._measuring = False

    def _measure(self, correction: Correction, content: bytes) -> None:
        self.corrections.measure(
            correction, read_image(content, self.limits.max_pixels, name=f"task {correction.task}")
        )


@contextmanager
def open_backend(
    models: Mapping[str, Localizer], images: TaskImages, folder: Path, limits: Limits
) -> Iterator[LabelStudioBackend]:
    """Yield the backend of the first model, with the corrections in a folder, which no other server can use meanwhile.

    Raises:
        ValueError, OSError: if the folder is in use or not writable, or its file is not one of corrections.
    """
    name, localizer = next(iter(models.items()))
    with exclusive_lock(folder):
        remove_partial_files(folder)
        yield LabelStudioBackend(name, images, Corrections(folder / CORRECTIONS, localizer), limits)


def _percent_box(region: dict[str, Any]) -> tuple[str, list[float]]:
    """Return the label and the box of a region, xyxy in percent of the image; raise ValueError if it is invalid."""
    try:
        label, box = region_box({**region, "original_width": 100, "original_height": 100})
    except (LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a region of rectanglelabels ({type(error).__name__}: {error})") from error
    if fault := box_faults([box], (100, 100), math.inf)[0]:
        raise ValueError(f"a box, in percent of its image, is {fault}")
    return label, list(box)


def _backend(request: Request) -> Any:
    return request.app.state.label_studio


Backend = Annotated[LabelStudioBackend, Depends(_backend)]
router = APIRouter(prefix=JSON_PATHS.rstrip("/"), responses={"4XX": {"model": ErrorResponse}}, include_in_schema=False)


async def _read(request: Request, types: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a request, with values of the ``types`` by key; raise HTTPException 400 for anything else."""
    body = await request.body()
    try:
        content = await run_in_threadpool(load_json, body)
        require_types(content, types)
    except ValueError as error:
        raise _refused(f"not a request of Label Studio: {error}") from error
    return dict(content)


def _refused(message: str) -> HTTPException:
    """Return the error 400; its message is logged, as Label Studio does not show it."""
    _logger.warning("Label Studio: %s", message)
    return HTTPException(400, message)


@router.get("/health")
async def health() -> dict[str, str]:
    """Report that the backend is up."""
    return {"status": "UP"}


@router.post("/setup")
async def setup(request: Request, backend: Backend, service: Service, tasks: BackgroundTasks) -> dict[str, str]:
    """Check the labeling configuration of a project; return the version of the model."""
    content = await _read(request, {"schema": str})
    try:
        backend.control(content["schema"])
    except ValueError as error:
        raise _refused(str(error)) from error
    tasks.add_task(backend.measure_pending, service)
    return {"model_version": backend.version}


@router.post("/predict")
async def predict(request: Request, backend: Backend, service: Service) -> dict[str, Any]:
    """Predict the boxes of tasks, an empty list for each one whose image cannot be read."""
    content = await _read(request, {"tasks": list[dict[str, Any]], "label_config": str})
    try:
        control = backend.control(content["label_config"])
        addresses = [(control.address(task), task["id"]) for task in content["tasks"]]
    except ValueError as error:
        raise _refused(str(error)) from error
    results: list[Any] = []
    faults = []
    for address, task in addresses:
        if await request.is_disconnected():
            raise HTTPException(408, "Label Studio no longer waits for the predictions")
        try:
            image = await run_in_threadpool(backend.images.read, address)
            async with service.turn():
                results.append(await run_in_threadpool(backend.predict, image, f"task {task}", control))
        except ValueError as error:
            faults.append(str(error))
            results.append([])
    if faults:
        message = f"{len(faults)} of {counted(len(results), 'image')} cannot be read; the first: {faults[0]}"
        if len(faults) == len(results):
            raise _refused(message)
        _logger.warning("Label Studio: %s", message)
    return {"results": results, "model_version": backend.version}


@router.post("/webhook")
async def webhook(request: Request, backend: Backend, service: Service, tasks: BackgroundTasks) -> dict[str, Any]:
    """Keep the correction of a submitted annotation, and forget those of deleted ones; ignore other events."""
    event = await _read(request, {"action": str})
    try:
        if event["action"] in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
            await run_in_threadpool(backend.corrections.add, backend.correction(event))
        elif event["action"] == "ANNOTATIONS_DELETED":
            require_types(event, {"annotations": list[dict[str, Any]], "project": dict[str, Any]})
            require_types(event["project"], {"id": int})
            deleted = {one["id"] for one in event["annotations"] if type(one.get("id")) is int}
            await run_in_threadpool(backend.corrections.remove, event["project"]["id"], deleted)
    except ValueError as error:
        raise _refused(str(error)) from error
    tasks.add_task(backend.measure_pending, service)
    return {"corrections": len(backend.corrections), "model_version": backend.version}
