"""Rows of ``images.csv`` and the table that they are computed from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from tokenloc.boxes import Frame, Protocol, get_protocol
from tokenloc.metrics import ERROR_CATEGORIES, ImageRow, ImageScores, Scorer, ScoreTable, image_row
from tokenloc.metrics.images import read_table, write_rows

SAT = get_protocol("sat")
FRAME = Frame.resized((40, 30), (28, 28))


def scored(count: int) -> list[ImageScores]:
    """Images of which some have no ground truth, no mask, no predictions, or an unusual id."""
    rng = np.random.default_rng(1)
    scorer = Scorer(SAT, 0.2)
    return [
        scorer.score(
            rng.random((7, 7)).cumsum(axis=1),
            2,
            rng.permutation(7)[:5] if index % 5 else None,
            frame=FRAME,
            id_=f"{index}\n\udcff.jpg",
            boxes=[[5, 5, 30, 25], [4, 9, 3, 12]] if index % 4 else None,
            mask=rng.integers(0, 2, (30, 40)) if index % 3 else None,
            probability=float(rng.random()) if index % 2 else None,
        )
        for index in range(count)
    ]


def test_the_table_returns_the_scores_that_were_added() -> None:
    images = scored(9)
    table = ScoreTable(io.BytesIO())
    for image in images:
        table.append(image)
    assert len(table) == 9
    for _ in range(2):
        for found, expected in zip(table, images, strict=True):
            assert vars(found).keys() == vars(expected).keys()
            for name, value in vars(expected).items():
                if isinstance(value, np.ndarray):
                    assert getattr(found, name).dtype == value.dtype, name
                    np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
                else:
                    assert getattr(found, name) == value, name


@pytest.mark.parametrize("column", [0, 2, -1])
def test_rows_are_the_scores_at_one_threshold(column: int) -> None:
    for scores in scored(9):
        row = image_row(scores, column, SAT)
        assert (row.id, row.label, row.score, row.confidence) == (scores.id, 2, scores.probability, scores.confidence)
        top = (scores.in_top(1), scores.in_top(5)) if len(scores.predicted) else (None, None)
        assert (row.predicted is None, row.top1_cls, row.top5_cls) == (top[0] is None, *top)
        if not len(scores.truth):
            assert (row.largest, row.any, row.gt_known, row.top1_loc, row.error, row.object_fraction) == (None,) * 6
            continue
        hit = scores.largest[column] >= 0.5
        assert (row.largest, row.any, row.gt_known) == (scores.largest[column], scores.any[column], hit)
        assert (row.top1_loc, row.top5_loc) == ((None, None) if top[0] is None else (top[0] and hit, top[1] and hit))
        assert row.error == ERROR_CATEGORIES[scores.errors[column]]
        assert row.object_fraction == scores.object_fraction


@pytest.mark.parametrize("name", ["standard", "wsol-eval", "sat"])
def test_rows_have_the_iou_and_size_of_the_mask(name: str) -> None:
    """The mask IoU of pixels >= the threshold, by hand in the frame of the truth."""
    scorer = Scorer(get_protocol(name), 0.35)
    map_ = np.linspace(0, 1, 30)[:, None] * np.ones(40)
    mask = np.zeros((30, 40), np.uint8)
    mask[12:24, :20], mask[:3] = 1, 255
    scores = scorer.score(map_, 0, frame=Frame.identity((40, 30)), mask=mask)
    row = image_row(scores, -1, scorer.protocol, scorer.pixel_bin(0.35))
    above, known = map_ >= 0.35, mask < 2
    assert row.mask_iou == pytest.approx((above & (mask == 1)).sum() / ((above | (mask == 1)) & known).sum())
    assert row.mask_fraction == pytest.approx((mask == 1).sum() / known.sum())
    assert image_row(scores, -1, scorer.protocol).mask_iou is None  # without a threshold
    bare = scorer.score(map_, 0, frame=Frame.identity((40, 30)))
    assert image_row(bare, -1, scorer.protocol, 3).mask_fraction is None


@pytest.mark.parametrize(("strict", "hit"), [(True, False), (False, True)])
def test_the_protocol_decides_on_a_hit_at_one_half(strict: bool, hit: bool) -> None:
    protocol = Protocol(name="one", thresholds=(0.5,), strict_top_k=strict)
    map_ = np.zeros((8, 8), dtype=np.float32)
    map_[:4] = 1
    scores = Scorer(protocol).score(map_, 0, [0], frame=Frame.identity((8, 8)), boxes=[[0, 0, 8, 8]])
    row = image_row(scores, 0, protocol)
    assert (row.largest, row.gt_known, row.top1_loc) == (0.5, True, hit)
    assert row.error == ("correct" if hit else "part")


def test_the_file_has_classes_by_name_and_empty_fields_for_none(tmp_path: Path) -> None:
    rows = [
        ImageRow("a,b/1.jpg", 1, 0, False, True, 0.625, 0.75, True, False, True, "classification", 0.5, 0.75, 0.125),
        ImageRow("2.jpg", 0),
    ]
    path = tmp_path / "images.csv"
    write_rows(path, rows, ["ant", "bee"])
    lines = path.read_text().splitlines()
    assert lines[1] == '"a,b/1.jpg",bee,ant,0,1,0.625,0.75,1,0,1,classification,0.5,0.75,0.125,,'
    assert lines[2] == "2.jpg,ant,,,,,,,,,,,,,,"
    first, second = read_table(path)
    assert (first["id"], first["label"], first["gt_known"], first["largest"]) == ("a,b/1.jpg", "bee", 1.0, 0.625)
    assert second["gt_known"] is second["confidence"] is None
    assert (first["score"], first["confidence"]) == (0.75, 0.125)


def test_tables_of_older_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    write_rows(path, [ImageRow("a", 0, 0, True, object_fraction=0.125, score=0.5, confidence=0.25)], ["ant"])
    head, *lines = path.read_text().splitlines()
    renamed = head.replace("object_fraction", "object_share").replace("confidence", "trust")
    path.write_text("\n".join([renamed, *lines]))
    (row,) = read_table(path)
    assert (row["object_fraction"], row["score"], row["confidence"]) == (0.125, 0.5, 0.25)
    path.write_text("".join(line.rsplit(",", 4)[0] + "\n" for line in path.read_text().splitlines()))
    (row,) = read_table(path)
    assert (row["id"], row["object_fraction"], row["score"], row["confidence"]) == ("a", 0.125, None, None)


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    with pytest.raises(FileNotFoundError, match=r"no .*images\.csv: `tokenloc evaluate` writes it"):
        read_table(path)
    path.write_text("id,iou\n")
    with pytest.raises(ValueError, match=r"has the columns \['id', 'iou'\], expected \['id', 'label'"):
        read_table(path)
    write_rows(path, [ImageRow("a", 0), ImageRow("a", 0)], ["ant"])
    with pytest.raises(ValueError, match="contains an id twice"):
        read_table(path)
    head, line, _ = path.read_text().splitlines()
    path.write_text(f"{head},colour\n{line},red\n")
    assert "colour" not in read_table(path)[0]
    path.write_text(f"{head}\n{line}much\n")
    with pytest.raises(ValueError, match=r"images\.csv has 'much' as mask_fraction, expected a number"):
        read_table(path)
