"""The report in a real browser: slider, galleries, filters, tables, hostile names, a phone's width."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.evaluations import SCENES, named_samples, scenes, with_column, write_evaluation
from tokenloc.commands.report import read_run, report
from tokenloc.metrics.images import read_table
from tokenloc.metrics.stored_boxes import open_boxes
from tokenloc.reporting.report_gallery import STOPS

Made = tuple[Path, list[Path]]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report of one run on scenes, with confidence, and the folder of the evaluation."""
    folder = tmp_path_factory.mktemp("one")
    run = write_evaluation(folder / "mine", scenes(), data=SCENES, model={"method": "sat", "backbone": "vit"})
    with_column(run, "confidence", [round((7 * index % 18) / 18, 3) for index in range(18)])
    return report([run], out=folder / "report.html", images=6), [run]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A report of two runs on the same scenes."""
    folder = tmp_path_factory.mktemp("two")
    runs = [
        write_evaluation(folder / name, scenes(), seed, data=SCENES) for seed, name in enumerate(["first", "second"])
    ]
    return report(runs, out=folder / "report.html", images="all"), runs


def shown(page: Page) -> list[int]:
    return [int(metadata.get_attribute("data-image") or -1) for metadata in page.query_selector_all(".card")]


def box_on_page(page: Page, image: int, run: int = 0) -> list[float]:
    found = page.locator(f'.card[data-image="{image}"] rect.predicted.run-{run}')
    x, y, width, height = (float(found.get_attribute(name) or "nan") for name in ("x", "y", "width", "height"))
    return [x, y, x + width, y + height]


def stored_box(folder: Path, image: int, threshold: float) -> tuple[list[float], float]:
    boxes = open_boxes(folder / "boxes.npz")
    ((_, swept),) = boxes.images({image})
    column = int(np.abs(boxes.thresholds - threshold).argmin())
    return (1000 * swept.boxes[column] / 40).tolist(), float(swept.iou[column])


def test_the_slider_redraws_boxes_numbers_and_the_curves_marker(one: Made, page: Page) -> None:
    path, (run,) = one
    page.goto(path.as_uri())
    slider, output = page.get_by_role("slider"), page.locator(".slider output")
    assert "0.35" in output.inner_text()
    assert page.locator(".reset").is_disabled()
    image = shown(page)[2]
    slider.focus()
    for threshold, key in ((0.35, "ArrowRight"), (0.55, "ArrowLeft"), (0.35, "ArrowLeft")):
        expect(page.locator(".slider output b").first).to_have_text(f"{threshold:g}")
        expected, iou = stored_box(run, image, threshold)
        assert box_on_page(page, image) == pytest.approx(expected, abs=1)
        if expected[2] > expected[0]:
            value = page.locator(f'.card[data-image="{image}"] .iou')
            assert value.inner_text() == f"IoU {np.floor(100 * iou + 1e-4) / 100:.2f}"
            assert ("hit" in (value.get_attribute("class") or "")) == (iou >= 0.5)
        curve = read_run(run, "").curve
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


def test_galleries_show_the_images_that_they_are_named_for(one: Made, page: Page) -> None:
    path, (run,) = one
    rows = read_table(run / "images.csv")
    order = sorted(range(18), key=lambda index: rows[index]["largest"])
    page.goto(path.as_uri())
    assert shown(page) == sorted(range(18), key=lambda index: rows[index]["confidence"])[:6]
    for name, expected in (("Worst boxes", order[:6]), ("Best boxes", order[::-1][:6])):
        page.get_by_role("button", name=name).click()
        assert shown(page) == expected
        assert page.get_by_role("button", name=name).get_attribute("aria-pressed") == "true"
    wrong = [index for index in order if rows[index]["error"] == "classification"]
    page.locator(".kinds .kind-classification").click()
    assert shown(page) == wrong[:6]
    assert page.locator("#cards .wrong").count() == len(wrong[:6])
    page.locator(".kinds .kind-correct").click()
    assert {rows[index]["error"] for index in shown(page)} == {"correct"}


def test_filters_hold_for_cards_and_table(one: Made, page: Page) -> None:
    path, (run,) = one
    rows = read_table(run / "images.csv")
    page.goto(path.as_uri())
    page.get_by_role("button", name="All with an image").click()
    imaged = shown(page)
    label = rows[0]["label"]
    page.get_by_label("Class", exact=True).select_option(label=label)
    assert shown(page) == [index for index in imaged if rows[index]["label"] == label]
    assert page.locator("#list tbody tr").count() == sum(row["label"] == label for row in rows)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#list tbody tr")).to_have_count(18)
    page.get_by_label("Search").fill(rows[5]["id"][-7:].upper())
    assert page.locator("#list tbody tr").count() == sum(rows[5]["id"][-7:] in row["id"] for row in rows)
    page.get_by_label("Search").fill("no such image")
    assert page.locator("#count").inner_text() == "0 images: none passes the filter"
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Kind", exact=True).select_option(label="Wrong class")
    assert page.locator("#list tbody tr").count() == sum(row["error"] == "classification" for row in rows)
    page.get_by_label("Kind", exact=True).select_option(label="all kinds")
    page.get_by_label("Order").select_option(label="lowest IoU")
    assert shown(page) == sorted(imaged, key=lambda index: rows[index]["largest"])


def column(page: Page, table: str, place: int) -> list[str]:
    return [
        row.query_selector_all("th, td")[place].inner_text() for row in page.query_selector_all(f"#{table} tbody tr")
    ]


def test_tables_sort_by_every_column_with_mouse_and_keys(one: Made, page: Page) -> None:
    path, _ = one
    page.goto(path.as_uri())
    for table in ("class-table", "list"):
        heads = page.locator(f"#{table} thead tr:last-child th")
        for place in range(heads.count()):
            before = column(page, table, place)
            numbers = "value" in (heads.nth(place).get_attribute("class") or "")
            ascending = sorted(before, key=float) if numbers else sorted(before)
            again = heads.nth(place).get_attribute("aria-sort") == "ascending"
            heads.nth(place).get_by_role("button").click()
            assert heads.nth(place).get_attribute("aria-sort") == ("descending" if again else "ascending")
            assert column(page, table, place) == (ascending[::-1] if again else ascending)
            heads.nth(place).get_by_role("button").focus()
            page.keyboard.press("Enter")
            assert column(page, table, place) == (ascending if again else ascending[::-1])
            assert page.locator(f"#{table} [aria-sort]").count() == 1


def test_a_class_in_the_table_leads_to_its_images(one: Made, page: Page) -> None:
    path, (run,) = one
    rows = read_table(run / "images.csv")
    page.goto(path.as_uri())
    link = page.locator("#class-table .link").nth(1)
    name = link.inner_text()
    link.click()
    assert {rows[index]["label"] for index in shown(page)} == {name}


def test_two_runs_side_by_side(two: Made, page: Page) -> None:
    path, runs = two
    first, second = (read_table(run / "images.csv") for run in runs)
    page.goto(path.as_uri())
    assert page.title().startswith("first · second")
    gaps = [abs(a["largest"] - b["largest"]) for a, b in zip(first, second, strict=True)]
    page.get_by_role("button", name="Runs differ most").click()
    assert [gaps[index] for index in shown(page)] == sorted((gap for gap in gaps if gap > 0), reverse=True)
    image = shown(page)[0]
    for number, run in enumerate(runs):
        assert box_on_page(page, image, number) == pytest.approx(stored_box(run, image, 0.35)[0], abs=1)
    before = box_on_page(page, image, 1)
    page.locator("#threshold-0").fill("90")
    expect(page.locator(".slider output b").first).not_to_have_text("0.35")
    assert box_on_page(page, image, 0) == pytest.approx(stored_box(runs[0], image, 0.9)[0], abs=1)
    assert box_on_page(page, image, 1) == before
    means = [100 * np.mean([row["gt_known"] for row in rows]) for rows in (first, second)]
    line = page.locator(".metrics tbody tr").first.inner_text()
    assert f"{means[0]:.1f}" in line
    assert f"{means[1] - means[0]:+.1f}" in line
    assert re.search(r"p (=|<) 0\.\d+|p = 1\.000", line)


@pytest.mark.parametrize("made", ["one", "two"])
def test_on_a_phone_the_page_does_not_scroll_sideways(
    made: str, phone_page: Page, request: pytest.FixtureRequest
) -> None:
    path, _ = request.getfixturevalue(made)
    phone_page.goto(path.as_uri())
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


@pytest.mark.parametrize("guarded", [True, False])
def test_hostile_names_are_text(guarded: bool, tmp_path: Path, page: Page) -> None:
    """Also without the page's own Content-Security-Policy nothing in a name runs."""
    dataset = named_samples([f"{name} {number}.jpg" for number in range(3) for name in HOSTILE], HOSTILE)
    run = write_evaluation(tmp_path / "<b>run</b>", dataset)
    path = report([run], out=tmp_path / "report.html", title=HOSTILE[0])
    if not guarded:
        text = path.read_text()
        path.write_text(re.sub(r"<meta http-equiv=.*?>\n", "", text, count=1))
        assert path.read_text() != text
    page.goto(path.as_uri())
    for button in page.locator("#galleries button, thead button").all():
        button.click()
    assert page.evaluate("window.hacked === undefined")
    assert page.locator("script").count() == 2
    assert page.locator("h1").inner_text() == HOSTILE[0]
    assert set(column(page, "class-table", 0)) == set(HOSTILE)
    assert page.evaluate(
        "data => [...document.querySelectorAll('#class-table .link')].every(b => data.includes(b.dataset.class))",
        HOSTILE,
    )
    assert page.locator("main img, main b b, svg[onload]").count() == 0


def test_without_images_boxes_are_drawn_on_nothing_and_it_is_said(tmp_path: Path, page: Page) -> None:
    run = write_evaluation(
        tmp_path / "run", scenes(), data={"name": "folder", "root": "/no/such/place", "split": "test", "options": {}}
    )
    page.goto(report([run], out=tmp_path / "report.html").as_uri())
    assert "/no/such/place: no such folder" in page.locator(".notes").inner_text()
    assert "18 of the 18 images in this report could not be read" in page.locator(".notes").inner_text()
    assert page.locator(".no-image").count() == len(shown(page)) > 0
    assert page.locator("rect.truth").count() == len(shown(page))


def test_old_evaluations_work_without_the_slider(tmp_path: Path, page: Page) -> None:
    run = write_evaluation(tmp_path / "run", scenes(), data=SCENES)
    (run / "boxes.npz").unlink()
    page.goto(report([run], out=tmp_path / "report.html").as_uri())
    assert "no threshold slider; measure again with `tokenloc evaluate`" in page.locator(".notes").inner_text()
    assert page.locator(".slider").count() == 0
    assert page.locator(".card img").count() == len(shown(page)) > 0
    assert re.match(r"IoU 0\.\d\d", page.locator(".card .iou").first.inner_text())


def test_classification_alone(tmp_path: Path, page: Page) -> None:
    dataset = named_samples([f"{number}.jpg" for number in range(20)], ["ant", "bee"], boxed=False)
    run = write_evaluation(tmp_path / "run", dataset)
    rows = read_table(run / "images.csv")
    page.goto(report([run], out=tmp_path / "report.html").as_uri())
    assert page.locator(".slider, .chart").count() == 0
    wrong = [index for index, row in enumerate(rows) if not row["top1_cls"]]
    assert shown(page) == wrong
    assert "Top-1 Cls" in page.locator(".metrics").inner_text()
    assert "GT-known" not in page.locator("main").inner_text()


def test_the_file_is_whole(two: Made) -> None:
    text = two[0].read_text()
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)
    assert "url(" not in text
    assert text.count("image/jpeg;base64") == 1  # in the script, which takes the images from the page
    assert text.count('type="text/plain"') == 18


def test_a_slider_has_a_hundred_stops_whatever_the_grid(tmp_path: Path, page: Page) -> None:
    run = write_evaluation(tmp_path / "run", scenes(), protocol="wsol-eval", data=SCENES)
    page.goto(report([run], out=tmp_path / "report.html", images=2).as_uri())
    slider = page.get_by_role("slider")
    assert STOPS - 1 <= int(slider.get_attribute("max") or 0) <= STOPS
    best = read_run(run, "").metrics["threshold"]
    assert float(page.locator(".slider output b").inner_text()) == pytest.approx(best)
