from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from tokenloc.boxes import Frame, Protocol, get_protocol
from tokenloc.metrics import ERROR_CATEGORIES, ImageScores, score_image
from tokenloc.metrics.images import ImageLog, ImageRow, read_table, write_rows

SAT = get_protocol("sat")
FRAME = Frame.resized((40, 30), (28, 28))


def scored(count: int, protocol: Protocol = SAT) -> list[ImageScores]:
    rng = np.random.default_rng(1)
    maps = rng.random((count, 1, 7, 7)).cumsum(axis=2)
    boxes = [[[5, 5, 30, 25]] if index % 4 else None for index in range(count)]
    tops = [rng.permutation(7)[:5] for _ in range(count)]
    return [
        score_image(map_, [2], top, 2, frame=FRAME, protocol=protocol, boxes=box)
        for map_, box, top in zip(maps, boxes, tops, strict=True)
    ]


@pytest.mark.parametrize("column", [0, 2, -1])
def test_rows_are_the_scores_at_one_threshold(column: int) -> None:
    images = scored(9)
    log = ImageLog(SAT, io.BytesIO())
    for index, scores in enumerate(images):
        log.add(f"{index}.jpg", scores)
    assert len(log) == 9
    for index, (row, scores) in enumerate(zip(log.rows(column), images, strict=True)):
        assert (row.id, row.label, row.predicted) == (f"{index}.jpg", 2, scores.predicted[0])
        assert (row.top1_cls, row.top5_cls) == (scores.in_top(1), scores.in_top(5))
        if scores.boxes is None:
            assert (row.largest, row.any, row.gt_known, row.top1_loc, row.error, row.object_fraction) == (None,) * 6
            continue
        boxes = scores.boxes
        assert (row.largest, row.any) == (boxes.largest[column], boxes.any[column])
        assert row.gt_known == (boxes.largest[column] >= 0.5)
        assert row.top1_loc == (scores.in_top(1) and boxes.own[column] >= 0.5)
        assert row.top5_loc == (scores.in_top(5) and boxes.own[column] >= 0.5)
        assert row.error == ERROR_CATEGORIES[boxes.errors[column]]
        assert row.object_fraction == boxes.object_fraction


@pytest.mark.parametrize(("strict", "hit"), [(True, False), (False, True)])
def test_a_hit_at_one_half_is_the_protocols(strict: bool, hit: bool) -> None:
    protocol = Protocol(name="one", thresholds=(0.5,), strict_top_k=strict)
    map_ = np.zeros((1, 8, 8), dtype=np.float32)
    map_[:, :4] = 1
    log = ImageLog(protocol, io.BytesIO())
    scores = score_image(map_, [0], [0], 0, frame=Frame.identity((8, 8)), protocol=protocol, boxes=[[0, 0, 8, 8]])
    log.add("one", scores)
    row = log.rows(0)[0]
    assert (row.largest, row.gt_known, row.top1_loc) == (0.5, True, hit)


def test_without_predictions_there_are_none_in_the_row() -> None:
    log = ImageLog(SAT, io.BytesIO())
    map_ = np.eye(7, dtype=np.float32)[None]
    log.add("a", score_image(map_, [2], None, 2, frame=FRAME, protocol=SAT, boxes=[[5, 5, 30, 25]]))
    row = log.rows(0)[0]
    assert (row.predicted, row.top1_cls, row.top5_cls, row.top1_loc, row.top5_loc) == (None,) * 5
    assert row.gt_known is not None


def test_the_table_says_classes_by_name_and_nothing_for_none(tmp_path: Path) -> None:
    rows = [
        ImageRow("a,b/1.jpg", 1, 0, False, True, 0.625, 0.75, True, False, True, "classification", 0.5, 0.75, 0.125),
        ImageRow("2.jpg", 0),
    ]
    path = tmp_path / "images.csv"
    write_rows(path, rows, ["ant", "bee"])
    lines = path.read_text().splitlines()
    assert lines[1] == '"a,b/1.jpg",bee,ant,0,1,0.625,0.75,1,0,1,classification,0.5,0.75,0.125'
    assert lines[2] == "2.jpg,ant,,,,,,,,,,,,"
    first, second = read_table(path)
    assert (first["id"], first["label"], first["gt_known"], first["largest"]) == ("a,b/1.jpg", "bee", 1.0, 0.625)
    assert second["gt_known"] is second["confidence"] is None
    assert (first["score"], first["confidence"]) == (0.75, 0.125)


def test_a_table_of_before_there_was_a_trust_is_read(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    write_rows(path, [ImageRow("a", 0, 0, True, score=0.5, confidence=0.25)], ["ant"])
    path.write_text("".join(line.rsplit(",", 2)[0] + "\n" for line in path.read_text().splitlines()))
    assert path.read_text().splitlines()[0].endswith(",object_fraction")
    (line,) = read_table(path)
    assert (line["id"], line["top1_cls"], line["score"], line["confidence"]) == ("a", 1.0, None, None)


def test_a_table_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    with pytest.raises(FileNotFoundError, match=r"no .*images\.csv: measure the run with `tokenloc evaluate`"):
        read_table(path)
    path.write_text("id,iou\n")
    with pytest.raises(ValueError, match=r"has the columns \['id', 'iou'\], expected \['id', 'label'"):
        read_table(path)
    write_rows(path, [ImageRow("a", 0), ImageRow("a", 0)], ["ant"])
    with pytest.raises(ValueError, match="two lines of one id"):
        read_table(path)


def test_columns_of_others_are_left_out_and_a_broken_number_is_named(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    write_rows(path, [ImageRow("a", 0, confidence=0.75), ImageRow("b", 0)], ["ant"])
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([f"{head},colour", f"{lines[0]},red", f"{lines[1]},blue"]))
    first, second = read_table(path)
    assert (first["confidence"], second["confidence"]) == (0.75, None)
    assert "colour" not in first
    path.write_text(f"{head}\n{lines[1]}much\n")
    with pytest.raises(ValueError, match=r"images\.csv has 'much' for confidence, expected a number"):
        read_table(path)
