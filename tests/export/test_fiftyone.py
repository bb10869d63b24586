"""FiftyOne datasets, where FiftyOne is installed and its database starts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.export.examples import localization
from tokenloc.boxes import Frame
from tokenloc.export.fiftyone import add_localizations

BOXES = ((20.0, 10.0, 60.0, 30.0), (0.0, 0.0, 8.0, 4.0))


@pytest.fixture
def dataset() -> Iterator[Any]:
    if find_spec("fiftyone") is None:
        pytest.skip("FiftyOne is not installed: pip install fiftyone")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of FiftyOne and its dependencies
        fiftyone = import_module("fiftyone")
        try:
            opened = fiftyone.Dataset()
        except fiftyone.core.config.FiftyOneConfigError as error:
            pytest.skip(f"FiftyOne's database does not start: {error}")
        yield opened
        opened.delete()


@pytest.mark.slow
def test_detections_and_heatmaps_of_a_dataset(dataset: Any, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (80, 40)).save(tmp_path / name)
    dataset.add_dir(str(tmp_path), dataset_type=import_module("fiftyone.types").ImageDirectory)
    left = np.zeros((4, 8), np.float32)
    left[:, :4] = 1
    located = localization(str(tmp_path / "a.png"), BOXES)
    located = replace(located, map=left, mask=left > 0, frame=Frame.resized((80, 40), (8, 4)))
    elsewhere = str(tmp_path / "elsewhere.png")
    for results in ([localization(str(tmp_path / "a.png"), [])], [located, localization(elsewhere, [])]):
        add_localizations(dataset, results)

    assert sorted(Path(path).name for path in dataset.values("filepath")) == ["a.png", "b.png", "elsewhere.png"]
    sample = dataset[str(tmp_path / "a.png")]
    found = [(one.label, one.bounding_box, one.confidence, one.score) for one in sample.tokenloc.detections]
    assert found == [("bird", [0.25, 0.25, 0.5, 0.5], 0.375, 0.75), ("bird", [0.0, 0.0, 0.1, 0.1], 0.25, 0.75)]
    assert np.array_equal(sample.tokenloc_map.map, 255 * left)
    assert dataset[str(tmp_path / "b.png")].tokenloc is None
    assert dataset[elsewhere].tokenloc.detections == []
    assert dataset.count("tokenloc.detections") == 2
