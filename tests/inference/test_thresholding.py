"""Another threshold on a map that is there gives what a localizer with that threshold gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tokenloc.inference import Localizer
from tokenloc.inference.localizer import Objects
from tokenloc.inference.thresholding import at_threshold


@pytest.mark.parametrize("objects", ["largest", "all"])
@pytest.mark.parametrize("threshold", [0.0, 0.13, 0.5, 0.97, 1.0])
def test_it_is_the_localizers_own(run: Path, threshold: float, objects: Objects) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (57, 91, 3), np.uint8))
    expected = Localizer.from_checkpoint(checkpoint, "cpu", threshold, objects)(image)
    found = at_threshold(Localizer.from_checkpoint(checkpoint, "cpu", 0.3)(image), threshold, objects == "all")
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.mask, expected.mask)
    assert found.finding().to_dict() == expected.finding().to_dict()


def test_all_objects_are_more_than_the_largest(run: Path) -> None:
    localizer = Localizer.from_checkpoint(run / "checkpoints" / "best.ckpt", "cpu")
    images = (np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8) for seed in range(8))
    counts = [len(at_threshold(localizer(image), 0.6, True).boxes) for image in images]
    assert max(counts) > 1


def test_a_threshold_out_of_range(run: Path) -> None:
    result = Localizer.from_checkpoint(run / "checkpoints" / "best.ckpt", "cpu")(Image.new("RGB", (40, 40)))
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1.5"):
        at_threshold(result, 1.5)
