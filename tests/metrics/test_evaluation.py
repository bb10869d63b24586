from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenloc._files import write_json
from tokenloc.boxes import Frame, Protocol, get_protocol
from tokenloc.metrics import Evaluation, ImageScores, Scorer, evaluate

GRID = Protocol(name="three thresholds", thresholds=(0.2, 0.4, 0.6), pixel_thresholds=(0.0, 0.5))
STRICT = replace(GRID, name="strict", strict_top_k=True)
FIXED = replace(GRID, name="fixed", threshold_rule="fixed", threshold=0.3)
CORRECT, CLASSIFICATION, PART = 0, 1, 3


def image(
    label: int = 0,
    predicted: tuple[int, ...] = (0, 1, 2, 3, 4),
    largest: tuple[float, ...] | None = (0.95, 0.5, 0.1),
    any_: tuple[float, ...] | None = None,
    error: int = CORRECT,
    **others: Any,
) -> ImageScores:
    """An image with the given IoU at each threshold; None for one without ground truth."""
    iou = np.array(largest or ())
    return ImageScores(
        **{
            "id": "a.jpg",
            "label": label,
            "frame": Frame.identity((10, 10)),
            "predicted": np.array(predicted),
            "probability": None,
            "confidence": None,
            "truth": np.zeros((int(largest is not None), 4)),
            "dropped_boxes": 0,
            "object_fraction": 0.3,
            "boxes": np.zeros((len(iou), 4), np.int16),
            "largest": iou,
            "any": np.array(any_ or iou),
            "errors": np.full(len(iou), error, np.int8),
            "constant": np.array([0.4, 0.75]) if largest else np.zeros(0),
            "pixels": np.zeros((2, 0), np.int64),
            **others,
        }
    )


def evaluated(*images: ImageScores, protocol: Protocol = GRID, threshold: float | None = None) -> Evaluation:
    return evaluate(images, Scorer(protocol, threshold))


FOUR = (
    image(largest=(0.95, 0.5, 0.1)),
    image(predicted=(1, 0), largest=(0.6, 0.7, 0.2), any_=(0.9, 0.7, 0.75), error=CLASSIFICATION),
    image(predicted=(1, 2), largest=(0.3, 0.85, 0.4), error=CLASSIFICATION),
    image(predicted=(1, 2, 3, 4, 5, 0), largest=None),
)


def test_classification_counts_all_images_localization_those_with_boxes() -> None:
    result = evaluated(*FOUR)
    assert (result.images, result.images_with_boxes, result.images_with_masks) == (4, 3, 0)
    assert (result.top1_cls, result.top5_cls) == (25, 50)  # the sixth class is not among the top five
    assert result.gt_known == 100
    assert (result.top1_loc, result.top5_loc) == pytest.approx((100 / 3, 200 / 3))
    assert result == evaluated(*FOUR[::-1])


def test_without_a_fixed_threshold_the_best_on_the_set_is_used_and_named() -> None:
    result = evaluated(*FOUR)
    assert result.threshold == 0.4
    assert result.threshold_source == "best on the evaluated set (oracle)"
    assert result.box_acc == pytest.approx({"0.3": 100, "0.5": 100, "0.7": 200 / 3, "0.8": 100 / 3, "0.9": 0})
    assert result.oracle.threshold == 0.4
    assert result.curve["threshold"] == [0.2, 0.4, 0.6]
    assert result.curve["0.5"] == pytest.approx([200 / 3, 100, 0])
    # Each level has its own best threshold: at 0.9 the lowest one hits once.
    assert result.oracle.box_acc == pytest.approx(
        {"0.3": 100, "0.5": 100, "0.7": 200 / 3, "0.8": 100 / 3, "0.9": 100 / 3}
    )


def test_a_fixed_threshold_is_used_and_the_oracle_is_reported() -> None:
    fixed = [
        image(largest=(0.9, 0.6, 0.1, 0.55)),
        image(predicted=(1, 0), largest=(0.1, 0.6, 0.1, 0.2), error=CLASSIFICATION),
    ]
    result = evaluated(*fixed, threshold=0.3)
    assert (result.threshold, result.threshold_source) == (0.3, "given")
    assert (result.gt_known, result.top1_loc, result.top5_loc) == (50, 50, 50)
    assert result.box_acc == {"0.3": 50, "0.5": 50, "0.7": 0, "0.8": 0, "0.9": 0}
    assert (result.oracle.threshold, result.oracle.gt_known) == (0.4, 100)
    assert (result.oracle.top1_loc, result.oracle.top5_loc) == (50, 100)
    # The fixed threshold is not a candidate for the best one.
    assert result.max_box_acc_v1 == 100
    assert evaluated(*fixed, protocol=FIXED).threshold_source == "protocol"
    assert evaluated(*fixed, protocol=FIXED, threshold=0.35).threshold_source == "given"
    assert len(result.curve["threshold"]) == 3


def test_max_box_acc_variants_differ() -> None:
    result = evaluated(*FOUR)
    assert result.max_box_acc_v1 == 100
    assert result.max_box_acc_v2 == result.max_box_acc_v2_largest == pytest.approx((100 + 100 + 200 / 3) / 3)
    assert evaluated(image(largest=(0.1, 0.1, 0.1), any_=(0.1, 0.75, 0.1))).max_box_acc_v2 == 100
    two = evaluated(
        image(largest=(0.3, 0.5, 0.2), any_=(0.3, 0.7, 0.2)),
        image(largest=(0.3, 0.2, 0.7)),
    )
    assert two.max_box_acc_v2 == two.max_box_acc_v2_largest == pytest.approx((100 + 50 + 50) / 3)
    assert two.max_box_acc_v2_one_threshold == pytest.approx((50 + 50 + 50) / 3)
    assert evaluated(image(largest=(0.1, 0.6, 0.9))).threshold == 0.4  # the lowest of equals


def test_the_threshold_of_sats_release_has_the_best_gt_known_plus_top1_loc() -> None:
    """At 0.2 GT-known is 3 of 5 and Top-1 Loc 0; at 0.4 both are 2 of 5."""
    right = [image(largest=(0.1, iou, 0.1)) for iou in (0.75, 0.55)]
    wrong = [image(predicted=(1, 0), largest=(0.6, 0.1, 0.1))] * 3
    result = evaluate(right + wrong, Scorer(GRID, best="gt_known_plus_top1_loc"))
    assert (result.threshold, result.gt_known, result.top1_loc) == (0.4, 40, 40)
    assert result.threshold_source == "best GT-known + Top-1 Loc on the evaluated set (oracle)"
    assert result.gt_known_plus_top1_loc == 80
    assert result.box_acc_mean == pytest.approx((40 + 40 + 20) / 3)  # of IoU 0.3, 0.5, 0.7
    assert (result.oracle.threshold, result.oracle.gt_known) == (0.2, 60)
    assert evaluated(*right, *wrong).threshold == 0.2
    with pytest.raises(ValueError, match=r"best threshold.*'top1'"):
        Scorer(GRID, best="top1")


def test_the_protocol_decides_on_top_k_at_iou_one_half() -> None:
    images = [image(largest=(0.5, 0.4, 0.3))]
    lenient, strict = evaluated(*images), evaluated(*images, protocol=STRICT)
    assert (lenient.gt_known, lenient.top1_loc, lenient.max_box_acc_v1) == (100, 100, 100)
    assert (strict.gt_known, strict.top1_loc, strict.max_box_acc_v1) == (100, 0, 100)


def test_errors_are_fractions_of_the_images_with_boxes() -> None:
    result = evaluated(*FOUR, image(error=PART))
    expected = {"correct": 25, "classification": 50, "multi_instance": 0, "part": 25, "more": 0, "other": 0}
    assert result.errors == expected


def test_constant_boxes_are_measured_on_the_images_with_boxes() -> None:
    result = evaluated(*FOUR, image(constant=np.array([0.95, 0.2])))
    assert result.constant_boxes == {
        "centre 70 % box": {"0.3": 100, "0.5": 25, "0.7": 25, "0.8": 25, "0.9": 25},
        "whole-image box": {"0.3": 75, "0.5": 75, "0.7": 75, "0.8": 0, "0.9": 0},
    }
    assert evaluated(image(largest=None)).constant_boxes == {}


def test_pixel_metrics_need_masks_and_box_metrics_boxes() -> None:
    pixels = np.array([[2, 0, 0, 0], [1, 3, 0, 0]])
    masks_only = evaluated(image(largest=None, pixels=pixels))
    assert masks_only.images_with_masks == 1
    assert masks_only.pxap == pytest.approx(100 * (0.75 + 0.25 * 4 / 6))
    assert masks_only.piou == 75
    for name in ("gt_known", "top1_loc", "box_acc", "max_box_acc_v1", "max_box_acc_v2", "errors", "threshold"):
        assert getattr(masks_only, name) is None, name
    boxes_only = evaluated(*FOUR)
    assert (boxes_only.pxap, boxes_only.piou) == (None, None)


def test_an_empty_set_has_no_metrics() -> None:
    result = evaluated()
    assert result.images == 0
    assert set(result.to_dict()["metrics"].values()) == {None}
    assert evaluated(protocol=FIXED).threshold == 0.3


def test_the_dictionary_has_the_layout_of_metrics_json(tmp_path: Path) -> None:
    result = evaluated(*FOUR, image(largest=None, dropped_boxes=2, pixels=np.array([[2, 0, 0, 0], [1, 3, 0, 0]])))
    write_json(tmp_path / "metrics.json", result.to_dict())
    read = json.loads((tmp_path / "metrics.json").read_text())
    assert read == result.to_dict()
    counts = ["images_with_boxes", "images_with_masks", "dropped_boxes"]
    assert list(read) == ["protocol", "images", *counts, "metrics", "threshold", "threshold_source", "oracle"]
    assert (read["protocol"], read["images"], read["dropped_boxes"]) == ("three thresholds", 5, 2)
    asked = {"top1_cls", "top5_cls", "top1_loc", "top5_loc", "gt_known", "max_box_acc_v1", "max_box_acc_v2"}
    assert asked | {"box_acc", "pxap", "piou"} <= set(read["metrics"])
    assert list(read["metrics"]["box_acc"]) == ["0.3", "0.5", "0.7", "0.8", "0.9"]
    assert read["threshold"] == 0.4
    assert list(read["oracle"]["box_acc"]) == ["0.3", "0.5", "0.7", "0.8", "0.9"]


def test_scores_of_another_scorer_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a\.jpg was scored with 3 thresholds or pixel bins, expected 4; use one"):
        evaluated(*FOUR, protocol=FIXED)
    with pytest.raises(ValueError, match="scored with 3 thresholds or pixel bins, expected 4"):
        evaluated(image(largest=None, pixels=np.zeros((2, 3), dtype=int)))


@pytest.mark.parametrize("name", ["standard", "ts-cam", "sat"])
def test_top1_loc_equals_the_category_correct(name: str) -> None:
    protocol, rng = get_protocol(name), np.random.default_rng(1)
    scorer, scores = Scorer(protocol), []
    for _ in range(12):
        corners = np.sort(rng.uniform(0, 100, (2, 2)), axis=0).reshape(4)
        frame = protocol.frame((100, 100), (56, 56))
        mapped = np.zeros((56, 56))
        x0, y0, x1, y1 = frame.to_input([corners + rng.normal(0, 4, 4)])[0].round().astype(int).clip(0, 56)
        mapped[y0:y1, x0:x1] = 1
        scores.append(scorer.score(mapped, 0, [int(rng.integers(2)), 2], frame=frame, boxes=[corners]))
    result = evaluate(scores, scorer)
    assert 0 < result.top1_loc < result.gt_known
    assert result.errors["correct"] == pytest.approx(result.top1_loc)
    assert sum(result.errors.values()) == pytest.approx(100)
