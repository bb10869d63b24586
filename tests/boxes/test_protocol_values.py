from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from tokenloc.boxes import Frame, Protocol, get_protocol, list_protocols, threshold_grid

# The columns of the specification's table; values that are not listed are those of `standard`.
TABLE: dict[str, dict[str, Any]] = {
    "wsol-eval": {
        "upsampling": "cubic",
        "min_max": "after",
        "quantised": True,
        "threshold_of": "maximum",
        "components": "contours",
        "box_end": "inside",
        "truth_frame": "network",
        "truth_truncation": "scaled",
        "inclusive_iou": True,
        "threshold_rule": "best",
        "thresholds": tuple(np.arange(0, 1, 0.001).tolist()),
        "pixel_thresholds": None,
    },
    "ts-cam": {
        "min_max": "after",
        "quantised": True,
        "threshold_of": "maximum",
        "components": "contours",
        "empty_box": (0, 0, 1, 1),
        "truth_frame": "network",
        "truth_truncation": "both",
        "truth_clipping": "inside",
        "inclusive_iou": True,
        "threshold_rule": "fixed",
        "threshold": 0.1,
        "strict_top_k": True,
    },
    "sat": {
        "input_frame": "crop",
        "resize_ratio": 256 / 224,
        "min_max_epsilon": 1e-5,
        "empty_box": None,
        "truth_frame": "network",
        "truth_truncation": "scaled",
        "truth_clipping": "outward",
        "inclusive_iou": True,
        "threshold_rule": "best",
        "thresholds": (0.3, 0.35, 0.4, 0.45),
    },
    "scm": {
        "min_max": "after",
        "quantised": True,
        "threshold_of": "maximum",
        "components": "contours",
        "box_end": "inside",
        "truth_frame": "network",
        "truth_truncation": "both",
        "truth_clipping": "inside",
        "inclusive_iou": True,
        "threshold_rule": "best",
        "one_threshold": False,
        "map_class": "predicted",
    },
    "lctr": {
        "input_frame": "shorter_side",
        "resize_ratio": 256 / 224,
        "min_max": "after",
        "quantised": True,
        "threshold_of": "maximum",
        "components": "contours",
        "empty_box": None,
        "truth_frame": "network",
        "truth_clipping": "size",
        "threshold_rule": "fixed",
        "threshold": 0.09,
        "map_class": "predicted",
        "top5_map": "first",
    },
}
TABLE |= {
    "lctr-ilsvrc": {**TABLE["lctr"], "threshold": 0.18},
    "ts-cam-ilsvrc": {**TABLE["ts-cam"], "threshold": 0.12},
}


@pytest.mark.parametrize("name", TABLE)
def test_published_protocols_match_the_table(name: str) -> None:
    protocol, standard = get_protocol(name), get_protocol("standard")
    for field in fields(Protocol):
        if field.name not in ("name", "summary"):
            expected = TABLE[name].get(field.name, getattr(standard, field.name))
            assert getattr(protocol, field.name) == expected, field.name


def test_another_form_of_the_errors_has_another_name() -> None:
    ts_cam = get_protocol("ts-cam")
    assert ts_cam.with_errors("released") is ts_cam
    assert ts_cam.with_errors("printed").name == "ts-cam[errors as printed]"


def test_protocols_are_listed_by_wildcard() -> None:
    assert list_protocols("*s*") == ["lctr-ilsvrc", "sat", "scm", "standard", "ts-cam", "ts-cam-ilsvrc", "wsol-eval"]
    assert list_protocols("ts*") == ["ts-cam", "ts-cam-ilsvrc"]


def test_an_unknown_protocol_suggests_the_closest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown protocol 'tscam'; did you mean 'ts-cam'\? Valid: lctr, lctr-ilsvrc, sat, scm"
    ):
        get_protocol("tscam")


def test_a_changed_protocol_needs_another_name() -> None:
    with pytest.raises(ValueError, match="'sat' is the name of a published protocol that differs; choose another name"):
        replace(get_protocol("sat"), inclusive_iou=False)
    assert replace(get_protocol("sat"), name="sat, true IoU", inclusive_iou=False).name == "sat, true IoU"
    assert replace(get_protocol("sat")) == get_protocol("sat")


def test_other_thresholds_change_the_name() -> None:
    protocol = get_protocol("wsol-eval").with_thresholds(threshold_grid(0.01))
    assert protocol.name == "wsol-eval[100 thresholds, 0 to 0.99]"
    assert protocol.with_thresholds([0.1, 0.2]).name == "wsol-eval[2 thresholds, 0.1 to 0.2]"
    assert replace(protocol, name="wsol-eval", thresholds=threshold_grid(0.001)) == get_protocol("wsol-eval")
    assert get_protocol("sat").with_thresholds([0.3, 0.35, 0.4, 0.45]) is get_protocol("sat")


def test_another_class_of_the_map_changes_the_name() -> None:
    changed = get_protocol("ts-cam").with_map_class("predicted")
    assert (changed.name, changed.judged_maps) == ("ts-cam[map of the predicted class]", 5)
    assert changed.with_map_class("predicted") is changed
    assert [get_protocol(name).judged_maps for name in ("scm", "lctr", "ts-cam")] == [5, 1, None]


@pytest.mark.parametrize("step", [0, -0.1, 1.5, float("nan")])
def test_a_bad_step_is_quoted(step: float) -> None:
    with pytest.raises(ValueError, match=r"a threshold step must be in \(0, 1\], got"):
        threshold_grid(step)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"upsampling": "cubik"}, "unknown upsampling of a protocol 'cubik'; did you mean 'cubic'"),
        ({"thresholds": ()}, "expected at least one threshold, in ascending order"),
        ({"thresholds": (0.2, 0.2)}, "expected at least one threshold, in ascending order"),
        ({"pixel_thresholds": (0.5, 0.2)}, "expected at least one threshold, in ascending order"),
        ({"thresholds": (0.2, 1.2)}, r"a map threshold must be in \[0, 1\], got 1.2"),
        ({"threshold": 0.2}, "threshold_rule 'calibrated' does not match threshold 0.2"),
        ({"threshold_rule": "fixed"}, "threshold_rule 'fixed' does not match threshold None"),
        ({"threshold_rule": "fixed", "threshold": -1}, r"a map threshold must be in \[0, 1\], got -1"),
    ],
)
def test_invalid_protocols_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(get_protocol("standard"), name="mine", **change)


def test_protocols_are_hashable_values() -> None:
    mine = Protocol(name="mine", thresholds=[0.1, 0.2])
    assert mine.thresholds == (0.1, 0.2)
    assert {mine: 1}[Protocol(name="mine", thresholds=(0.1, 0.2))] == 1


def test_frames_match_the_table() -> None:
    whole, crop = get_protocol("standard"), get_protocol("sat")
    assert whole.frame((500, 375), (224, 224)) == Frame.resized((500, 375), (224, 224))
    assert crop.frame((500, 375), (224, 224)) == Frame.center_cropped((500, 375), (256, 256), (224, 224))
    assert get_protocol("lctr").frame((500, 375), (224, 224)).offset == (59, 16)
    assert crop.frame((500, 375), (448, 448)) == Frame.center_cropped((500, 375), (512, 512), (448, 448))
