"""The report in a real browser: slider, galleries, filters, tables, hostile names, a phone's width."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.evaluations import SCENES, named_samples, scenes, with_column, write_evaluation
from tokenloc.cli import main
from tokenloc.commands.report import report
from tokenloc.metrics.images import read_table
from tokenloc.metrics.stored_boxes import open_boxes
from tokenloc.reporting.galleries import STOPS
from tokenloc.reporting.runs import read_run
from tokenloc.reporting.tables import metric_table

Report = tuple[Path, list[Path]]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report of one run on scenes, with confidence, and the folder of the evaluation."""
    folder = tmp_path_factory.mktemp("one")
    run = write_evaluation(folder / "mine", scenes(), data=SCENES, model={"method": "sat", "backbone": "vit"})
    with_column(run, "confidence", [round((7 * index % 18) / 18, 3) for index in range(18)])
    return report([run], out=folder / "report.html", images=6), [run]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A report of two runs on the same scenes."""
    folder = tmp_path_factory.mktemp("two")
    names = enumerate(["first", "second"])
    runs = [write_evaluation(folder / name, scenes(), seed, data=SCENES) for seed, name in names]
    return report(runs, out=folder / "report.html", images="all"), runs


def open_report(made: Report, page: Page) -> Rows:
    """Open a report; return the images of its first run."""
    path, (run, *_) = made
    page.goto(path.as_uri())
    return read_table(run / "images.csv")


def displayed(page: Page) -> list[int]:
    images: list[int] = page.eval_on_selector_all(".card", "cards => cards.map(card => Number(card.dataset.image))")
    return images


def displayed_box(page: Page, image: int, run: int = 0) -> list[float]:
    box = page.locator(f'.card[data-image="{image}"] rect.predicted.run-{run}')
    x, y, width, height = (float(box.get_attribute(name) or "nan") for name in ("x", "y", "width", "height"))
    return [x, y, x + width, y + height]


def stored_box(folder: Path, image: int, threshold: float) -> tuple[list[float], float]:
    boxes = open_boxes(folder / "boxes.npz")
    ((_, swept),) = boxes.images({image})
    column = int(np.abs(boxes.thresholds - threshold).argmin())
    return (1000 * swept.boxes[column] / 40).tolist(), float(swept.iou[column])


def column_text(page: Page, table: str, index: int) -> list[str]:
    column = "(rows, index) => rows.map(row => row.cells[index].innerText)"
    texts: list[str] = page.eval_on_selector_all(f"#{table} tbody tr", column, index)
    return texts


def test_the_slider_updates_boxes_values_and_the_marker(one: Report, page: Page) -> None:
    _, (run,) = one
    open_report(one, page)
    slider, output = page.get_by_role("slider"), page.locator(".slider output")
    assert "0.35" in output.inner_text()
    assert page.locator(".reset").is_disabled()
    image = displayed(page)[2]
    slider.focus()
    for threshold, key in ((0.35, "ArrowRight"), (0.55, "ArrowLeft"), (0.35, "ArrowLeft")):
        expect(page.locator(".slider output b").first).to_have_text(f"{threshold:g}")
        expected, iou = stored_box(run, image, threshold)
        assert displayed_box(page, image) == pytest.approx(expected, abs=1)
        if expected[2] > expected[0]:
            value = page.locator(f'.card[data-image="{image}"] .iou')
            assert value.inner_text() == f"IoU {np.floor(100 * iou + 1e-4) / 100:.2f}"
            assert ("hit" in (value.get_attribute("class") or "")) == (iou >= 0.5)
        curve = read_run(run).curve
        assert curve is not None
        accuracy = curve["0.5"][curve["threshold"].index(threshold)]
        assert output.inner_text().endswith(f"GT-known {accuracy:.1f} %")
        assert slider.get_attribute("aria-valuetext") == f"{threshold:g}, GT-known {accuracy:.1f} %"
        moved = f"translate({(threshold - 0.35) * 316:.1f} 0)"
        assert page.locator(".marker").get_attribute("transform") == moved
        for _ in range(20):
            page.keyboard.press(key)
    expect(page.locator(".slider output b").first).to_have_text("0.15")
    assert page.locator(".result.moved").count() == 6
    page.locator(".reset").click()
    expect(page.locator(".reset")).to_be_disabled()
    assert "0.35" in output.inner_text()


def test_galleries_show_the_images_of_their_title(one: Report, page: Page) -> None:
    rows = open_report(one, page)
    order = sorted(range(18), key=lambda index: rows[index]["largest"])
    assert displayed(page) == sorted(range(18), key=lambda index: rows[index]["confidence"])[:6]
    for name, expected in (("Worst boxes", order[:6]), ("Best boxes", order[::-1][:6])):
        page.get_by_role("button", name=name).click()
        assert displayed(page) == expected
        assert page.get_by_role("button", name=name).get_attribute("aria-pressed") == "true"
    wrong = [index for index in order if rows[index]["error"] == "classification"]
    page.locator(".kinds .kind-classification").click()
    assert displayed(page) == wrong[:6]
    assert page.locator("#cards .wrong").count() == len(wrong[:6])
    page.locator(".kinds .kind-correct").click()
    assert {rows[index]["error"] for index in displayed(page)} == {"correct"}


def test_filters_apply_to_cards_and_table(one: Report, page: Page) -> None:
    rows = open_report(one, page)
    lines = page.locator("#list tbody tr")
    page.get_by_role("button", name="All with an image").click()
    images = displayed(page)
    label = rows[0]["label"]
    page.get_by_label("Class", exact=True).select_option(label=label)
    assert displayed(page) == [index for index in images if rows[index]["label"] == label]
    assert lines.count() == sum(row["label"] == label for row in rows)
    page.get_by_role("button", name="Clear").click()
    expect(lines).to_have_count(18)
    page.get_by_label("Search").fill(rows[5]["id"][-7:].upper())
    assert lines.count() == sum(rows[5]["id"][-7:] in row["id"] for row in rows)
    page.get_by_label("Search").fill("no such image")
    assert page.locator("#count").inner_text() == "0 images: none passes the filter"
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Kind", exact=True).select_option(label="Wrong class")
    assert lines.count() == sum(row["error"] == "classification" for row in rows)
    page.get_by_label("Kind", exact=True).select_option(label="all kinds")
    for order, key in (("lowest IoU", "largest"), ("lowest confidence", "confidence")):
        page.get_by_label("Order").select_option(label=order)
        assert displayed(page) == sorted(images, key=lambda index: rows[index][key])
    page.locator("#class-table .link").get_by_text(label).click()
    assert {rows[index]["label"] for index in displayed(page)} == {label}


def test_tables_sort_by_every_column_with_mouse_and_keyboard(one: Report, page: Page) -> None:
    open_report(one, page)
    for table in ("class-table", "list"):
        headers = page.locator(f"#{table} thead tr:last-child th")
        for index in range(headers.count()):
            header, before = headers.nth(index), column_text(page, table, index)
            numeric = "value" in (header.get_attribute("class") or "")
            ascending = sorted(before, key=float) if numeric else sorted(before)
            sorted_before = header.get_attribute("aria-sort") == "ascending"
            header.get_by_role("button").click()
            assert header.get_attribute("aria-sort") == ("descending" if sorted_before else "ascending")
            assert column_text(page, table, index) == (ascending[::-1] if sorted_before else ascending)
            header.get_by_role("button").focus()
            page.keyboard.press("Enter")
            assert column_text(page, table, index) == (ascending if sorted_before else ascending[::-1])
            assert page.locator(f"#{table} [aria-sort]").count() == 1


def test_two_runs_side_by_side(two: Report, page: Page) -> None:
    first, runs = open_report(two, page), two[1]
    second = read_table(runs[1] / "images.csv")
    assert page.title().startswith("first · second")
    gaps = [abs(a["largest"] - b["largest"]) for a, b in zip(first, second, strict=True)]
    page.get_by_role("button", name="Runs differ most").click()
    assert [gaps[index] for index in displayed(page)] == sorted((gap for gap in gaps if gap > 0), reverse=True)
    image = displayed(page)[0]
    for threshold in (0.35, 0.9):  # of the first run alone
        page.locator("#threshold-0").fill(f"{100 * threshold:.0f}")
        expect(page.locator(".slider output b").first).to_have_text(f"{threshold:g}")
        for index, used in enumerate((threshold, 0.35)):
            expected, _ = stored_box(runs[index], image, used)
            assert displayed_box(page, image, index) == pytest.approx(expected, abs=1)
    means = [100 * np.mean([row["gt_known"] for row in rows]) for rows in (first, second)]
    line = page.locator(".metrics tbody tr").first.inner_text()
    assert f"{means[0]:.1f}" in line
    assert f"{means[1] - means[0]:+.1f}" in line
    assert re.search(r"p (=|<) 0\.\d+|p = 1\.000", line)


@pytest.mark.parametrize("made", ["one", "two"])
def test_the_page_fits_a_phone(made: str, phone_page: Page, request: pytest.FixtureRequest) -> None:
    open_report(request.getfixturevalue(made), phone_page)
    assert phone_page.evaluate("document.documentElement.scrollWidth") == 390
    assert phone_page.locator(".card img").first.is_visible()
    phone_page.locator("#threshold-0").fill("3")
    expect(phone_page.locator(".reset").first).to_be_enabled()
    assert phone_page.evaluate("document.documentElement.scrollWidth") == 390


HOSTILE = [
    "</script><img src=x onerror=window.hacked=1>",
    "'\"><svg onload=window.hacked=2>, {{7*7}} {% raw %}",
    "<!--<script>window.hacked=3//",
    "ünï 🐦 \u2028 &lt;b&gt; ${window.hacked=4} `",
]


@pytest.mark.parametrize("with_policy", [True, False])
def test_hostile_names_are_text(with_policy: bool, tmp_path: Path, page: Page) -> None:
    """No name runs as code, even without the page's Content-Security-Policy."""
    dataset = named_samples([f"{name} {number}.jpg" for number in range(3) for name in HOSTILE], HOSTILE)
    run = write_evaluation(tmp_path / "<b>run</b>", dataset)
    path = report([run], out=tmp_path / "report.html", title=HOSTILE[0])
    if not with_policy:
        text = path.read_text()
        path.write_text(re.sub(r"<meta http-equiv=.*?>\n", "", text, count=1))
        assert path.read_text() != text
    page.goto(path.as_uri())
    for button in page.locator("#galleries button, thead button").all():
        button.click()
    assert page.evaluate("window.hacked === undefined")
    assert page.locator("script").count() == 2
    assert page.locator("h1").inner_text() == HOSTILE[0]
    assert set(column_text(page, "class-table", 0)) == set(HOSTILE)
    links = page.locator("#class-table .link").all()
    assert {link.get_attribute("data-class") for link in links} == set(HOSTILE)
    assert page.locator("main img, main b b, svg[onload]").count() == 0


def test_without_images_boxes_are_still_drawn(tmp_path: Path, page: Page) -> None:
    data = {"name": "folder", "root": "/no/such/folder", "split": "test", "options": {}}
    run = write_evaluation(tmp_path / "run", scenes(), data=data)
    page.goto(report([run], out=tmp_path / "report.html").as_uri())
    notes = page.locator(".notes").inner_text()
    assert "/no/such/folder: no such folder" in notes
    assert "18 of the 18 images in this report could not be read" in notes
    assert page.locator(".no-image").count() == page.locator("rect.truth").count() == len(displayed(page)) > 0


def test_evaluations_without_stored_boxes_have_no_slider(tmp_path: Path, page: Page) -> None:
    run = write_evaluation(tmp_path / "run", scenes(), data=SCENES)
    (run / "boxes.npz").unlink()
    page.goto(report([run], out=tmp_path / "report.html").as_uri())
    assert "there is no threshold slider: no " in page.locator(".notes").inner_text()
    assert page.locator(".slider").count() == 0
    assert page.locator(".card img").count() == len(displayed(page)) > 0
    assert re.match(r"IoU 0\.\d\d", page.locator(".card .iou").first.inner_text())


def test_classification_without_boxes(tmp_path: Path, page: Page) -> None:
    dataset = named_samples([f"{number}.jpg" for number in range(20)], ["ant", "bee"], boxed=False)
    run = write_evaluation(tmp_path / "run", dataset)
    rows = read_table(run / "images.csv")
    page.goto(report([run], out=tmp_path / "report.html").as_uri())
    assert page.locator(".slider, .chart").count() == 0
    assert displayed(page) == [index for index, row in enumerate(rows) if not row["top1_cls"]]
    assert "Top-1 Cls" in page.locator(".metrics").inner_text()
    assert "GT-known" not in page.locator("main").inner_text()
    counts = {"Wrong class": 0, "Class right, no true box": 0}
    for row in rows:
        counts["Class right, no true box" if row["top1_cls"] else "Wrong class"] += 1
    legend = page.locator(".legend li").all_inner_texts()
    assert legend == [f"{name} {5 * count:.1f} %" for name, count in counts.items()]


def test_an_interval_without_width_is_not_displayed(tmp_path: Path) -> None:
    run = read_run(write_evaluation(tmp_path / "run", scenes(), data=SCENES))
    intervals = {"gt_known": [100.0, 100.0], "top1_cls": [90.0, 100.0]}
    run = replace(run, content={**run.content, "confidence": intervals})
    assert {row.key: row.cells[0].interval for row in metric_table([run]) if row.cells[0].interval} == {
        "top1_cls": [90.0, 100.0]
    }


def test_results_of_localize_are_a_gallery_without_truth(run: Path, tmp_path: Path, page: Page) -> None:
    dataset = scenes()
    (tmp_path / "mine").mkdir()
    for index in range(8):
        dataset.image(index).save(tmp_path / "mine" / f"{index}.png")
    (tmp_path / "mine/broken.png").write_bytes(b"")
    words = [str(run / "checkpoints/best.ckpt"), str(tmp_path / "mine"), "--objects", "all", "--top_k", "2"]
    assert main(["localize", *words, "--out", str(tmp_path / "out")]) == 1
    found = json.loads((tmp_path / "out/localizations.json").read_text())["localizations"][::2]  # the first class
    page.goto(report([tmp_path / "out"], out=tmp_path / "report.html").as_uri())
    confidence = [max(item["confidence"][:1], default=0.0) for item in found]
    assert displayed(page) == sorted(range(8), key=lambda index: confidence[index])
    for index, item in enumerate(found):
        drawn = page.locator(f'.card[data-image="{index}"] rect.predicted')
        boxes = [
            [float(each.get_attribute(name) or "nan") for name in ("x", "y", "width", "height")] for each in drawn.all()
        ]
        expected = [[25 * x0, 25 * y0, 25 * (x1 - x0), 25 * (y1 - y0)] for x0, y0, x1, y1 in item["boxes"]]
        assert np.array(boxes) == pytest.approx(np.array(expected), abs=1)
    label = found[0]["label"]
    page.get_by_label("Class", exact=True).select_option(label=label)
    assert set(displayed(page)) == {index for index, item in enumerate(found) if item["label"] == label}
    assert "1 image could not be read" in page.locator(".notes").inner_text()
    text = page.locator("main").inner_text()
    assert "IoU" not in text
    assert "Correct" not in text
    (tmp_path / "out/localizations.json").write_text('{"localizations": [{"file": 3}]}')
    with pytest.raises(ValueError, match=r"not a result of `tokenloc localize` \(file must be str"):
        report([tmp_path / "out"], out=tmp_path / "report.html")


def test_the_file_is_self_contained(two: Report) -> None:
    text = two[0].read_text()
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)
    assert "url(" not in text
    assert text.count("image/jpeg;base64") == 1  # in the script, which takes the images from the page
    assert text.count('type="text/plain"') == 18


def test_a_slider_has_at_most_a_hundred_stops(tmp_path: Path, page: Page) -> None:
    run = write_evaluation(tmp_path / "run", scenes(), protocol="wsol-eval", data=SCENES)
    page.goto(report([run], out=tmp_path / "report.html", images=2).as_uri())
    assert STOPS - 1 <= int(page.get_by_role("slider").get_attribute("max") or 0) <= STOPS
    assert float(page.locator(".slider output b").inner_text()) == pytest.approx(read_run(run).threshold)
