"""Measuring maps that lie on disk, whichever code made them: no network, and as many processes as are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from tokenloc.boxes import Frame, Protocol
from tokenloc.boxes.frame import Size
from tokenloc.data import ImageDataset, Unreadable
from tokenloc.data.base import mask_fault
from tokenloc.data.images import read_size
from tokenloc.data.loading import batches_of_rank
from tokenloc.inference.map_ids import MatchedIds, match_ids
from tokenloc.inference.processes import in_order, share
from tokenloc.inference.tally import EvaluationResult, Evaluator
from tokenloc.metrics import ImageScores, score_image
from tokenloc.metrics.stored_boxes import BoxWriter
from tokenloc.metrics.stored_maps import StoredMap, StoredMaps

NETWORK_SIZE = (224, 224)
"""The network's input under which the evaluators of the field store maps, (width, height)."""

BATCH = 64
"""Maps that are scored at a time."""

_Scored = tuple[int, Frame, ImageScores]


def measure_maps(
    maps: StoredMaps,
    dataset: ImageDataset,
    protocol: Protocol,
    threshold: float | None = None,
    *,
    workers: int = 0,
    progress: Callable[[Iterable[Any], str, int], Iterable[Any]] | None = None,
    keep: BoxWriter | None = None,
) -> tuple[EvaluationResult, MatchedIds]:
    """Measure stored maps on a dataset under a protocol; by all processes together, see ``measure``.

    Images without a map, and those whose map or mask is broken, are in ``unreadable`` and in no number.

    Args:
        maps: of the dataset's true classes.
        dataset: its images are opened for their size alone, and not where the maps have their frames.
        protocol: how maps become boxes and boxes are judged.
        threshold: a fixed map threshold in [0, 1]; None for the protocol's own rule.
        workers: processes that read and score maps; 0 for this one.
        progress: wraps the maps, to show how far it is.
        keep: keeps the boxes at all thresholds.

    Returns:
        What was measured, and which map was whose.

    Raises:
        ValueError: where the maps were made under another input frame than the protocol's, ids are there twice, or no
            map at all could be scored.
    """
    seen = maps.about.get("input_frame", protocol.input_frame)
    if seen != protocol.input_frame:
        raise ValueError(
            f"the maps in {maps.folder} are of images shown by {seen!r}; protocol {protocol.name!r} wants "
            f"{protocol.input_frame!r}: choose a protocol of that input frame, or make the maps again"
        )
    matched = match_ids([sample.id for sample in dataset], maps.ids)
    scored: Dataset[Any] = _ScoredMaps(maps, matched, dataset, protocol, threshold)
    shared, total = batches_of_rank(len(dataset), BATCH, *share()), math.ceil(len(dataset) / BATCH)
    loader: Iterable[Any] = DataLoader(scored, batch_sampler=shared, num_workers=workers, collate_fn=list)
    batches: Iterable[list[_Scored | Unreadable]] = in_order(loader, total)
    unreadable = []
    with TemporaryFile() as scratch:
        tally = Evaluator(protocol, threshold, scratch)
        for batch in progress(batches, "scoring", total) if progress else batches:
            for item in batch:
                if isinstance(item, Unreadable):
                    unreadable.append(item)
                else:
                    index, frame, scores = item
                    sample = dataset[index]
                    tally.add(sample, frame, scores)
                    if keep is not None:
                        keep.add(sample.id, frame, sample.boxes, scores)
        return tally.measured(dataset, unreadable), matched


@dataclass(frozen=True, eq=False)
class _ScoredMaps(Dataset[Any]):
    """The scores of an image each, or an ``Unreadable`` where its map or image is."""

    maps: StoredMaps
    matched: MatchedIds
    images: ImageDataset
    protocol: Protocol
    threshold: float | None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> _Scored | Unreadable:
        id_ = self.images[index].id
        if id_ not in self.matched.stored:
            return Unreadable(index, id_, f"{id_} has no map in {self.maps.folder}")
        name = self.matched.stored[id_]
        try:
            return self._scored(index, self.maps.load(name))
        except (ValueError, OSError) as error:
            return Unreadable(index, id_, f"{id_}, map {name!r}: {error}")

    def _scored(self, index: int, stored: StoredMap) -> _Scored:
        sample = self.images[index]
        frame = stored.frame or self.protocol.frame(_original_size(self.images, index), NETWORK_SIZE)
        mask = self.images.mask(index)
        if fault := mask_fault(frame.original_size, mask):
            raise ValueError(f"{sample.path or sample.id} {fault}")
        known = {"frame": frame, "boxes": sample.boxes, "mask": mask, "probability": stored.probability}
        judged = {"protocol": self.protocol, "threshold": self.threshold, "ready": self.maps.ready}
        given: dict[str, Any] = {**known, **judged}
        maps = np.asarray(stored.map_)[None]
        return index, frame, score_image(maps, [sample.label], stored.predicted, sample.label, **given)


def _original_size(dataset: ImageDataset, index: int) -> Size:
    """Return (width, height) of an image: its file's, or what the dataset's lists state where there is no file."""
    path, declared = dataset[index].path, dataset.declared_size(index)
    if path is not None and (path.is_file() or declared is None):
        return read_size(path)
    return declared or dataset.image(index).size
