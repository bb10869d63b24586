"""Models look once at an image, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tokenloc.inference import Localization, Localizer, PredictionOptions
from tokenloc.server.models import KEPT, REFINEMENTS, SHOWN_SIDE, Models, load_models


@pytest.fixture
def models(localizer: Localizer) -> Models:
    return Models({"tiny": localizer}, max_pixels=4_000_000)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The counts of classes of each time that a network was asked."""
    asked: list[int] = []
    top: Callable[..., Any] = Localizer.top

    def counted(self: Localizer, image: Any, count: int) -> list[Localization]:
        asked.append(count)
        return top(self, image, count)

    monkeypatch.setattr(Localizer, "top", counted)
    return asked


@pytest.mark.parametrize("refinement", ["the method's own", "none", "affinity"])
def test_it_sees_what_a_localizer_sees(models: Models, localizer: Localizer, photo: Path, refinement: str) -> None:
    sight = models.look(photo, "tiny", refinement, 2)
    options = PredictionOptions(refine=REFINEMENTS[refinement])
    expected = Localizer(localizer.model, localizer.metadata, localizer.threshold, options=options).top(photo, 2)
    assert [result.label for result in sight.results] == [result.label for result in expected]
    for result, other in zip(sight.results, expected, strict=True):
        np.testing.assert_array_equal(result.boxes, other.boxes)
        np.testing.assert_array_equal(result.map, other.map)
    assert len(sight.heatmaps) == 2
    assert all(address.startswith("data:image/jpeg;base64,") for address in (sight.image, *sight.heatmaps))


def test_it_looks_once(models: Models, photo: Path, looks: list[int]) -> None:
    first = models.look(photo, "tiny")
    assert models.look(photo, "tiny") is first
    models.look(photo, "tiny", count=2)
    models.look(photo, "tiny", "none")
    assert looks == [1, 2, 1]


def test_threads_that_ask_at_once_are_answered_by_one_look(models: Models, photo: Path, looks: list[int]) -> None:
    with ThreadPoolExecutor(8) as pool:
        sights = list(pool.map(lambda _: models.look(photo, "tiny"), range(24)))
    assert looks == [1]
    assert len(set(map(id, sights))) == 1


def test_it_forgets_the_oldest(models: Models, tmp_path: Path, looks: list[int]) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(KEPT + 1)]
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
        models.look(path, "tiny")
    models.look(paths[1], "tiny")
    assert len(looks) == KEPT + 1
    models.look(paths[0], "tiny")
    assert len(looks) == KEPT + 2


def test_large_images_are_shown_smaller_but_measured_in_their_own_pixels(models: Models, tmp_path: Path) -> None:
    path = tmp_path / "wide.jpg"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (600, 2000, 3), np.uint8)).save(path)
    sight = models.look(path, "tiny")
    assert sight.results[0].size == (2000, 600)
    assert sight.results[0].boxes.max() > SHOWN_SIDE


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"model": "x"}, "unknown model 'x'.*Valid: tiny"),
        ({"model": "tiny", "refinement": "afinity"}, "did you mean 'affinity'"),
        ({"model": "tiny", "count": 0}, "must lie in 1 … 10; got 0"),
        ({"model": "tiny", "count": 11}, "got 11"),
    ],
)
def test_wishes_that_make_no_sense(models: Models, photo: Path, wish: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.look(photo, **wish)


def test_a_image_of_too_many_pixels(localizer: Localizer, photo: Path) -> None:
    with pytest.raises(ValueError, match="90x60 is more than max_pixels = 5,399"):
        Models({"tiny": localizer}, 5399).look(photo, "tiny")
    assert Models({"tiny": localizer}, 5400).look(photo, "tiny").results


def test_checkpoints_are_named_by_method_and_run(run: Path, tmp_path: Path) -> None:
    best, last = run / "checkpoints" / "best.ckpt", run / "checkpoints" / "last.ckpt"
    models = load_models([best, last], "cpu", 1000)
    assert list(models.localizers) == ["tscam · run/best", "tscam · run/last"]
    copy = tmp_path / "run" / "checkpoints" / "best.ckpt"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(best.read_bytes())
    assert list(load_models([best, copy], "cpu", 1000).localizers)[1] == f"tscam · run/best ({copy})"
    with pytest.raises(ValueError, match="given twice: .*best.ckpt, .*best.ckpt, .*best.ckpt"):
        load_models([best, best, best], "cpu", 1000)
