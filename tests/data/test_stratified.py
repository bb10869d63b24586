"""Seeded splits: disjoint, complete, stable, with every class in every part."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenloc.data.base import ImageDataset, Sample
from tokenloc.data.stratified import few_shot, stratified_indices


def _dataset(counts: dict[str, int]) -> ImageDataset:
    classes = sorted(counts)
    samples = [Sample(f"{name}/{n}.jpg", None, classes.index(name)) for name in classes for n in range(counts[name])]
    return ImageDataset("train", classes, samples)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(3, 40), min_size=1, max_size=6), st.floats(0.01, 0.5), st.floats(0.01, 0.3), st.integers(0, 99)
)
def test_parts_are_disjoint_complete_and_hold_every_class(
    counts: list[int], first: float, second: float, seed: int
) -> None:
    names = [f"class {label}" for label, count in enumerate(counts) for _ in range(count)]
    ids = [str(number) for number in range(len(names))]
    parts = stratified_indices(ids, names, [first, second], seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(ids)))
    for part, fraction in zip(parts, [first, second, 1 - first - second], strict=True):
        assert part.tolist() == sorted(part.tolist())
        for label, count in enumerate(counts):
            held = sum(names[index] == f"class {label}" for index in part)
            assert held >= 1
            assert abs(held - fraction * count) <= 2


def _held_out(counts: dict[str, int], fraction: float, seed: int = 0) -> list[str]:
    dataset = _dataset(counts)
    names = [dataset.classes[label] for label in dataset.labels]
    return [dataset.ids[index] for index in stratified_indices(dataset.ids, names, [fraction], seed)[0]]


def test_a_split_is_the_same_every_time_and_another_for_another_seed() -> None:
    splits = [_held_out({"ant": 30}, 0.5, seed) for seed in (4, 4, 5)]
    assert splits[0] == splits[1] != splits[2]
    assert splits[0][:4] == ["ant/2.jpg", "ant/4.jpg", "ant/6.jpg", "ant/8.jpg"]  # on any machine


def test_a_class_is_split_independently_of_the_others() -> None:
    both = _held_out({"ant": 30, "bee": 30}, 0.4)
    assert [name for name in both if name.startswith("bee")] == _held_out({"bee": 30}, 0.4)


@pytest.mark.parametrize("fractions", [[0.0], [-0.1], [1.0], [0.5, 0.5], [float("nan")]])
def test_fractions_out_of_range_are_refused(fractions: list[float]) -> None:
    with pytest.raises(ValueError, match="fractions must be above 0 and sum up to less than 1, got"):
        stratified_indices(["a", "b"], ["x", "x"], fractions)


def test_scarce_classes_are_reported() -> None:
    with pytest.raises(ValueError, match=r"every class in all 2 parts: bee with 1; add images, or choose .*\[0.2\]"):
        stratified_indices(list("abcdef"), ["ant"] * 5 + ["bee"], [0.2])
    with pytest.raises(ValueError, match="every class in all 3 parts: bee with 2"):
        stratified_indices(list("abcde"), ["ant"] * 3 + ["bee"] * 2, [0.1, 0.1])


def test_rounding_never_takes_the_last_sample_of_the_rest() -> None:
    parts = stratified_indices(["a", "b", "c"], ["x"] * 3, [0.5, 0.25])
    assert [len(part) for part in parts] == [1, 1, 1]


@pytest.mark.parametrize("per_class", [1, 3, 5])
def test_few_of_every_class(per_class: int) -> None:
    dataset = _dataset({"ant": 5, "bee": 9, "cat": 30})
    drawn = few_shot(dataset, per_class, draw=2)
    assert [sample.label for sample in drawn] == [label for label in range(3) for _ in range(per_class)]
    assert drawn.classes == dataset.classes
    assert {sample.id for sample in drawn} <= {sample.id for sample in dataset}
    assert [sample.id for sample in few_shot(dataset, per_class, draw=2)] == [sample.id for sample in drawn]


def test_draws_differ_are_nested_and_independent() -> None:
    dataset = _dataset({"ant": 30, "bee": 30})
    draws = [{sample.id for sample in few_shot(dataset, 3, draw)} for draw in range(10)]
    assert len({frozenset(drawn) for drawn in draws}) == 10
    for draw, drawn in enumerate(draws):
        assert drawn < {sample.id for sample in few_shot(dataset, 5, draw)}
    alone = {sample.id for sample in few_shot(_dataset({"bee": 30}), 3, 4)}
    assert alone == {id_ for id_ in draws[4] if id_.startswith("bee")}
    counts = [sum(f"ant/{number}.jpg" in drawn for drawn in draws) for number in range(30)]
    assert max(counts) <= 5


def test_too_large_and_too_small_draws_are_refused() -> None:
    dataset = _dataset({"ant": 2, "bee": 5, "cat": 3})
    with pytest.raises(ValueError, match="asks for 4 images of each class; .* has fewer of ant with 2, cat with 3"):
        few_shot(dataset, 4)
    with pytest.raises(ValueError, match=r"data\.per_class must be at least 1; got 0"):
        few_shot(dataset, 0)
