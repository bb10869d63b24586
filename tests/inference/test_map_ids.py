from __future__ import annotations

import pytest

from tokenloc.inference.stored_maps import match_ids


def test_equal_ids_are_matched() -> None:
    found = match_ids(["a/1.jpg", "a/1.png", "b"], ["b", "a/1.png", "a/1.jpg"])
    assert found.stored == {"a/1.jpg": "a/1.jpg", "a/1.png": "a/1.png", "b": "b"}
    assert (found.missing, found.surplus, found.differing) == ([], [], [])


@pytest.mark.parametrize("stored", ["a/1", "a/1.JPEG", "a\\1.jpg", "./a/1.jpg", "/a/1.png"])
def test_extension_and_slashes_may_differ(stored: str) -> None:
    found = match_ids(["a/1.jpg", "2.5/x"], ["2.5/x", stored])
    assert found.stored["a/1.jpg"] == stored
    assert found.differing == ["a/1.jpg"]


def test_other_endings_are_part_of_the_id() -> None:
    found = match_ids(["scan.1", "scan.2"], ["scan"])
    assert found.missing == ["scan.1", "scan.2"]


def test_missing_and_surplus_are_named() -> None:
    found = match_ids(["a", "b", "c"], ["c", "x/a", "d"])
    assert found.missing == ["a", "b"]
    assert found.surplus == ["x/a", "d"]


@pytest.mark.parametrize(
    ("images", "maps", "message"),
    [
        (["a.jpg"], ["a", "a.png"], r"1 map ids occur twice, or differ only by extension or slashes: a and a\.png"),
        (["a.jpg"], ["a.jpg", "a"], r"map ids .*slashes: (a and a\.jpg|a\.jpg and a)"),
        (["a.jpg", "a.png"], ["a"], r"1 image ids occur twice, .*: a\.jpg and a\.png"),
        (["a"], ["a", "a"], "1 map ids occur twice, .*: a and a"),
    ],
)
def test_ambiguous_ids_are_refused(images: list[str], maps: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_ids(images, maps)
