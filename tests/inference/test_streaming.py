"""Streaming any number of images: constant memory, one decoding each, several classes, several threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs import TINY_VIT, prediction_options
from tokenloc.boxes import Frame, prepare_map
from tokenloc.data import Preprocessing, Unreadable, create_dataset
from tokenloc.inference import Localization, Localizer, inputs
from tokenloc.inference.inputs import THREADS, PixelBudget, size_of
from tokenloc.inference.localizer import BATCH
from tokenloc.methods import list_methods
from tokenloc.models import create_model
from tokenloc.models.metadata import ModelMetadata

CLASSES = ("one", "two", "three", "four")


def make(method: str = "tscam", **options: Any) -> Localizer:
    torch.manual_seed(0)
    model = create_model(method, "vit_tiny_patch16_224", len(CLASSES), False, 32, {**TINY_VIT, "depth": 4}).eval()
    metadata = ModelMetadata(model.config, CLASSES, Preprocessing(size=(32, 32), resize=(36, 36)))
    return Localizer(model, metadata, **{"threshold": 0.4, **options})


def make_images(count: int) -> list[Image.Image]:
    scenes = create_dataset("scenes", None, "test", size=(45, 38), length=count)
    return [scenes.image(index) for index in range(count)]


def values(result: Localization | Unreadable) -> object:
    assert isinstance(result, Localization)
    return result.class_index, result.score, result.boxes.tolist(), result.map.tobytes(), result.mask.tobytes()


class Alive:
    """Counts the objects of one kind: alive now, at most at any time, in total."""

    def __init__(self) -> None:
        self.now = self.most = self.ever = 0
        self._lock = threading.RLock()

    def add(self, thing: object) -> None:
        weakref.finalize(thing, self._change, -1)
        self._change(1)
        self.ever += 1

    def _change(self, by: int) -> None:
        with self._lock:
            self.now += by
            self.most = max(self.most, self.now)


@pytest.mark.parametrize("keep_images", [False, True])
def test_memory_is_constant_over_thousands_of_images(keep_images: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, images, tensors, results = 8, Alive(), Alive(), Alive()
    localizer = make()
    transform = localizer.predictor.transform

    def counting(image: Image.Image) -> tuple[torch.Tensor, Frame]:
        tensor, frame = transform(image)
        images.add(image)
        tensors.add(tensor)
        return tensor, frame

    monkeypatch.setattr(localizer.predictor, "transform", counting)
    generated = (Image.new("RGB", (9, 8), (index % 256, 0, 0)) for index in range(2000))
    for found in localizer.predict(generated, batch, keep_images=keep_images):
        assert not isinstance(found, Unreadable)
        assert (found.image is not None) == keep_images
        results.add(found.results[0])
    for kind in (images, tensors, results):
        assert kind.ever == 2000
        # A batch, one in the network, one that was read ahead, one per thread, and the current one.
        assert kind.most <= 3 * batch + THREADS + 2
    assert images.most <= (3 * batch if keep_images else 0) + THREADS + 2


def test_a_stream_equals_sequential_reading() -> None:
    localizer, images = make(), make_images(21)
    streamed = [values(result) for result in localizer.stream(iter(images), batch_size=4)]
    read = [localizer._read(image) for image in images]
    plain = [localizer._run_network(read[start : start + 4], 1) for start in range(0, 21, 4)]
    assert streamed == [values(localizer._localize(found).results[0]) for batch in plain for found in batch]


def test_each_image_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = make_images(3)
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for image, path in zip(images, paths, strict=True):
        image.save(path)
    decoded: list[str] = []
    read = inputs.read_image
    monkeypatch.setattr(
        inputs, "read_image", lambda path, **options: decoded.append(str(path)) or read(path, **options)
    )
    found = list(make().predict(paths, keep_images=True))
    assert sorted(decoded) == [str(path) for path in paths]
    for one, image in zip(found, images, strict=True):
        assert not isinstance(one, Unreadable)
        assert one.image is not None
        assert np.array_equal(np.asarray(one.image), np.asarray(image))


def test_images_are_read_while_the_network_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network waits for an image of the next batch, which only arrives if it is read ahead."""
    localizer, third_read = make(), threading.Event()
    read, run_network = localizer._read, localizer._run_network

    def noted(image: Any, *others: Any) -> Any:
        result = read(image, *others)
        if image.info.get("third"):
            third_read.set()
        return result

    waited: list[bool] = []

    def waiting(batch: Any, top_k: int) -> Any:
        waited.append(third_read.wait(20))
        return run_network(batch, top_k)

    monkeypatch.setattr(localizer, "_read", noted)
    monkeypatch.setattr(localizer, "_run_network", waiting)
    images = make_images(4)
    images[2].info["third"] = True
    assert len(list(localizer.stream(images, batch_size=2))) == 4
    assert waited == [True, True]


def test_threads_hold_no_more_pixels_than_the_budget() -> None:
    budget, held, most, lock = PixelBudget(100), 0, 0, threading.Lock()

    def hold(height: int) -> None:
        nonlocal held, most
        with budget.hold((10, height)):
            with lock:
                held += 1 if height == 4 else 2
                most = max(most, held)
            started.wait(0.01)
            with lock:
                held -= 1 if height == 4 else 2

    started = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hold, [4, 4, 4, 1000, 4, 4, 7, 4] * 4))  # 400 pixels: two fit; more than 600: one at a time
    assert most == 2


@pytest.mark.parametrize("stream", [True, False])
def test_images_count_against_the_budget_while_they_are_read(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []

    class Recording(PixelBudget):
        def hold(self, size: tuple[int, int]) -> Any:
            sizes.append(size)
            return super().hold(size)

    monkeypatch.setattr("tokenloc.inference.localizer.ORIGINALS", Recording(1000))
    localizer, images = make(), make_images(3)
    list(localizer.stream(images)) if stream else localizer(images)
    assert sizes == [(45, 38)] * 3


def test_the_size_of_an_image_is_known_before_it_is_decoded(tmp_path: Path) -> None:
    (image,) = make_images(1)
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    forms = (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), image, array, torch.tensor(array).permute(2, 0, 1))
    assert [size_of(form) for form in forms] == [(45, 38)] * 5


def test_closing_a_stream_ends_its_threads() -> None:
    before = threading.active_count()
    endless: Iterator[Image.Image] = iter(lambda: Image.new("RGB", (9, 8)), None)
    stream = make().stream(endless, batch_size=2)
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_an_iterator_of_images_is_consumed_lazily() -> None:
    localizer, images = make(), make_images(64)
    taken: list[Image.Image] = []
    results = localizer(taken.append(image) or image for image in images)
    assert isinstance(results, Iterator)
    assert not taken
    first = next(results)
    assert 0 < len(taken) <= 3 * BATCH + 1
    assert [values(one) for one in (first, *results)] == [values(one) for one in localizer(images)]


def test_an_unreadable_image_of_an_iterator_raises_and_ends_the_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    results = make()(iter([*make_images(BATCH), tmp_path / "gone.jpg"]))
    assert len([next(results) for _ in range(BATCH)]) == BATCH
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg: no such image"):
        next(results)
    assert threading.active_count() == before


@pytest.mark.slow
@pytest.mark.parametrize("method", list_methods())
def test_many_threads_give_the_results_of_one(method: str) -> None:
    """Eight threads call every method of one localizer, each with the images in another order."""
    refine = () if method == "lcar" else ("affinity",)
    localizer, images = make(method, options=prediction_options(scales=(32, 48), refine=refine)), make_images(4)
    ways = (
        lambda image: values(localizer(image)),
        lambda image: [values(one) for one in localizer.top(image, 3)],
        lambda image: [values(one) for one in localizer([image, images[0]])],
        lambda image: [values(one) for one in localizer.stream([image, images[0]], batch_size=1)],
        lambda image: {name: part.tobytes() for name, part in localizer.intermediate_maps(image).items()},
    )
    jobs = [(way, image) for way in ways for image in images]
    expected = [way(image) for way, image in jobs]
    start = threading.Barrier(8)

    def all_of(first: int) -> list[object]:
        start.wait()
        order = [(first + step) % len(jobs) for step in range(len(jobs))]
        found = {index: jobs[index][0](jobs[index][1]) for index in order}
        return [found[index] for index in range(len(jobs))]

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(all_of, range(8)):
            assert found == expected


@pytest.mark.parametrize("method", list_methods())
def test_top_classes_have_their_own_maps(method: str) -> None:
    localizer, (image,) = make(method), make_images(1)
    found = localizer.top(image, 3)
    tensor = localizer.predictor.transform(image)[0][None]
    with torch.inference_mode():
        logits = localizer.model.localize(tensor)[0][0]
        chances = logits.softmax(0)
        order = sorted(range(4), key=lambda index: -chances[index].item())[:3]
        alone = [localizer.predictor.class_maps(tensor, torch.tensor([[index]])).maps for index in order]
    assert [result.class_index for result in found] == order
    assert [result.label for result in found] == [CLASSES[index] for index in order]
    assert [result.score for result in found] == pytest.approx([chances[index].item() for index in order], abs=1e-6)
    for result, map_ in zip(found, alone, strict=True):
        prepared = prepare_map(map_[0, 0].numpy(), (32, 32), localizer.protocol)
        np.testing.assert_allclose(result.map, prepared, atol=1e-5)
    first = localizer(image)
    assert first.boxes.tolist() == found[0].boxes.tolist()
    (streamed,) = localizer.predict([image], top_k=3)
    assert not isinstance(streamed, Unreadable)
    assert [values(result) for result in streamed.results] == [values(result) for result in found]


def test_below_min_score_there_is_no_box() -> None:
    (image,) = make_images(1)
    score = make()(image).score
    at, above = make(min_score=score)(image), make(min_score=score + 1e-6)(image)
    assert len(at.boxes) == 1
    assert at.mask.any()
    assert len(above.boxes) == 0
    assert not above.mask.any()
    assert above.score == score
    assert above.map.tobytes() == at.map.tobytes()
    assert len(make(min_score=score + 1e-6, objects="all")(image).boxes) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make().top(make_images(1)[0], 0), "top_k, must lie in 1 … 4; got 0"),
        (lambda: make().predict([], top_k=5), "top_k, must lie in 1 … 4; got 5"),
        (lambda: make(min_score=50), r"min_score must lie in \[0, 1\]; got 50"),
        (lambda: list(make().stream([], batch_size=0)), "batch_size must be at least 1; got 0"),
    ],
)
def test_values_out_of_range_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
