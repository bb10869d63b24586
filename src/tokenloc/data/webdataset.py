"""WebDataset tars of any origin: which members make a sample. Headers alone are read, and nothing is extracted.

Members of one name up to the first dot after the last slash are a sample: KEY.jpg, KEY.cls, KEY.json …
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from tokenloc.data.base import NO_BOXES
from tokenloc.data.images import IMAGE_SUFFIXES
from tokenloc.data.shard_index import ShardIndex, read_part

LABEL = "cls"
_LONGEST_LABEL = 32  # bytes, space around it among them
_LONGEST_NUMBER = 9  # digits


def scan(tar: Path) -> ShardIndex:
    """Return the index of a tar of images (KEY.jpg or another image's suffix) and class indices (KEY.cls).

    Ids are the images' names below the tar's own: `00000/KEY.jpg`. Members of other suffixes are left alone.

    Raises:
        ValueError: for a damaged or compressed tar, for a member that is a link or whose name leads out of the tar, for
            an image without a class, and for a tar without images.
        OSError: where the tar cannot be read.
    """
    ids: list[str] = []
    rows: list[tuple[int, int, int]] = []
    for key, members in _samples(tar):
        images = [suffix for suffix in members if "." + suffix.rpartition(".")[2] in IMAGE_SUFFIXES]
        if not images:
            continue
        first = members[images[0]]
        if len(images) > 1 or LABEL not in members:
            found = ", ".join(f"{key}.{suffix}" for suffix in members)
            raise ValueError(f"{tar}: {key} needs one image and its class, {key}.{LABEL}; there is {found}")
        ids.append(f"{tar.stem}/{first.name}")
        rows.append((_label(tar, members[LABEL]), first.offset_data, first.size))
    if not rows:
        raise ValueError(f"{tar} holds no image; expected members KEY.jpg and KEY.{LABEL}")
    labels, offsets, sizes = np.array(rows, np.int64).T
    return ShardIndex(ids, labels, offsets, sizes, np.zeros(len(ids), np.int64), NO_BOXES, tar.stat().st_size)


def _samples(tar: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Yield the samples of a tar: (key, members by suffix), of members that follow one another."""
    key, members = "", dict[str, tarfile.TarInfo]()
    for member in _members(tar):
        folder, slash, name = member.name.rpartition("/")
        stem, _, suffix = name.partition(".")
        if members and folder + slash + stem != key:
            yield key, members
            members = {}
        key = folder + slash + stem
        members[suffix.lower()] = member
    if members:
        yield key, members


def _members(tar: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the files in a tar; raise ValueError where it is no tar, cut short, or has other things in it."""
    try:
        with tarfile.open(tar, "r:") as opened:
            for member in opened:
                if member.isdir():
                    continue
                path = PurePosixPath(member.name)
                if not member.isreg() or member.issparse() or path.is_absolute() or ".." in path.parts:
                    raise ValueError(f"{tar}: member {member.name!r} is no plain file in the tar, and is not read")
                yield member
    except tarfile.TarError as error:
        raise ValueError(f"{tar} is no tar, compressed, or cut short ({error}); copy it again, or unpack it") from error


def _label(tar: Path, member: tarfile.TarInfo) -> int:
    content = read_part(tar, member.offset_data, min(member.size, _LONGEST_LABEL)).strip()
    if not content.isdigit() or len(content) > _LONGEST_NUMBER:
        raise ValueError(f"{tar}: {member.name} must hold the number of a class, from 0; it holds {content!r}")
    return int(content)
