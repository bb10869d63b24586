"""Evaluation of maps on disk, of any code, without a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from tokenloc.boxes.frame import Size
from tokenloc.data import ImageDataset, Unreadable
from tokenloc.data.base import mask_fault
from tokenloc.data.images import read_size
from tokenloc.data.loading import batches_of_rank
from tokenloc.inference.evaluation import EvaluationResult, Evaluator, Progress
from tokenloc.inference.map_ids import MatchedIds, match_ids
from tokenloc.inference.processes import gather_in_order, rank_and_world
from tokenloc.metrics import ImageScores, Scorer
from tokenloc.metrics.stored_maps import StoredMaps

INPUT_SIZE = (224, 224)
"""(width, height) of the network input that evaluators of the field assume for stored maps."""

BATCH = 64


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

    Args:
        maps: of the true classes of the dataset.
        dataset: its images are opened only for their size, and not if the maps have frames.
        scorer: protocol and map threshold.
        workers: processes that read and score maps; 0 for this one.
        progress: wraps the batches.
        boxes: where to write the boxes of all thresholds.

    Returns:
        The result, and how maps and images were matched.

    Raises:
        ValueError: if the maps were made under another input frame than the protocol's, ids are ambiguous, or no map
            could be scored.
    """
    expected = scorer.protocol.input_frame
    made = maps.about.get("input_frame", expected)
    if made != expected:
        raise ValueError(
            f"the maps in {maps.folder} have the input frame {made!r}, but protocol {scorer.protocol.name!r} needs "
            f"{expected!r}; choose a protocol with the same input frame, or save the maps again"
        )
    matched = match_ids([sample.id for sample in dataset], maps.ids)
    scored: Dataset[Any] = _ScoredMaps(maps, matched, dataset, scorer)
    own, total = batches_of_rank(len(dataset), BATCH, *rank_and_world()), math.ceil(len(dataset) / BATCH)
    loader: Iterable[Any] = DataLoader(scored, batch_sampler=own, num_workers=workers, collate_fn=list)

    def scored_images() -> Iterator[ImageScores | Unreadable]:
        batches = gather_in_order(loader, total)
        for batch in progress(batches, "scoring", total) if progress else batches:
            yield from batch

    return Evaluator(dataset, scorer, boxes).evaluate(scored_images()), matched


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
        frame = stored.frame or self.scorer.protocol.frame(_original_size(self.images, index), INPUT_SIZE)
        mask = self.images.mask(index)
        if fault := mask_fault(frame.original_size, mask):
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


def _original_size(dataset: ImageDataset, index: int) -> Size:
    """Return (width, height) of the image file, or the size stated in the dataset's lists if there is no file."""
    path, declared = dataset[index].path, dataset.declared_size(index)
    if path is not None and (path.is_file() or declared is None):
        return read_size(path)
    return declared or dataset.image(index).size
