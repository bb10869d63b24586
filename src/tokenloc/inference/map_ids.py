"""Which stored map is whose: the ids of maps against those of the images of a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from tokenloc.data.images import IMAGE_SUFFIXES


@dataclass(frozen=True)
class MatchedIds:
    """Which map belongs to which image.

    Args:
        stored: For each image's id the map's, where there is one.
        missing: Images without a map.
        surplus: Maps without an image.
        differing: Images whose map's id differs by an image's extension or by slashes; they are matched.
    """

    stored: dict[str, str]
    missing: list[str]
    surplus: list[str]
    differing: list[str]


def match_ids(images: Sequence[str], maps: Sequence[str]) -> MatchedIds:
    """Match maps to images: by the very same id, else by what is left without extension and with plain slashes.

    >>> match_ids(["a/1.jpg", "a/2.jpg"], ["a\\\\1.jpg", "b/3"])
    MatchedIds(stored={'a/1.jpg': 'a\\\\1.jpg'}, missing=['a/2.jpg'], surplus=['b/3'], differing=['a/1.jpg'])

    Raises:
        ValueError: where an id is there twice, or two ids that differ by extension or slashes alone would be one.
    """
    _refuse_twice("map", maps, maps)
    exact = set(maps) & set(images)
    other_images, other_maps = ([id_ for id_ in ids if id_ not in exact] for ids in (images, maps))
    # A map that is near to an image with a map of its own is one too many for it.
    contested = {plain_id(id_) for id_ in other_maps}
    _refuse_twice("map", [*other_maps, *(id_ for id_ in exact if plain_id(id_) in contested)])
    _refuse_twice("image", [id_ for id_ in other_images if plain_id(id_) in contested])
    near = {plain_id(id_): id_ for id_ in other_maps}
    matched = {id_: id_ if id_ in exact else near.get(plain_id(id_)) for id_ in images}
    stored = {id_: found for id_, found in matched.items() if found is not None}
    used = set(stored.values())
    return MatchedIds(
        stored,
        [id_ for id_ in images if id_ not in stored],
        [id_ for id_ in maps if id_ not in used],
        [id_ for id_, found in stored.items() if id_ != found],
    )


def plain_id(id_: str) -> str:
    """Return an id with forward slashes, none before it, and without an image's extension.

    >>> plain_id(".\\\\birds\\\\1.JPEG")
    'birds/1'
    """
    path = PurePosixPath(id_.replace("\\", "/").lstrip("/"))
    return str(path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path)


def _refuse_twice(what: str, ids: Sequence[str], keys: Iterable[str] | None = None) -> None:
    counts = Counter(map(plain_id, ids) if keys is None else keys)
    twice = [[id_ for id_ in ids if key in (id_, plain_id(id_))] for key, count in counts.items() if count > 1]
    if twice:
        some = "; ".join(" and ".join(group) for group in twice[:5])
        raise ValueError(f"{len(twice)} {what}s are there twice, or differ by extension or slashes alone: {some}")
