"""What a report counts and chooses, against plain counting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluations import SCENES, scenes, with_column, write_evaluation
from tokenloc.commands.report import read_run
from tokenloc.metrics.stored_boxes import SweptImage
from tokenloc.reporting.report import render_report
from tokenloc.reporting.report_charts import charts
from tokenloc.reporting.report_gallery import choose, imaged, slider, steps
from tokenloc.reporting.report_numbers import ReportRun, class_lines, kind_of, kind_shares, metric_lines


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[ReportRun]:
    folder = tmp_path_factory.mktemp("runs")
    names = enumerate(["first", "second"])
    return [read_run(write_evaluation(folder / name, scenes(), seed, data=SCENES), name) for seed, name in names]


def test_metrics_have_their_interval_and_the_better_one_is_marked(runs: list[ReportRun]) -> None:
    lines = {line.key: line for line in metric_lines(runs)}
    for key in ("gt_known", "top1_loc", "top1_cls"):
        values = [100 * np.mean([row[key] for row in run.rows]) for run in runs]
        assert [cell.value for cell in lines[key].cells] == pytest.approx(values)
        assert [cell.interval for cell in lines[key].cells] == [run.metrics["confidence"][key] for run in runs]
        assert [cell.best for cell in lines[key].cells] == [values[0] > values[1], values[1] > values[0]]
        (compared,) = lines[key].compared
        assert compared is not None
        assert compared.second - compared.first == pytest.approx(values[1] - values[0])
        assert [cell.sure for cell in lines[key].cells] == [
            cell.best and compared.p_value < 0.05 for cell in lines[key].cells
        ]
    hits = [sum(row["largest"] >= 0.7 for row in run.rows) for run in runs]
    compared = lines["box_acc_0.7"].compared[0]
    assert compared is not None
    assert compared.only_second - compared.only_first == hits[1] - hits[0]
    assert lines["max_box_acc_v2"].compared == [None]
    assert "pxap" not in lines
    assert not any(cell.best for line in metric_lines(runs[:1]) for cell in line.cells)


def test_kinds_and_classes_are_counted(runs: list[ReportRun]) -> None:
    shares = kind_shares(runs[0])
    assert sum(share.images for share in shares) == 18
    for share in shares:
        assert share.images == sum(row["error"] == share.key for row in runs[0].rows)
        assert share.percent == pytest.approx(runs[0].metrics["metrics"]["errors"][share.key])
    for line in class_lines(runs):
        rows = [row for row in runs[1].rows if row["label"] == line.name]
        assert line.images == len(rows)
        assert line.runs[1][2] == pytest.approx(100 * np.mean([row["gt_known"] for row in rows]))
        assert line.runs[1][3] == pytest.approx(np.mean([row["largest"] for row in rows]))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"error": "part", "top1_cls": 1.0}, "part"),
        ({"error": None, "top1_cls": 1.0}, "correct"),
        ({"error": None, "top1_cls": 0.0}, "classification"),
        ({"error": None, "top1_cls": None}, None),
    ],
)
def test_where_there_is_no_box_the_class_is_judged(row: dict[str, Any], kind: str | None) -> None:
    assert kind_of(row) == kind


def test_galleries_hold_what_they_are_named_for(tmp_path: Path, runs: list[ReportRun]) -> None:
    confident = write_evaluation(tmp_path / "confident", scenes(), data=SCENES)
    confidence = [round(0.05 * (5 * index % 18), 2) for index in range(18)]
    with_column(confident, "confidence", [*confidence[:-1], ""])
    both = [read_run(confident, "confident"), runs[1]]
    galleries = {(one.key, one.run): one for one in choose(both, 4)}
    assert ("check", 1) not in galleries
    assert galleries["check", 0].images == sorted(range(17), key=confidence.__getitem__)[:4]
    iou = [[row["largest"] for row in run.rows] for run in both]
    assert galleries["worst", 1].images == sorted(range(18), key=iou[1].__getitem__)[:4]
    gaps = [abs(a - b) for a, b in zip(*iou, strict=True)]
    assert [gaps[image] for image in galleries["differ", None].images] == sorted(gaps)[::-1][:4]
    for (key, run), one in galleries.items():
        if one.total is not None and run is not None:
            assert one.total == sum(row["error"] == key for row in both[run].rows)
    everything = {image for one in galleries.values() for image in one.images}
    assert set(galleries["all", None].images) == everything
    assert choose(both, None)[-1].images == list(range(18))


def test_the_sliders_stops_are_thresholds_with_the_reported_one_once(runs: list[ReportRun]) -> None:
    stops, boxes = slider(runs[0]), runs[0].boxes
    assert stops is not None
    assert boxes is not None
    assert stops.thresholds == pytest.approx(np.arange(0, 1, 0.01))
    assert stops.thresholds[stops.start] == 0.35
    assert boxes.thresholds[stops.columns] == pytest.approx(stops.thresholds)
    assert stops.gt_known[stops.start] == runs[0].metric("gt_known")
    assert None not in stops.gt_known


def test_steps_say_each_box_again() -> None:
    rng = np.random.default_rng(0)
    boxes = np.repeat(rng.integers(0, 50, (9, 4)), rng.integers(3, 9, 9), axis=0).astype(float)
    image = SweptImage(boxes, rng.choice([0.25, 0.5], len(boxes)).astype(np.float32))
    columns = list(range(0, len(boxes), 2))
    flat = np.array(steps(image, (100, 50), columns)).reshape(-1, 6)
    for stop, column in enumerate(columns):
        said = flat[flat[:, 0] <= stop][-1, 1:]
        expected = [*(1000 * boxes[column] / [100, 50, 100, 50]), 1000 * image.iou[column]]
        assert said == pytest.approx(expected, abs=0.5)
    assert len(flat) <= len(columns)


def test_charts_end_where_the_curves_do(runs: list[ReportRun]) -> None:
    by_threshold, spread, by_size = charts(runs)
    assert len(by_threshold.lines) == 6
    assert [marker.run for marker in by_threshold.markers] == [0, 1]
    curve = runs[0].curve
    assert curve is not None
    x, y = by_threshold.lines[0].path.removeprefix("M").split("L")[0].split()
    assert (float(x), float(y)) == (34.0, pytest.approx(190 - 182 * curve["0.5"][0] / 100, abs=0.06))
    assert len(spread.lines) == len(by_size.lines) == 2
    assert f"median {np.median([row['largest'] for row in runs[1].rows]):.2f}" in spread.note


def test_images_that_cannot_be_read_are_none(runs: list[ReportRun], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = scenes()
    read = dataset.image

    def broken(index: int, min_size: tuple[int, int] | None = None) -> Any:
        if index == 3:
            raise ValueError("broken")
        return read(index, min_size)

    monkeypatch.setattr(dataset, "image", broken)
    found = imaged(runs, [slider(run) for run in runs], [2, 3], dataset)
    assert found[3].thumbnail is None
    assert found[2].thumbnail is not None
    assert found[2].thumbnail.startswith("/9j/")
    assert found[3].size == (40, 40)


def test_more_runs_than_letters_are_refused(runs: list[ReportRun]) -> None:
    with pytest.raises(ValueError, match="a report is of 1 to 6 runs, got 7"):
        render_report([runs[0]] * 7)
