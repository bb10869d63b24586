"""Localization on Ray Data: a dataset of images becomes a dataset of boxes. Needs the extra ``ray``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloc._extras import library
from tokenloc.data import Unreadable
from tokenloc.export.base import Destination, absolute, valid_text
from tokenloc.export.tables import COLUMNS, arrow_table, box_schema, table_rows
from tokenloc.inference import Localizer
from tokenloc.inference.inputs import ImageInput
from tokenloc.inference.localizer import BATCH
from tokenloc.models.checkpoint import read_metadata
from tokenloc.models.hub import is_on_hub

if TYPE_CHECKING:
    from ray.data import Dataset

ERROR = "error"
BATCHES_PER_CALL = 4
"""Network batches in one call of an actor, so that it can read the next one while the network runs."""


def localize_dataset(
    dataset: Dataset,
    checkpoint: str | Path,
    *,
    root: Path | None = None,
    batch_size: int = BATCH,
    top_k: int = 1,
    actors: int | None = None,
    gpus: float | None = None,
    **localizer: Any,
) -> Dataset:
    """Localize the images of a Ray dataset lazily: nothing runs until its rows are read or written.

    Each actor holds one model and processes its images batch by batch, so memory does not grow with their number.

    Args:
        dataset: one row per image, with a column ``bytes`` (the encoded file), or ``path`` (a file that every machine
            of the cluster can read), or both: then ``path`` is only a name.
        checkpoint: a file or folder that every machine can read, or ``hf-hub:USER/NAME[@REVISION]``.
        root: images in this folder are named relative to it.
        batch_size: images per forward pass.
        top_k: number of classes per image, the most probable ones.
        actors: number of models that run at once; None for one per GPU, or one per CPU except one.
        gpus: GPUs per actor, such as 0.5 if two fit on one; None for 1 if the cluster has GPUs.
        localizer: further arguments of ``Localizer.from_checkpoint``.

    Returns:
        the rows of ``export.PARQUET``: one per box, and one with null corners for an image without boxes; the rows of
        an image are consecutive. The additional column ``error`` is null, or says why the image cannot be read; such
        an image has one row, in which only ``file`` is set. Images without a name are named ``sha256:`` and the
        digest of their bytes.

    Raises:
        FileNotFoundError, ValueError: if the checkpoint cannot be read, both columns are missing, or a number is
            below 1.
        ImportError: if Ray is not installed.
    """
    ray = library("ray", "ray")
    library("ray.data", "ray")
    classes = read_metadata(checkpoint).classes
    _check(dataset, batch_size, actors)
    resources = ray.cluster_resources()
    gpus = float(min(1, resources.get("GPU", 0))) if gpus is None else gpus
    path = str(checkpoint if is_on_hub(checkpoint) else absolute(checkpoint))
    return dataset.map_batches(
        LocalizingActor,
        fn_constructor_args=(path, Destination(Path(), classes, root), batch_size, top_k, localizer),
        batch_size=BATCHES_PER_CALL * batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors or _actor_count(resources, gpus)),
        num_cpus=1,
        num_gpus=gpus,
    )


class LocalizingActor:
    """A model that Ray calls with tables of images; see ``localize_dataset``."""

    def __init__(
        self, checkpoint: str, destination: Destination, batch_size: int, top_k: int, localizer: Mapping[str, Any]
    ) -> None:
        self.localizer = Localizer.from_checkpoint(checkpoint, **localizer)
        self.destination, self.batch_size, self.top_k = destination, batch_size, top_k

    def __call__(self, images: Any) -> Any:
        """Return the table of boxes of a table of images."""
        arrow = library("pyarrow", "ray")
        inputs = (image for _, image in _named_images(images))
        predictions = self.localizer.predict(inputs, self.batch_size, self.top_k)
        rows: list[tuple[Any, ...]] = []
        for (source, _), prediction in zip(_named_images(images), predictions, strict=True):
            name = self.destination.image_name(source)
            if isinstance(prediction, Unreadable):
                rows.append((name, *[None] * (len(COLUMNS) - 1), valid_text(prediction.reason)))
            else:
                rows += [(*row, None) for row in table_rows(name, prediction.results, self.destination.labels)]
        return arrow_table(rows, box_schema().append(arrow.field(ERROR, arrow.string())))


def _named_images(table: Any) -> Iterator[tuple[str, ImageInput]]:
    """Yield the name and the image of each row; a row with neither yields None, which is reported as unreadable."""
    missing = library("pyarrow", "ray").nulls(len(table))
    columns = [table[name] if name in table.column_names else missing for name in ("path", "bytes")]
    for row in zip(*columns, strict=True):
        path, file = (value.as_py() for value in row)  # one row at a time: files may be large
        if path is None and isinstance(file, bytes):
            path = f"sha256:{hashlib.sha256(file).hexdigest()[:16]}"
        yield str(path or ""), path if file is None else file


def _check(dataset: Dataset, batch_size: int, actors: int | None) -> None:
    columns = dataset.columns() or []
    if not {"path", "bytes"} & set(columns):
        raise ValueError(f"images need a column path or bytes; the columns are {', '.join(columns) or 'missing'}")
    for name, value in (("batch_size", batch_size), ("actors", actors)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")


def _actor_count(resources: Mapping[str, float], gpus: float) -> int:
    """Return how many actors fit; one CPU is left for reading and writing."""
    capacity = resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 1) - 1
    return max(1, int(capacity))
