"""Evaluation of maps on disk, of any code, and boxes from them, without a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, Dataset

from tokenloc.boxes import Frame, detect_boxes, get_protocol, scaled_map
from tokenloc.boxes.frame import Size
from tokenloc.data import ImageDataset, Unreadable
from tokenloc.data.images import IMAGE_SUFFIXES, read_size
from tokenloc.data.loading import batches_of_rank
from tokenloc.inference.evaluation import EvaluationResult, Progress, evaluate_scores
from tokenloc.inference.localization import Localization, Objects
from tokenloc.inference.processes import gather_in_order, rank_and_world
from tokenloc.metrics import ImageScores, Scorer
from tokenloc.metrics.stored_maps import StoredMap, StoredMaps

INPUT_SIZE = (224, 224)
"""(width, height) of the network input that evaluators of the field assume for stored maps."""

BATCH = 64


class MatchedIds(NamedTuple):
    """The id of the map by id of the image; images without a map, maps without an image, and images whose map's id
    differs by an image extension or slashes.
    """

    stored: dict[str, str]
    missing: list[str]
    surplus: list[str]
    differing: list[str]


def evaluate_maps(
    maps: StoredMaps,
    dataset: ImageDataset,
    scorer: Scorer,
    *,
    workers: int = 0,
    progress: Progress | None = None,
    boxes: Path | None = None,
) -> tuple[EvaluationResult, MatchedIds]:
    """Evaluate stored maps on a dataset, in all processes together; see ``evaluate_model``.

    Images without a map, or with a broken map or mask, are ``unreadable`` and in no metric.

    The maps are those of the classes that the protocol judges. Images are opened only for their size, and not if the
    maps have frames.

    Raises:
        ValueError: if the maps were made under another input frame or for other classes than the protocol's, ids are
            ambiguous, or no map could be scored.
    """
    protocol = scorer.protocol
    older = {"map_class": "true"} if maps.about else {}  # maps of other code are of any class
    for name in ("input_frame", "map_class"):
        expected = getattr(protocol, name)
        made = {**older, **maps.about}.get(name, expected)
        if made != expected:
            raise ValueError(
                f"the maps in {maps.folder} have the {name.replace('_', ' ')} {made!r}, but protocol "
                f"{protocol.name!r} needs {expected!r}; choose a protocol with the same one, or save the maps again"
            )
    if (protocol.judged_maps or 0) > 1:
        raise ValueError(
            f"protocol {protocol.name!r} needs the maps of five predicted classes, and {maps.folder} has one for each "
            "image; evaluate the checkpoint instead"
        )
    matched = match_ids([sample.id for sample in dataset], maps.ids)
    scored: Dataset[Any] = _ScoredMaps(maps, matched, dataset, scorer)
    own, total = batches_of_rank(len(dataset), BATCH, *rank_and_world()), math.ceil(len(dataset) / BATCH)
    loader: Iterable[Any] = DataLoader(scored, batch_sampler=own, num_workers=workers, collate_fn=list)

    def scored_images() -> Iterator[ImageScores | Unreadable]:
        batches = gather_in_order(loader, total)
        for batch in progress(batches, "scoring", total) if progress else batches:
            yield from batch

    return evaluate_scores(scored_images(), dataset, scorer, boxes), matched


@dataclass(frozen=True, eq=False)
class _ScoredMaps(Dataset[Any]):
    maps: StoredMaps
    matched: MatchedIds
    images: ImageDataset
    scorer: Scorer

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> ImageScores | Unreadable:
        id_ = self.images[index].id
        name = self.matched.stored.get(id_)
        if name is None:
            return Unreadable(index, id_, f"{id_} has no map in {self.maps.folder}")
        try:
            return self._score(index, name)
        except (ValueError, OSError) as error:
            return Unreadable(index, id_, f"{id_}, map {name!r}: {error}")

    def _score(self, index: int, name: str) -> ImageScores:
        sample, stored = self.images[index], self.maps.load(name)
        classes = len(self.images.classes)
        if stored.predicted is not None and not all(0 <= index < classes for index in stored.predicted.tolist()):
            raise ValueError(f"its predicted classes are {stored.predicted.tolist()!s:.80}, of {classes} classes")
        frame = stored.frame or self.scorer.protocol.frame(_original_size(self.images, index), INPUT_SIZE)
        mask = self.images.mask(index)
        if fault := self.images.mask_fault(frame.original_size, mask):
            raise ValueError(f"{sample.path or sample.id} {fault}")
        return self.scorer.score(
            stored.map_,
            sample.label,
            stored.predicted,
            frame=frame,
            id_=sample.id,
            boxes=sample.boxes,
            mask=mask,
            probability=stored.probability,
            ready=self.maps.ready,
        )


def localize_map(
    stored: StoredMap, source: str, label: str, class_index: int, threshold: float, objects: Objects = "largest"
) -> Localization:
    """Return the boxes of a stored map of any size and range, which covers the image file ``source`` or has a frame.

    The score is the stored probability, 1 without one. A map smaller than ``INPUT_SIZE`` is upsampled to it first.
    Raises ValueError or OSError if the image or the map is broken.
    """
    protocol = get_protocol("standard")
    size = stored.map_.shape[1], stored.map_.shape[0]
    frame = stored.frame or Frame.resized(read_size(source), size if min(size) >= min(INPUT_SIZE) else INPUT_SIZE)
    map_ = scaled_map(stored.map_, frame.input_size, protocol)
    score = 1.0 if stored.probability is None else stored.probability
    about: dict[str, Any] = {"source": source, "label": label, "class_index": class_index, "score": score}
    about |= {"map": map_, "threshold": threshold, "protocol": protocol.name, "frame": frame}
    found = detect_boxes(map_, score, frame, protocol, threshold, 1 if objects == "largest" else None)
    return Localization(**about, **found._asdict())


def _original_size(dataset: ImageDataset, index: int) -> Size:
    """Return (width, height) of the image file, or the size stated in the dataset's lists if there is no file."""
    path, declared = dataset[index].path, dataset.declared_size(index)
    if path is not None and (path.is_file() or declared is None):
        return read_size(path)
    return declared or dataset.image(index).size


def match_ids(images: Sequence[str], maps: Sequence[str]) -> MatchedIds:
    """Match maps to images: by equal ids, else by ids without image extension and with forward slashes.

    >>> match_ids(["a/1.jpg", "a/2.jpg"], ["a\\\\1.jpg", "b/3"])
    MatchedIds(stored={'a/1.jpg': 'a\\\\1.jpg'}, missing=['a/2.jpg'], surplus=['b/3'], differing=['a/1.jpg'])

    Raises:
        ValueError: if an id occurs twice, or ids cannot be distinguished without extension and slashes.
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
