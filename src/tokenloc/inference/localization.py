"""The result type of tokenloc: one class in one image and its location."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenloc._extras import library
from tokenloc.boxes import Frame, box_faults, detect_boxes, get_protocol
from tokenloc.boxes.iou import box_areas
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.data.base import BACKGROUND
from tokenloc.inference.inputs import ImageInput, as_image

if TYPE_CHECKING:
    from pandas import DataFrame
    from supervision import Detections

Objects = Literal["largest", "all"]  # the components that get a box
WHOLE = 0.9  # fraction of an image from which on a box covers it: such a box locates nothing


def box_count(label: str, objects: Objects) -> int | None:
    """Return how many components of a map get a box, the largest first; None for all of them."""
    return 0 if label == BACKGROUND else 1 if objects == "largest" else None


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalizationRecord:
    """A localization without its map and mask: what files store.

    Attributes:
        source: the path of the image, or another name for it.
        class_index: of ``label`` among the checkpoint's classes.
        score: softmax probability of the class, in [0, 1].
        boxes: [N, 4] float64 xyxy, original pixels, half-open, origin top left; the largest component first.
        confidence: [N] float64 in [0, 1], one per box, see ``tokenloc.boxes.box_confidence``.
        size: (width, height) of the image in pixels.
        threshold: on the map, in [0, 1].
    """

    source: str
    label: str
    class_index: int
    score: float
    boxes: NDArray[np.float64]
    confidence: NDArray[np.float64]
    size: tuple[int, int]
    threshold: float
    protocol: str

    @property
    def first_confidence(self) -> float:
        """The confidence of the first box, which defines the review order.

        Without a box it is 0, and for ``BACKGROUND``, which never has one, the score.
        """
        if self.label == BACKGROUND:
            return self.score
        return float(self.confidence[0]) if len(self.confidence) else 0.0

    @property
    def covers_image(self) -> bool:
        """Whether the first box has at least ``WHOLE`` of the image's area."""
        width, height = self.size
        return len(self.boxes) > 0 and float(box_areas(self.boxes[:1])[0]) >= WHOLE * width * height

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, rounded for reading, as in ``localizations.json``."""
        return {
            "file": self.source,
            "width": self.size[0],
            "height": self.size[1],
            "label": self.label,
            "class_index": self.class_index,
            "score": round(self.score, 6),
            "boxes": self.boxes.round(2).tolist(),
            "confidence": self.confidence.round(6).tolist(),
            "threshold": round(self.threshold, 6),
            "protocol": self.protocol,
        }

    def to_huggingface(self) -> list[dict[str, Any]]:
        """Return the boxes as the object-detection pipeline of transformers does, with corners in whole pixels.

        The score of a box is that of its class.
        """
        names = ("xmin", "ymin", "xmax", "ymax")
        corners = self.boxes.round().astype(int).tolist()
        boxes = (dict(zip(names, box, strict=True)) for box in corners)
        return [{"score": self.score, "label": self.label, "box": box} for box in boxes]

    def to_supervision(self) -> Detections:
        """Return the boxes as ``supervision.Detections``, with ``class_name`` and the class's ``score`` in ``data``.

        The confidence is that of the box. Raises ImportError if supervision is not installed.
        """
        count = len(self.boxes)
        return library("supervision").Detections(
            xyxy=self.boxes.copy(),
            confidence=self.confidence.copy(),
            class_id=np.full(count, self.class_index),
            data={"class_name": np.full(count, self.label), "score": np.full(count, self.score)},
        )

    def to_pandas(self) -> DataFrame:
        """Return a table with a row for each box; see ``tokenloc.export.to_pandas``, which takes many results."""
        from tokenloc.export import to_pandas  # imports this module

        return to_pandas([self])


@dataclass(frozen=True, eq=False, kw_only=True)
class Localization(LocalizationRecord):
    """One class in one image and its location, with the map; ValueError if a field contradicts its description.

    Attributes:
        map: [h, w] float32 in [0, 1], min-max scaled, in input pixels.
        mask: [h, w] bool in input pixels, the components that have a box.
        frame: between input and original pixels.
        image: the image as it was given, if it has no file to read it from again; None if it is not kept.
    """

    size: tuple[int, int] = field(init=False)
    map: NDArray[np.float32] = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    frame: Frame = field(repr=False)
    image: ImageInput | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.frame.original_size)
        boxes = np.asarray(self.boxes, dtype=np.float64).reshape(-1, 4)
        faults = [fault for fault in box_faults(boxes, self.frame.original_size) if fault]
        if faults:
            raise ValueError(f"boxes of {self.source}: {'; '.join(faults)}")
        confidence = np.asarray(self.confidence, dtype=np.float64)
        if confidence.shape != boxes.shape[:1] or not ((confidence >= 0) & (confidence <= 1)).all():
            raise ValueError(f"confidence of {self.source} must be one number in [0, 1] per box ({len(boxes)} boxes)")
        for name, array in (("boxes", boxes), ("confidence", confidence)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        for name in ("score", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} of {self.source} must lie in [0, 1]; got {getattr(self, name)}")
        if self.map.ndim != 2 or self.map.shape != self.mask.shape:
            shapes = f"{self.map.shape} and {self.mask.shape}"
            raise ValueError(f"map and mask of {self.source} must be [h, w] of one size; got {shapes}")
        if not (np.isfinite(self.map).all() and self.map.min() >= 0 and self.map.max() <= 1):
            raise ValueError(f"the map of {self.source} must be finite and lie in [0, 1]")

    def with_image(self, image: ImageInput) -> Localization:
        """Return this localization with its ``image``, unless that is a file, which can be read again."""
        return self if isinstance(image, (str, Path)) else replace(self, image=image)

    def confident(self, least: float) -> Localization:
        """Return this localization without the boxes whose confidence is below ``least``, and what they alone hold."""
        kept = self.confidence >= least
        if kept.all():
            return self
        mask = np.zeros_like(self.mask)
        for x0, y0, x1, y1 in self.frame.to_input(self.boxes[kept]).round().astype(int).tolist():
            mask[max(y0, 0) : y1, max(x0, 0) : x1] = True
        return replace(self, boxes=self.boxes[kept], confidence=self.confidence[kept], mask=mask & self.mask)

    def map_on_image(self) -> NDArray[np.float32]:
        """Return the map in original pixels, [height, width] in [0, 1]; 0 outside the network input."""
        return self.frame.map_to_original(self.map)

    def mask_on_image(self) -> NDArray[np.bool_]:
        """Return the mask in original pixels, [height, width]."""
        return self.frame.map_to_original(self.mask.astype(np.float32)) > 0.5

    def at_threshold(self, threshold: float, objects: Objects = "largest") -> Localization:
        """Return this localization at another threshold in [0, 1], from its map; its confidence is without evidence."""
        count = box_count(self.label, objects)
        protocol, threshold = get_protocol(self.protocol), checked_threshold(threshold)
        found = detect_boxes(self.map, self.score, self.frame, protocol, threshold, count)
        return replace(self, **found._asdict(), threshold=threshold)

    def plot(self, image: ImageInput | None = None, heatmap: bool = True) -> Image.Image:
        """Return the image with the boxes, beside its heatmap unless that is False, at most 1600 pixels long each.

        ``image`` is needed only for results of ``stream`` and ``predict`` on images in memory, which are not kept.
        Raises FileNotFoundError if the image is neither given nor kept nor at ``source``, ValueError if it is broken.
        """
        from tokenloc.reporting.drawing import draw_localization  # loads matplotlib

        image = self.image if image is None else image
        if image is None and not Path(self.source).is_file():
            raise FileNotFoundError(f"{self.source}: no such file, and the image is not kept; give it: plot(image)")
        return draw_localization(as_image(self.source if image is None else image), self, with_map=heatmap)

    def show(self) -> None:
        """Open ``plot()`` in the system's image viewer."""
        self.plot().show()

    def save(self, path: str | Path) -> None:
        """Write ``plot()`` to a file; the suffix chooses the format."""
        from tokenloc.reporting.drawing import save_image

        save_image(self.plot(), path)

    def _repr_png_(self) -> bytes | None:
        """Return ``plot()`` for notebooks; None, which shows the text, if the image cannot be read."""
        file = io.BytesIO()
        try:
            self.plot().save(file, "PNG")
        except (OSError, ValueError):
            return None
        return file.getvalue()

    def record(self) -> LocalizationRecord:
        """Return this localization without its map and mask."""
        return LocalizationRecord(**{each.name: getattr(self, each.name) for each in fields(LocalizationRecord)})


@dataclass(frozen=True, eq=False)
class Prediction:
    """The localizations of one image, the most probable class first, and the upright RGB image, reduced, if kept."""

    results: list[Localization]
    image: Image.Image | None = None
