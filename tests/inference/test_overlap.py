"""The network predicts the next batch while the boxes of the previous one are found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.inference.test_streaming import make, make_images
from tokenloc.boxes import get_protocol
from tokenloc.data import create_dataset
from tokenloc.inference import Predictor
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.metrics import Scorer


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str], list[bool]]:
    """Return a function that makes a method of a class wait for the second batch; it returns whether one came."""
    second, batches = threading.Event(), iter(range(99))
    class_maps = Predictor.class_maps

    def counting(self: Predictor, *arguments: Any) -> Any:
        if next(batches) == 1:
            second.set()
        return class_maps(self, *arguments)

    def patch(owner: type, name: str) -> list[bool]:
        original, came = getattr(owner, name), list[bool]()

        def wait(*arguments: Any, **options: Any) -> Any:
            came.append(second.wait(10))
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, wait)
        return came

    monkeypatch.setattr(Predictor, "class_maps", counting)
    return patch


def test_localizer(waiting: Callable[[type, str], list[bool]]) -> None:
    came = waiting(Predictor, "boxes")
    assert len(list(make().stream(make_images(4), batch_size=2))) == 4
    assert came == [True] * 4


def test_evaluation(waiting: Callable[[type, str], list[bool]]) -> None:
    came, localizer = waiting(Scorer, "score"), make()
    scenes = create_dataset("scenes", None, "test", size=40, length=4)
    scorer = Scorer(get_protocol("standard"))
    result = evaluate_model(localizer.model, scenes, localizer.metadata.preprocessing, scorer, batch_size=2)
    assert (len(result.images), came) == (4, [True] * 4)


def test_an_unreadable_image_is_an_error_after_the_batches_before_it() -> None:
    found = make()(iter([*make_images(20), "no-such-file.jpg"]))
    assert [next(found).source for _ in range(16)] == ["image in memory"] * 16
    with pytest.raises(FileNotFoundError, match=r"no-such-file\.jpg"):
        list(found)
