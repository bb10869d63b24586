"""The one result type between the stations: what a model found in one image."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenloc.boxes import Frame, box_faults


@dataclass(frozen=True, eq=False, kw_only=True)
class LocalizationRecord:
    """What files hold of a localization: all but its map and mask, so that any number of them can be kept.

    Attributes:
        source: the image's path, or what else names it.
        label: class name.
        class_index: its index among the checkpoint's classes.
        score: softmax probability of the class, in [0, 1].
        boxes: [N, 4] float64 xyxy, original pixels, half-open, origin top left; the largest component's box first.
        confidence: [N] float64 in [0, 1]: how far each box can be confident, see ``tokenloc.boxes.box_confidence``.
        size: (width, height) of the image in pixels.
        threshold: on the map, in [0, 1].
        protocol: name of the protocol by which boxes were taken from the map.
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
        """The confidence of the first box, by which images are sorted; 0 where there is no box."""
        return float(self.confidence[0]) if len(self.confidence) else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``localizations.json``, rounded for people."""
        return {
            "file": self.source,
            "width": self.size[0],
            "height": self.size[1],
            "label": self.label,
            "class_index": self.class_index,
            "score": round(self.score, 6),
            "boxes": self.boxes.round(2).tolist(),
            "confidence": self.confidence.round(6).tolist(),
            "threshold": self.threshold,
            "protocol": self.protocol,
        }


@dataclass(frozen=True, eq=False, kw_only=True)
class Localization(LocalizationRecord):
    """One class in one image, and where it is: a finding with its map. Validated at construction.

    Attributes:
        size: follows from ``frame``.
        map: [h, w] float32 in [0, 1], min-max scaled, on the input pixels.
        mask: [h, w] bool on the input pixels: where the map exceeds the threshold and a box was drawn.
        frame: how the input pixels lie on the image.

    Raises:
        ValueError: where a field contradicts its description.
    """

    size: tuple[int, int] = field(init=False)
    map: NDArray[np.float32]
    mask: NDArray[np.bool_]
    frame: Frame

    def __post_init__(self) -> None:
        """Check every field once, so that no later station needs to."""
        object.__setattr__(self, "size", self.frame.original_size)
        boxes = np.asarray(self.boxes, dtype=np.float64).reshape(-1, 4)
        faults = [fault for fault in box_faults(boxes, self.frame.original_size) if fault]
        if faults:
            raise ValueError(f"boxes of {self.source}: {'; '.join(faults)}")
        confidence = np.asarray(self.confidence, dtype=np.float64)
        if confidence.shape != boxes.shape[:1] or not ((confidence >= 0) & (confidence <= 1)).all():
            raise ValueError(
                f"confidence of {self.source} must be one number in [0, 1] for each of its {len(boxes)} boxes"
            )
        for name, array in (("boxes", boxes), ("confidence", confidence)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        for name in ("score", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} of {self.source} must lie in [0, 1]; got {getattr(self, name)}")
        if self.map.ndim != 2 or self.map.shape != self.mask.shape:
            raise ValueError(
                f"map and mask of {self.source} must be [h, w] of one size; got {self.map.shape} and {self.mask.shape}"
            )
        if not (np.isfinite(self.map).all() and self.map.min() >= 0 and self.map.max() <= 1):
            raise ValueError(f"the map of {self.source} must be finite and lie in [0, 1]")

    def map_on_image(self) -> NDArray[np.float32]:
        """Return the map on the image's own pixels, [height, width] in [0, 1]; 0 where the network did not look."""
        return self.frame.map_to_original(self.map)

    def mask_on_image(self) -> NDArray[np.bool_]:
        """Return the mask on the image's own pixels, [height, width]."""
        return self.frame.map_to_original(self.mask.astype(np.float32)) > 0.5

    def finding(self) -> LocalizationRecord:
        """Return what stays of it without its arrays."""
        return LocalizationRecord(**{kept.name: getattr(self, kept.name) for kept in fields(LocalizationRecord)})
