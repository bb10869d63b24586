"""More images than one machine takes: Ray Data reads them and spreads them, the table of boxes comes out.

Needs the extra ``ray``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenloc._extras import library
from tokenloc.data import Unreadable
from tokenloc.export._rows import COLUMNS, rows_of
from tokenloc.export.base import Destination, absolute, valid_text
from tokenloc.export.parquet import box_schema
from tokenloc.inference import Localizer, Prediction
from tokenloc.inference.inputs import ImageInput
from tokenloc.inference.localizer import BATCH
from tokenloc.models.checkpoint import read_metadata
from tokenloc.models.hub import is_on_hub

if TYPE_CHECKING:
    from ray.data import Dataset

ERROR = "error"
BATCHES = 4
"""Batches of the network that are handed to an actor at once, so that the next is read while it looks at one."""


def localize_dataset(
    dataset: Dataset,
    checkpoint: str | Path,
    *,
    root: Path | None = None,
    batch_size: int = BATCH,
    top_k: int = 1,
    actors: int | None = None,
    gpus: float | None = None,
    **options: Any,
) -> Dataset:
    """Localize the images of a Ray dataset; nothing is computed until its rows are asked for, or written.

    Each actor holds one model and sees its images a batch at a time, so that memory does not grow with their number.

    Args:
        dataset: a row for each image, with a column ``bytes`` (of the encoded file) or ``path`` (a file that every
            machine of the cluster can read), or both: then ``path`` is its name alone.
        checkpoint: a file or folder that every machine can read, or ``hf-hub:USER/NAME[@REVISION]``.
        root: images are named relative to this folder where they lie in it.
        batch_size: images that pass the network together.
        top_k: how many classes of each image, the most probable ones.
        actors: how many models work at once; None for one on each GPU, or on each CPU but one.
        gpus: of each actor; a share, such as 0.5, where several fit on one; None for 1 where the cluster has GPUs.
        options: ``threshold``, ``objects``, ``options``, ``min_score``, ``device``; see ``Localizer``.

    Returns:
        the rows of ``export.PARQUET``: one a box, and one with null corners for an image without boxes; those of one
        image follow one another. Behind them ``error``: null, or why the image could not be read, which then is
        one row whose other columns but ``file`` are null. Images without a name are called ``sha256:`` and the
        digest of their bytes.

    Raises:
        FileNotFoundError, ValueError: a checkpoint that cannot be read, neither column, or a number below 1.
        ImportError: Ray is not installed.
    """
    ray = library("ray", "ray")
    library("ray.data", "ray")
    classes = read_metadata(checkpoint).classes
    _check(dataset, batch_size, actors)
    resources = ray.cluster_resources()
    gpus = float(min(1, resources.get("GPU", 0))) if gpus is None else gpus
    return dataset.map_batches(
        LocalizingActor,
        fn_constructor_kwargs={
            "checkpoint": str(checkpoint) if is_on_hub(checkpoint) else str(absolute(checkpoint)),
            "destination": Destination(Path(), classes, root),
            "batch_size": batch_size,
            "top_k": top_k,
            "options": options,
        },
        batch_size=BATCHES * batch_size,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=actors or _actors(resources, gpus)),
        num_cpus=1,
        num_gpus=gpus,
    )


class LocalizingActor:
    """One model at work: what Ray calls with tables of images; see ``localize_dataset``."""

    def __init__(
        self, checkpoint: str, destination: Destination, batch_size: int, top_k: int, options: Mapping[str, Any]
    ) -> None:
        self.localizer = Localizer.from_checkpoint(checkpoint, **options)
        self.destination = destination
        self.batch_size = batch_size
        self.top_k = top_k

    def __call__(self, images: Any) -> Any:
        """Return the table of boxes of a table of images."""
        arrow = library("pyarrow", "ray")
        read = (image for _, image in _images(images))
        found = self.localizer.predict(read, self.batch_size, self.top_k)
        named = zip((name for name, _ in _images(images)), found, strict=True)
        rows = [row for name, one in named for row in self._rows(name, one)]
        schema = box_schema().append(arrow.field(ERROR, arrow.string()))
        return arrow.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)

    def _rows(self, name: str, found: Prediction | Unreadable) -> Iterator[tuple[Any, ...]]:
        name = self.destination.name_of(name)
        if isinstance(found, Unreadable):
            yield (name, *[None] * (len(COLUMNS) - 1), valid_text(found.reason))
            return
        findings = [result.record() for result in found.results]
        for row in rows_of(name, findings, self.destination.labels):
            yield (*row, None)


def _images(table: Any) -> Iterator[tuple[str, ImageInput]]:
    """Yield the name of each row's image, and the image; a row without one gives None, which is then reported."""
    paths, files = (_column(table, name) for name in ("path", "bytes"))
    for path, file in zip(paths, files, strict=True):
        if path is None and isinstance(file, bytes):
            path = f"sha256:{hashlib.sha256(file).hexdigest()[:16]}"
        yield str(path or ""), path if file is None else file


def _column(table: Any, name: str) -> Iterator[Any]:
    if name not in table.column_names:
        return repeat(None, len(table))
    return (value.as_py() for value in table[name])  # one at a time: they may be large


def _check(dataset: Dataset, batch_size: int, actors: int | None) -> None:
    names = dataset.columns() or []
    if not {"path", "bytes"} & set(names):
        raise ValueError(
            f"the images must have a column path or bytes; there is {', '.join(names) or 'no column at all'}"
        )
    for name, value in (("batch_size", batch_size), ("actors", actors)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")


def _actors(resources: Mapping[str, float], gpus: float) -> int:
    """Return for how many actors there is room: one CPU is left for reading and writing."""
    room = resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 1) - 1
    return max(1, int(room))
