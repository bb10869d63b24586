"""The outputs of the released evaluators, reproduced exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.boxes.components import boxes_at
from tokenloc.boxes import (
    Frame,
    Protocol,
    best_iou,
    get_protocol,
    largest_boxes,
    prepare_map,
    quantised_map,
    scan_boxes,
    threshold_grid,
    truth_boxes,
)
from tokenloc.metrics import ERROR_CATEGORIES, Scorer, error_categories, evaluate
from tokenloc.metrics.scores import pixel_histogram
from tokenloc.metrics.statistics import pxap

Fixture = dict[str, NDArray[np.generic]]
SIZE = (224, 224)


def load(folder: Path, name: str) -> Fixture:
    path = folder / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is absent; set TOKENLOC_PARITY_DIR to the folder that holds it")
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def wsol_eval(parity_dir: Path) -> Fixture:
    return load(parity_dir, "wsol_evaluation")


@pytest.fixture(scope="module")
def tscam(parity_dir: Path) -> Fixture:
    return load(parity_dir, "tscam_protocol")


@pytest.fixture(scope="module")
def sat(parity_dir: Path) -> Fixture:
    return load(parity_dir, "sat_protocol")


def given_boxes(rows: NDArray[np.generic]) -> NDArray[np.float64]:
    """The boxes of a fixture's ground truth; missing ones are -1."""
    return rows[(rows >= 0).all(axis=1)].astype(np.float64)


def wsol_eval_protocol(step: str) -> Protocol:
    return get_protocol("wsol-eval").with_thresholds(threshold_grid({"001": 0.01, "0001": 0.001}[step]))


def box_thresholds(fixture: Fixture) -> list[str]:
    names = sorted(name for name in fixture if name.startswith("box_thr"))
    assert names, "the fixture has no boxes"
    return names


def test_ts_cam_boxes(tscam: Fixture) -> None:
    protocol = get_protocol("ts-cam")
    prepared = [prepare_map(cam, SIZE, protocol) for cam in tscam["cams"]]
    for name in box_thresholds(tscam):
        ours = np.concatenate([largest_boxes(map_, [float(name[7:])], protocol) for map_ in prepared])
        np.testing.assert_array_equal(ours, tscam[name], err_msg=name)


def test_sat_boxes(sat: Fixture) -> None:
    protocol = get_protocol("sat")
    prepared = [prepare_map(map_, SIZE, protocol) for map_ in sat["maps"]]
    for name in box_thresholds(sat):
        ours = np.concatenate([largest_boxes(map_, [float(name[7:])], protocol) for map_ in prepared])
        np.testing.assert_array_equal(ours, sat[name], err_msg=name)


def test_ts_cam_error_categories(tscam: Fixture) -> None:
    truths = [given_boxes(rows) for rows in tscam["gt_boxes"]]
    codes = [
        error_categories([row[3:]], truths[int(row[0])], predicted=int(row[1]), label=int(row[2]))[0]
        for row in tscam["error_inputs"]
    ]
    assert [ERROR_CATEGORIES[code] for code in codes] == tscam["error_category"].tolist()


def test_wsol_eval_boxes_at_100_thresholds(wsol_eval: Fixture) -> None:
    protocol = wsol_eval_protocol("001")
    for index, map_ in enumerate(wsol_eval["maps"].astype(np.float32)):
        ours = largest_boxes(quantised_map(map_), protocol.thresholds, protocol)
        np.testing.assert_array_equal(ours, wsol_eval[f"boxes_{index}"], err_msg=f"image {index}")


@pytest.mark.parametrize("step", ["001", "0001"])
def test_wsol_eval_hits(wsol_eval: Fixture, step: str) -> None:
    protocol = wsol_eval_protocol(step)
    largest, best = [], []
    for map_, rows in zip(wsol_eval["maps"].astype(np.float32), wsol_eval["gt_boxes"], strict=True):
        scan = scan_boxes(quantised_map(map_), protocol.thresholds, protocol)
        truth = given_boxes(rows)
        largest.append(best_iou(scan.largest(), truth, protocol))
        best.append([best_iou(boxes_at(scan, entry), truth, protocol).max() for entry in scan.entry])
    for kind, ious in (("single", np.array(largest)), ("multi", np.array(best))):
        for level in (30, 50, 70):
            name = f"correct_step{step}_{kind}_iou{level}"
            np.testing.assert_array_equal((ious >= level / 100).sum(axis=0), wsol_eval[name], err_msg=name)


@pytest.mark.parametrize("step", ["001", "0001"])
def test_wsol_eval_pixel_average_precision(wsol_eval: Fixture, step: str) -> None:
    edges = Scorer(wsol_eval_protocol(step)).pixel_edges
    pixels = [
        pixel_histogram(map_, mask, edges)
        for map_, mask in zip(wsol_eval["maps"].astype(np.float32), wsol_eval["masks"], strict=True)
    ]
    assert pxap(np.sum(pixels, axis=0)) == pytest.approx(float(wsol_eval[f"pxap_step{step}"]), abs=1e-6)


def test_wsol_eval_metrics_from_scored_images(wsol_eval: Fixture) -> None:
    scorer, frame = Scorer(wsol_eval_protocol("001")), Frame.identity(SIZE)
    maps = wsol_eval["maps"].astype(np.float32)
    scores = [
        scorer.score(map_, 0, [0], frame=frame, boxes=given_boxes(rows), mask=mask)
        for map_, rows, mask in zip(maps, wsol_eval["gt_boxes"], wsol_eval["masks"], strict=True)
    ]
    result = evaluate(scores, scorer)
    single = [wsol_eval[f"correct_step001_single_iou{level}"].max() for level in (30, 50, 70)]
    multi = [wsol_eval[f"correct_step001_multi_iou{level}"].max() for level in (30, 50, 70)]
    assert result.max_box_acc_v1 == pytest.approx(100 * single[1] / len(maps))
    assert result.max_box_acc_v2 == pytest.approx(100 * np.mean(multi) / len(maps))
    assert result.max_box_acc_v2_largest == pytest.approx(100 * np.mean(single) / len(maps))
    assert result.pxap == pytest.approx(float(wsol_eval["pxap_step001"]), abs=1e-6)


def test_boxes_with_exclusive_ends_differ(wsol_eval: Fixture) -> None:
    protocol = replace(wsol_eval_protocol("001"), name="wsol-eval with exclusive ends", box_end="exclusive")
    maps = wsol_eval["maps"].astype(np.float32)
    ours = [largest_boxes(quantised_map(map_), protocol.thresholds, protocol) for map_ in maps]
    assert any((boxes != wsol_eval[f"boxes_{index}"]).any() for index, boxes in enumerate(ours))


@pytest.mark.parametrize("name", ["scm", "lctr"])
def test_boxes_of_all_thresholds(name: str, parity_dir: Path) -> None:
    protocol, fixture = get_protocol(name), load(parity_dir, f"{name}_protocol")
    prepared = [prepare_map(cam, SIZE, protocol) for cam in fixture["cams"].reshape(-1, 14, 14)]
    for key in box_thresholds(fixture):
        ours = np.concatenate([largest_boxes(map_, [float(key[7:])], protocol) for map_ in prepared])
        np.testing.assert_array_equal(ours, fixture[key].reshape(-1, 4), err_msg=key)


def test_scm_counts(parity_dir: Path) -> None:
    fixture = load(parity_dir, "scm_protocol")  # its ground truth is already scaled and truncated
    scorer = Scorer(replace(get_protocol("scm"), name="scm, truncated truth", truth_truncation="none"))
    arrays = [fixture[name] for name in ("cams", "labels", "predicted", "gt_boxes")]
    scores = [
        scorer.score(cams[0], int(label), predicted, frame=Frame.identity(SIZE), boxes=truth[None], top_maps=cams)
        for cams, label, predicted, truth in zip(*arrays, strict=True)
    ]
    for level in (30, 50, 70):
        known = [np.stack([image.largest, image.any_class]) >= level / 100 for image in scores]
        np.testing.assert_array_equal(np.sum(known, axis=0), fixture[f"det_correct_{level}"])
        located = [
            np.stack(
                [image.in_top(1) & (image.largest >= level / 100), image.in_top(5) & (image.true_class >= level / 100)]
            )
            for image in scores
        ]
        np.testing.assert_array_equal(np.sum(located, axis=0), fixture[f"loc_correct_{level}"])
    result, best = evaluate(scores, scorer), lambda name: 100 * fixture[name].max(axis=1) / len(scores)
    assert [result.top1_cls, result.top5_cls] == pytest.approx(100 * fixture["cls_correct"] / len(scores))
    assert [result.gt_known, result.gt_known_top5] == pytest.approx(best("det_correct_50"))
    assert [result.top1_loc, result.top5_loc] == pytest.approx(best("loc_correct_50"))
    assert [result.box_acc["0.3"], result.box_acc["0.7"]] == pytest.approx(
        [best("det_correct_30")[0], best("det_correct_70")[0]]
    )


def test_lctr_truth(parity_dir: Path) -> None:
    fixture, protocol = load(parity_dir, "lctr_protocol"), get_protocol("lctr")
    for size, (x, y, width, height), truth in zip(*(fixture[n] for n in ("sizes", "boxes_xywh", "truth")), strict=True):
        frame = protocol.frame(tuple(size.tolist()), SIZE)
        np.testing.assert_allclose(truth_boxes([[x, y, x + width, y + height]], frame, protocol)[0], truth, atol=1e-9)
