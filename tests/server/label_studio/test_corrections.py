"""Corrections from Label Studio: what is kept, and the threshold that they calibrate."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.server.label_studio.stand_in import Client
from tokenloc.boxes import box_iou
from tokenloc.inference import Localizer
from tokenloc.inference.evaluation import CLEARLY
from tokenloc.server import corrections
from tokenloc.server.corrections import best_threshold
from tokenloc.server.task_images import TaskImages


@pytest.fixture
def corrected(backend: Client, localizer: Localizer, root: Path) -> list[tuple[str, str, np.ndarray]]:
    """Address, label and boxes of images, in percent, that the model finds at threshold 0.9 but not at its own."""
    found = []
    for seed in range(40):
        image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 90, 3), np.uint8))
        high, own = localizer(image, threshold=0.9), localizer(image)
        if own.label in localizer.classes[:2] and box_iou(high.boxes, own.boxes)[0, 0] < 0.4:
            image.save(root / f"{seed}.png")
            boxes = 100 * high.boxes / np.tile(high.size, 2)
            found.append((f"/data/local-files/?d={seed}.png", own.label, boxes))
    assert len(found) > CLEARLY
    return found


def test_corrections_calibrate_the_threshold_and_survive_a_restart(
    backend: Client, localizer: Localizer, tmp_path: Path, images: TaskImages, corrected: Any
) -> None:
    before = backend.predict(corrected[0][0]).json()["results"]
    for task, (address, label, boxes) in enumerate(corrected[:CLEARLY]):
        assert backend.service.version == "tiny, threshold 0.4"
        assert backend.submit(task, label, boxes, address).json()["corrections"] == task + 1
    threshold = backend.service.corrections.threshold
    assert threshold > 0.5
    assert localizer.threshold == 0.4
    (after,) = backend.predict(corrected[0][0]).json()["results"]
    assert after["model_version"] == f"tiny, threshold {threshold:g}"
    assert after != before
    for address, _, boxes in corrected[:CLEARLY]:
        found = localizer(images.read(address), threshold=threshold)
        assert box_iou(100 * found.boxes / np.tile(found.size, 2), boxes)[0, 0] >= 0.5

    backend.close()
    again = Client(localizer, tmp_path / "corrections", images)
    assert again.service.corrections.threshold == threshold
    again.close()
    model = deepcopy(localizer.model)
    next(model.parameters()).data.mul_(1.01)
    other = Client(Localizer(model, localizer.metadata, 0.4), tmp_path / "corrections", images)
    assert other.service.version == "tiny, threshold 0.4"
    assert len(other.service.corrections.pending()) == CLEARLY
    other.post("setup", other.recorded["setup"])
    assert other.service.corrections.pending() == []
    other.close()


def test_a_correction_is_replaced_skipped_or_deleted(backend: Client, corrected: Any) -> None:
    (address, label, boxes), store = corrected[0], backend.service.corrections
    for task in range(CLEARLY):  # the same image, in other tasks
        backend.submit(task, label, boxes, address)
    assert store.threshold != 0.4
    backend.submit(0, label, [[0, 0, 100, 100]], address, id=500)
    assert (len(store), store.threshold) == (CLEARLY, 0.4)
    backend.submit(0, label, boxes, address, id=500)
    assert store.threshold != 0.4
    backend.submit(0, label, boxes, address, id=500, was_cancelled=True)
    assert (len(store), store.threshold) == (CLEARLY - 1, 0.4)
    deleted = backend.recorded["deleted"]
    deleted["annotations"] = [{"id": 101}, {"id": 102}]
    assert backend.post("webhook", deleted).json()["corrections"] == CLEARLY - 3
    assert backend.post("webhook", {"action": "START_TRAINING"}).json()["corrections"] == CLEARLY - 3


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rotation": 3}, "rotated by 3 degrees"),
        ({"width": 0}, "inverted or empty"),
        ({"x": 200}, "outside the image"),
        ({"x": "9"}, "not a region of rectanglelabels"),
        ({"rectanglelabels": []}, "as its rectanglelabels"),
    ],
)
def test_invalid_boxes_are_reported(backend: Client, value: dict[str, Any], message: str) -> None:
    event = backend.recorded["created"]
    event["annotation"]["result"][0]["value"].update(value)
    response = backend.post("webhook", event)
    assert (response.status_code, message in response.json()["error"]) == (400, True), response.text


def test_an_image_that_cannot_be_read_is_not_tried_again(
    backend: Client, corrected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, label, boxes = corrected[0]
    for _ in range(2):
        backend.submit(0, label, boxes, "/data/local-files/?d=none.png")
        assert len(backend.service.corrections.pending()) == 1
    assert caplog.text.count("the correction of task 0 is not used") == 1


def test_corrections_are_bounded_and_their_file_is_checked(
    backend: Client, corrected: Any, monkeypatch: pytest.MonkeyPatch, localizer: Localizer, images: TaskImages
) -> None:
    monkeypatch.setattr(corrections, "MOST", 2)
    for task, (address, label, boxes) in enumerate(corrected[:4]):
        backend.submit(task, label, boxes, address)
    store = backend.service.corrections
    content = json.loads(store.path.read_text(encoding="utf-8"))
    assert [one["task"] for one in content["corrections"]] == [2, 3]
    backend.close()
    values = content["corrections"][0]
    odd = [[], {"model": 1}, {**content, "corrections": [{}]}, {**content, "corrections": [{**values, "more": 1}]}]
    odd += [{**content, "corrections": [{**values, name: None}]} for name in values if name != "iou"]
    odd += [{**content, "corrections": [{**values, "boxes": [[1.0]]}]}]
    for each in [*odd, "{", "[" * 100_000]:
        store.path.write_text(each if isinstance(each, str) else json.dumps(each), "utf-8")
        with pytest.raises(ValueError, match="corrections.json is not a file of corrections"):
            Client(localizer, store.path.parent, images)


def test_two_servers_do_not_share_a_folder(backend: Client, localizer: Localizer, tmp_path: Path, images: Any) -> None:
    pytest.importorskip("fcntl")
    code = "import sys; from tokenloc._files import exclusive_lock\nwith exclusive_lock(sys.argv[1]): pass"
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "corrections")], capture_output=True, text=True
    )
    assert "is in use by another run" in process.stderr


@pytest.mark.parametrize(
    ("hits", "default", "expected"),
    [
        ([[0, 1, 1]] * 5, 0.0, 0.0),  # five more: may be chance
        ([[0, 1, 1]] * 6, 0.0, 0.2),  # of equal ones, that with the higher IoU
        ([[0, 1, 1]] * 6, 0.1, 0.1),
        ([[0, 1, 1]] * 6 + [[1, 0, 0]], 0.0, 0.0),
        ([[0, 1, 1]] * 6, 0.04, 0.2),  # between the thresholds of the grid
    ],
)
def test_the_default_stays_unless_it_is_clearly_beaten(hits: Any, default: float, expected: float) -> None:
    iou = np.array(hits) * [50, 50, 60] + (1 - np.array(hits)) * 49
    assert best_threshold(iou, np.array([0.0, 0.1, 0.2]), default) == expected
    assert best_threshold(np.zeros((0, 3), int), np.array([0.0, 0.1, 0.2]), default) == default
