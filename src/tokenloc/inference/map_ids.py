"""Matching of stored maps to images by their ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tokenloc.data.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class MatchedIds:
    """Which map belongs to which image.

    Attributes:
        stored: id of the map by id of the image.
        missing: images without a map.
        surplus: maps without an image.
        differing: images matched although the id of the map differs by an image extension or slashes.
    """

    stored: dict[str, str]
    missing: list[str]
    surplus: list[str]
    differing: list[str]


def match_ids(images: Sequence[str], maps: Sequence[str]) -> MatchedIds:
    """Match maps to images: by equal ids, else by ids without image extension and with forward slashes.

    >>> match_ids(["a/1.jpg", "a/2.jpg"], ["a\\\\1.jpg", "b/3"])
    MatchedIds(stored={'a/1.jpg': 'a\\\\1.jpg'}, missing=['a/2.jpg'], surplus=['b/3'], differing=['a/1.jpg'])

    Raises:
        ValueError: if an id occurs twice, or ids cannot be told apart without extension and slashes.
    """
    _check_unique("map", maps, maps)
    exact = set(maps) & set(images)
    other_images, other_maps = ([id_ for id_ in ids if id_ not in exact] for ids in (images, maps))
    # A map that resembles the id of an image with an exact match is ambiguous.
    contested = {plain_id(id_) for id_ in other_maps}
    _check_unique("map", [*other_maps, *(id_ for id_ in exact if plain_id(id_) in contested)])
    _check_unique("image", [id_ for id_ in other_images if plain_id(id_) in contested])
    similar = {plain_id(id_): id_ for id_ in other_maps}
    stored = {id_: id_ if id_ in exact else similar.get(plain_id(id_)) for id_ in images}
    matched = {id_: map_ for id_, map_ in stored.items() if map_ is not None}
    used = set(matched.values())
    return MatchedIds(
        matched,
        [id_ for id_ in images if id_ not in matched],
        [id_ for id_ in maps if id_ not in used],
        [id_ for id_, map_ in matched.items() if id_ != map_],
    )


def plain_id(id_: str) -> str:
    """Return an id with forward slashes, no leading slash and no image extension.

    >>> plain_id(".\\\\birds\\\\1.JPEG")
    'birds/1'
    """
    path = PurePosixPath(id_.replace("\\", "/").lstrip("/"))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


def _check_unique(kind: str, ids: Sequence[str], keys: Iterable[str] | None = None) -> None:
    counts = Counter(map(plain_id, ids) if keys is None else keys)
    twice = [[id_ for id_ in ids if key in (id_, plain_id(id_))] for key, count in counts.items() if count > 1]
    if twice:
        some = "; ".join(" and ".join(group) for group in twice[:5])
        raise ValueError(f"{len(twice)} {kind} ids occur twice, or differ only by extension or slashes: {some}")
