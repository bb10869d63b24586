"""CVAT: an auto-annotation function, https://docs.cvat.ai/docs/api_sdk/sdk/auto-annotation.

``cvat-cli task auto-annotate`` takes it as ``--function-module tokenloc.export.cvat``, or this file as
``--function-file``; ``cvat_sdk.auto_annotation.annotate_task`` takes what ``create`` returns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL import Image

from tokenloc._extras import library
from tokenloc.data.base import BACKGROUND
from tokenloc.export.base import rounded_boxes, valid_text
from tokenloc.inference import Localizer

if TYPE_CHECKING:
    from cvat_sdk.auto_annotation import DetectionFunctionContext, DetectionFunctionSpec
    from cvat_sdk.models import LabeledShapeRequest


class DetectionFunction:
    """Detects objects with a ``Localizer``: rectangles of the most probable class of each image."""

    def __init__(self, localizer: Localizer) -> None:
        self.localizer = localizer
        self._cvat = library("cvat_sdk.auto_annotation", "cvat")

    @property
    def spec(self) -> DetectionFunctionSpec:
        """A label for each class of the model that has boxes, with the class's index as its id."""
        labels = [
            self._cvat.label_spec(valid_text(name), index, type="rectangle")
            for index, name in enumerate(self.localizer.classes)
            if name != BACKGROUND
        ]
        return self._cvat.DetectionFunctionSpec(labels=labels)

    def detect(self, context: DetectionFunctionContext, image: Image.Image) -> list[LabeledShapeRequest]:
        """Return the boxes of an image whose confidence is at least ``context.conf_threshold``, with it as the score.

        Corners are x0, y0, x1, y1 in pixels of the upright image, half-open.
        """
        result = self.localizer(image)
        least = context.conf_threshold or 0.0
        scored = zip(rounded_boxes(result.record()), result.confidence.tolist(), strict=True)
        return [
            self._cvat.rectangle(result.class_index, list(box), score=confidence)
            for box, confidence in scored
            if confidence >= least
        ]


def create(checkpoint: str, **options: Any) -> DetectionFunction:
    """Return the function of a checkpoint; CVAT passes the parameters ``-p NAME=TYPE:VALUE`` on.

    Args:
        checkpoint: see ``Localizer.from_checkpoint``.
        options: further arguments of it, such as ``device``, ``threshold``, ``objects`` and ``min_score``.

    Raises:
        FileNotFoundError, ValueError: if the checkpoint is missing or invalid, or an option is.
        ImportError: if cvat-sdk is not installed.
    """
    return DetectionFunction(Localizer.from_checkpoint(checkpoint, **options))
