"""The tables, galleries and sliders of a report, compared with direct counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluations import SCENES, scenes, with_column, write_evaluation
from tokenloc.metrics.stored_boxes import ImageBoxes
from tokenloc.reporting.galleries import box_steps, make_galleries, make_images, make_slider
from tokenloc.reporting.runs import Run, oracle_note, read_run
from tokenloc.reporting.tables import class_table, error_counts, error_of, metric_table


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    folder = tmp_path_factory.mktemp("runs")
    names = enumerate(["first", "second"])
    return [read_run(write_evaluation(folder / name, scenes(), seed, data=SCENES), name) for seed, name in names]


def test_metrics_have_intervals_and_the_best_run_is_marked(runs: list[Run]) -> None:
    table = {row.key: row for row in metric_table(runs)}
    for key in ("gt_known", "top1_loc", "top1_cls"):
        values = [100 * np.mean([row[key] for row in run.rows]) for run in runs]
        cells, (compared,) = table[key].cells, table[key].compared
        assert [cell.value for cell in cells] == pytest.approx(values)
        assert [cell.interval for cell in cells] == [run.content["confidence"][key] for run in runs]
        assert [cell.best for cell in cells] == [values[0] > values[1], values[1] > values[0]]
        assert compared is not None
        assert compared.second - compared.first == pytest.approx(values[1] - values[0])
        assert [cell.significant for cell in cells] == [cell.best and compared.p_value < 0.05 for cell in cells]
    hits = [sum(row["largest"] >= 0.7 for row in run.rows) for run in runs]
    compared = table["box_acc_0.7"].compared[0]
    assert compared is not None
    assert compared.only_second - compared.only_first == hits[1] - hits[0]
    assert table["max_box_acc_v2"].compared == [None]
    assert "pxap" not in table
    assert not any(cell.best for row in metric_table(runs[:1]) for cell in row.cells)


def test_the_threshold_of_an_oracle_is_marked_and_gets_no_star(runs: list[Run]) -> None:
    rows = [[{**row, "gt_known": float(right)} for row in runs[0].rows] for right in (0, 1)]
    source = {"threshold_source": "best on the evaluated set (oracle)"}
    for content, starred in (({}, True), (source, False)):
        contents = [{**run.content, **added} for run, added in zip(runs, ({}, content), strict=True)]
        metrics = [{**each["metrics"], "gt_known": value} for each, value in zip(contents, (0.0, 100.0), strict=True)]
        both = [replace(run, content={**c, "metrics": m}) for run, c, m in zip(runs, contents, metrics, strict=True)]
        for run, own in zip(both, rows, strict=True):
            run.__dict__["rows"] = own
        (row,) = (row for row in metric_table(both) if row.key == "gt_known")
        assert [cell.significant for cell in row.cells] == [False, starred]
        note = oracle_note(both)
        assert (note is None) == starred
    assert note is not None
    assert "the threshold of second was chosen on the evaluated images (oracle)" in note
    assert oracle_note(both[1:]) is None


def test_errors_and_classes_are_counted(runs: list[Run]) -> None:
    counts = error_counts(runs[0])
    assert sum(images for images, _ in counts.values()) == 18
    for key, (images, percent) in counts.items():
        assert images == sum(row["error"] == key for row in runs[0].rows)
        assert percent == pytest.approx(runs[0].content["metrics"]["errors"][key])
    for name, images, columns in class_table(runs)[1]:
        rows = [row for row in runs[1].rows if row["label"] == name]
        assert images == len(rows)
        assert columns[1][2] == pytest.approx(100 * np.mean([row["gt_known"] for row in rows]))
        assert columns[1][3] == pytest.approx(np.mean([row["largest"] for row in rows]))


def test_without_a_box_the_error_is_that_of_the_class() -> None:
    known = [("part", 1.0), (None, 1.0), (None, 0.0), (None, None)]
    errors = [error_of({"error": error, "top1_cls": correct}) for error, correct in known]
    assert errors == ["part", "unjudged", "classification", None]


def test_galleries_contain_the_images_of_their_title(tmp_path: Path, runs: list[Run]) -> None:
    folder = write_evaluation(tmp_path / "confident", scenes(), data=SCENES)
    confidence = [round(0.05 * (5 * index % 18), 2) for index in range(18)]
    with_column(folder, "confidence", [*confidence[:-1], ""])
    both = [read_run(folder, "confident"), runs[1]]
    galleries = {(gallery.key, gallery.run): gallery for gallery in make_galleries(both, 4)}
    assert ("check", 1) not in galleries
    assert galleries["check", 0].images == sorted(range(17), key=confidence.__getitem__)[:4]
    iou = [[row["largest"] for row in run.rows] for run in both]
    assert galleries["worst", 1].images == sorted(range(18), key=iou[1].__getitem__)[:4]
    gaps = [abs(a - b) for a, b in zip(*iou, strict=True)]
    assert [gaps[image] for image in galleries["differ", None].images] == sorted(gaps)[::-1][:4]
    for (key, run), gallery in galleries.items():
        if gallery.total is not None and run is not None:
            assert gallery.total == sum(row["error"] == key for row in both[run].rows)
    assert set(galleries["all", None].images) == {image for each in galleries.values() for image in each.images}
    assert make_galleries(both, None)[-1].images == list(range(18))


def test_slider_stops_are_thresholds_and_include_the_reported_one_once(runs: list[Run]) -> None:
    slider, boxes = make_slider(runs[0]), runs[0].boxes
    assert slider is not None
    assert boxes is not None
    assert slider.thresholds == pytest.approx(np.arange(0, 1, 0.01))
    assert slider.thresholds[slider.start] == 0.35
    assert boxes.thresholds[slider.columns] == pytest.approx(slider.thresholds)
    assert slider.gt_known[slider.start] == runs[0].metrics["gt_known"]
    assert None not in slider.gt_known


def test_box_steps_reproduce_every_box() -> None:
    rng = np.random.default_rng(0)
    boxes = np.repeat(rng.integers(0, 50, (9, 4)), rng.integers(3, 9, 9), axis=0).astype(float)
    image = ImageBoxes(boxes, rng.choice([0.25, 0.5], len(boxes)).astype(np.float32))
    columns = list(range(0, len(boxes), 2))
    steps = np.array(box_steps(image, (100, 50), columns)).reshape(-1, 6)
    for stop, column in enumerate(columns):
        expected = [*(1000 * boxes[column] / [100, 50, 100, 50]), 1000 * image.iou[column]]
        assert steps[steps[:, 0] <= stop][-1, 1:] == pytest.approx(expected, abs=0.5)
    assert len(steps) <= len(columns)


def test_unreadable_images_have_no_thumbnail(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = scenes()
    read = dataset.image

    def broken(index: int, min_size: tuple[int, int] | None = None) -> Any:
        if index == 3:
            raise ValueError("broken")
        return read(index, min_size)

    monkeypatch.setattr(dataset, "image", broken)
    images = make_images(runs, [make_slider(run) for run in runs], [2, 3], dataset)
    assert (images[3].thumbnail, images[3].size) == (None, (40, 40))
    assert str(images[2].thumbnail).startswith("/9j/")
