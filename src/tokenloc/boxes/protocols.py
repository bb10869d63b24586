"""Protocols: how maps become boxes and how boxes are judged, each published convention as a frozen value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np

from tokenloc._names import Registry, unknown_name
from tokenloc.boxes.frame import Frame, InputFrame, Size

_PROTOCOLS: Registry[Protocol] = Registry("protocol")
ErrorForm = Literal["released", "printed"]


def threshold_grid(step: float) -> tuple[float, ...]:
    """Return all multiples of ``step`` in [0, 1), as computed by NumPy's arange (and so by the `wsol-eval` evaluator).

    >>> threshold_grid(0.25)
    (0.0, 0.25, 0.5, 0.75)
    """
    if not 0 < step <= 1:
        raise ValueError(f"a threshold step must be in (0, 1], got {step!r}")
    return tuple(np.arange(0, 1, step).tolist())


@dataclass(frozen=True)
class Protocol:
    """A convention for measuring localization; ``get_protocol`` returns the published ones.

    Args:
        name: printed with every result; a changed protocol needs another name.
        summary: one sentence on its origin.
        input_frame: the network input is a direct "resize" of the image, a centre "crop" of a larger resize, or such a
            crop of an image whose "shorter_side" is resized, in proportion.
        resize_ratio: size of the larger resize divided by that of the crop (256/224); 1 for "resize".
        upsampling: interpolation of the map to the input size, half-pixel centres.
        min_max: the map is scaled to [0, 1] "before" or "after" upsampling.
        min_max_epsilon: added to the range that the map is divided by.
        quantised: the map becomes uint8, x255 and truncated; levels are truncated to integers, too.
        threshold_of: a threshold t is the level itself ("value"), or relative to the map's "maximum": t · max. Pixels
            strictly above the level are foreground.
        components: "pixels": 8-connected components, the largest has most pixels. "contours": OpenCV's contours,
            including those of holes, the largest by the area of its polygon. Of equals the first counts, in reading
            order or in OpenCV's order of contours.
        box_end: x1, y1 are "exclusive" (x + w, y + h), or "inside" the map: at most its size - 1.
        empty_box: the box of a map without foreground, xyxy in input pixels; None for the whole map.
        truth_frame: boxes and masks are compared in "original" or in "network" (input) pixels.
        truth_truncation: ground truth is truncated to integers: "none"; "scaled", in input pixels; "both", before and
            after scaling.
        truth_clipping: of ground truth in input pixels: "none"; "inside", to 0 … size - 1; "outward", x0, y0 to at
            least 0 and x1, y1 to at most size - 1; "size", to 0 … size.
        inclusive_iou: the IoU includes the last row and column (+1).
        threshold_rule: the threshold is "fixed" (``threshold``), "calibrated" on a held-out split and then given, or
            the "best" on the evaluated set itself, an oracle.
        threshold: the fixed threshold in [0, 1]; None for the other rules.
        thresholds: the ascending grid in [0, 1] among which the best (oracle) threshold is chosen.
        pixel_thresholds: the grid of the pixel metrics; None for ``thresholds``.
        one_threshold: the best threshold is that of GT-known; False: GT-known, GT(δ) and each Top-k Loc have their own.
        map_class: GT-known and the metrics beside it judge the map of the "true" class or of the first "predicted" one.
        top5_map: Top-5 Loc judges the true class's "own" map, or that of the "first" predicted class.
        strict_top_k: Top-k Loc needs IoU > 0.5; False: IoU ≥ 0.5, as GT-known and MaxBoxAcc always do.
        errors: TS-CAM's error categories by its "released" code or its "printed" Algorithm 1; ``error_categories``.

    Raises:
        ValueError: if a choice is unknown, a threshold is out of range, or the name is that of another protocol.
    """

    name: str
    summary: str = ""
    input_frame: InputFrame = "resize"
    resize_ratio: float = 1.0
    upsampling: Literal["bilinear", "cubic"] = "bilinear"
    min_max: Literal["before", "after"] = "before"
    min_max_epsilon: float = 0.0
    quantised: bool = False
    threshold_of: Literal["value", "maximum"] = "value"
    components: Literal["pixels", "contours"] = "pixels"
    box_end: Literal["exclusive", "inside"] = "exclusive"
    empty_box: tuple[int, int, int, int] | None = (0, 0, 0, 0)
    truth_frame: Literal["original", "network"] = "original"
    truth_truncation: Literal["none", "scaled", "both"] = "none"
    truth_clipping: Literal["none", "inside", "outward", "size"] = "none"
    inclusive_iou: bool = False
    threshold_rule: Literal["calibrated", "fixed", "best"] = "calibrated"
    threshold: float | None = None
    thresholds: tuple[float, ...] = threshold_grid(0.01)
    pixel_thresholds: tuple[float, ...] | None = threshold_grid(0.001)
    one_threshold: bool = True
    map_class: Literal["true", "predicted"] = "true"
    top5_map: Literal["own", "first"] = "own"
    strict_top_k: bool = False
    errors: ErrorForm = "released"

    def __post_init__(self) -> None:
        """Validate; thresholds become tuples, so that protocols are hashable."""
        for field, type_ in get_type_hints(Protocol).items():
            if get_origin(type_) is Literal and getattr(self, field) not in get_args(type_):
                raise unknown_name(f"{field} of a protocol", getattr(self, field), get_args(type_))
        object.__setattr__(self, "thresholds", _checked_grid(self.thresholds))
        if self.pixel_thresholds is not None:
            object.__setattr__(self, "pixel_thresholds", _checked_grid(self.pixel_thresholds))
        if (self.threshold_rule == "fixed") != (self.threshold is not None):
            raise ValueError(
                f"threshold_rule {self.threshold_rule!r} does not match threshold {self.threshold}: "
                "only the rule 'fixed' has a threshold"
            )
        if self.threshold is not None:
            checked_threshold(self.threshold)
        if self.name in _PROTOCOLS.names() and self != _PROTOCOLS[self.name]:
            raise ValueError(
                f"{self.name!r} is the name of a published protocol that differs; choose another name for the changed "
                f"one, for example {self.name + '-changed'!r}"
            )

    def with_thresholds(self, thresholds: Iterable[float]) -> Protocol:
        """Return this protocol with another grid of thresholds, and a name that states it.

        >>> get_protocol("sat").with_thresholds([0.2, 0.4]).name
        'sat[2 thresholds, 0.2 to 0.4]'
        """
        grid = _checked_grid(thresholds)
        if grid == self.thresholds:
            return self
        name = f"{self.name.split('[')[0]}[{len(grid)} thresholds, {grid[0]:g} to {grid[-1]:g}]"
        return replace(self, name=name, thresholds=grid)

    def with_map_class(self, map_class: Literal["true", "predicted"]) -> Protocol:
        """Return this protocol with GT-known of another class's map, and a name that states it.

        >>> get_protocol("ts-cam").with_map_class("predicted").name
        'ts-cam[map of the predicted class]'
        """
        if map_class == self.map_class:
            return self
        return replace(self, name=f"{self.name}[map of the {map_class} class]", map_class=map_class)

    def with_errors(self, form: ErrorForm) -> Protocol:
        """Return this protocol with another form of the error categories, and a name that states it."""
        return self if form == self.errors else replace(self, name=f"{self.name}[errors as {form}]", errors=form)

    @property
    def judged_maps(self) -> int | None:
        """How many predicted classes' maps a score needs; None if it needs the true class's map."""
        return None if self.map_class == "true" else 5 if self.top5_map == "own" else 1

    def frame(self, original_size: Size, input_size: Size) -> Frame:
        """Return the frame of an image under this protocol; sizes are (width, height)."""
        width, height = input_size
        resized = (round(width * self.resize_ratio), round(height * self.resize_ratio))
        return Frame.of(self.input_frame, original_size, resized, input_size)


def get_protocol(name: str) -> Protocol:
    """Return the protocol of that name: one of ``list_protocols()``.

    Raises:
        ValueError: for an unknown name; lists the valid ones and the closest.
    """
    return _PROTOCOLS[name]


def list_protocols(pattern: str | None = None) -> list[str]:
    """Return the names of the protocols, sorted; ``pattern`` is a shell wildcard.

    >>> list_protocols()
    ['lctr', 'lctr-ilsvrc', 'sat', 'scm', 'standard', 'ts-cam', 'ts-cam-ilsvrc', 'wsol-eval']
    """
    return _PROTOCOLS.names(pattern)


def checked_threshold(threshold: float) -> float:
    """Return ``threshold`` as a float; raise ValueError if it is not in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"a map threshold must be in [0, 1], got {threshold!r}")
    return float(threshold)


def _checked_grid(thresholds: Iterable[float]) -> tuple[float, ...]:
    grid = tuple(checked_threshold(threshold) for threshold in thresholds)
    if not grid or any(high <= low for low, high in pairwise(grid)):
        raise ValueError(f"expected at least one threshold, in ascending order, got {grid}")
    return grid


for _protocol in (
    Protocol(
        name="standard",
        summary="tokenloc's own: original pixels, half-open boxes, exact IoU, a threshold calibrated on other images.",
    ),
    Protocol(
        name="wsol-eval",
        summary="The released evaluator of Choe et al. (CVPR 2020).",
        upsampling="cubic",
        min_max="after",
        quantised=True,
        threshold_of="maximum",
        components="contours",
        box_end="inside",
        truth_frame="network",
        truth_truncation="scaled",
        inclusive_iou=True,
        threshold_rule="best",
        thresholds=threshold_grid(0.001),
        pixel_thresholds=None,
    ),
    Protocol(
        name="ts-cam",
        summary="The release of TS-CAM; the threshold is for CUB.",
        min_max="after",
        quantised=True,
        threshold_of="maximum",
        components="contours",
        empty_box=(0, 0, 1, 1),
        truth_frame="network",
        truth_truncation="both",
        truth_clipping="inside",
        inclusive_iou=True,
        threshold_rule="fixed",
        threshold=0.10,
        strict_top_k=True,
    ),
    Protocol(
        name="sat",
        summary="The releases of SAT, BAS and PSOL.",
        input_frame="crop",
        resize_ratio=256 / 224,
        min_max_epsilon=1e-5,
        empty_box=None,
        truth_frame="network",
        truth_truncation="scaled",
        truth_clipping="outward",
        inclusive_iou=True,
        threshold_rule="best",
        thresholds=(0.30, 0.35, 0.40, 0.45),
    ),
    Protocol(
        name="scm",
        summary="The release of SCM: the map of the predicted class, each metric at its own best threshold.",
        min_max="after",
        quantised=True,
        threshold_of="maximum",
        components="contours",
        box_end="inside",
        truth_frame="network",
        truth_truncation="both",
        truth_clipping="inside",
        inclusive_iou=True,
        threshold_rule="best",
        one_threshold=False,
        map_class="predicted",
    ),
    Protocol(
        name="lctr",
        summary="The release of LCTR: the map of the predicted class; the threshold is for CUB.",
        input_frame="shorter_side",
        resize_ratio=256 / 224,
        min_max="after",
        quantised=True,
        threshold_of="maximum",
        components="contours",
        empty_box=None,
        truth_frame="network",
        truth_clipping="size",
        threshold_rule="fixed",
        threshold=0.09,
        map_class="predicted",
        top5_map="first",
    ),
):
    _PROTOCOLS.add(_protocol.name, _protocol)

for _name, _threshold in (("ts-cam", 0.12), ("lctr", 0.18)):
    _summary = f"Like {_name}, with the threshold for ILSVRC."
    _ilsvrc = replace(_PROTOCOLS[_name], name=f"{_name}-ilsvrc", summary=_summary, threshold=_threshold)
    _PROTOCOLS.add(_ilsvrc.name, _ilsvrc)
