"""``tokenloc localize-ray``: boxes on more images than one machine takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokenloc._extras import library
from tokenloc._files import atomic_write, refuse_unwritable
from tokenloc.commands.console import IncompleteError, print_message
from tokenloc.data import find_images
from tokenloc.export import check_writing, common_folder
from tokenloc.export._rows import COLUMNS
from tokenloc.export.base import absolute, refuse_existing
from tokenloc.export.parquet import ROWS_AT_A_TIME, box_schema
from tokenloc.export.ray_data import ERROR, localize_dataset
from tokenloc.inference import PredictionOptions
from tokenloc.inference.localization import Objects
from tokenloc.inference.options import DEFAULT_OPTIONS

BOXES = "boxes.parquet"
UNREADABLE = "unreadable.parquet"


def localize_ray(
    checkpoint: Path,
    inputs: list[str],
    *,
    out: Path,
    threshold: float | None = None,
    objects: Objects = "largest",
    top_k: int = 1,
    min_score: float = 0.0,
    options: PredictionOptions = DEFAULT_OPTIONS,
    overwrite: bool = False,
    batch_size: int = 16,
    actors: int | None = None,
    gpus: float | None = None,
) -> Path:
    """Draw boxes on images with Ray: on all of this machine, or on the cluster that RAY_ADDRESS names.

    Writes boxes.parquet, the same table as `tokenloc localize --format parquet`, and unreadable.parquet where some
    images cannot be read; the exit status is then 1. Needs the extra `ray`.

    Args:
        checkpoint: a checkpoint of `tokenloc train` or a folder that was saved for sharing, where all machines can read
            it; or hf-hub:USER/NAME.
        inputs: images and folders of them, where all machines can read them; or Parquet files (or folders or
            addresses that end in .parquet) with a column path or bytes.
        out: the folder to write to; it is created.
        threshold: on the map scaled to [0, 1]; by default the calibrated one stored in the checkpoint.
        objects: largest draws one box, around the largest component; all one for each component.
        top_k: how many classes to localize in each image, the most probable ones; each has rows of its own.
        min_score: probability below which a class gets no box, so that an image of none of the classes has none.
        options: test-time augmentation, refinement and precision.
        overwrite: replace files that exist already.
        batch_size: images that pass the network together.
        actors: how many models work at once; by default one on each GPU, or on each CPU but one.
        gpus: GPUs of each model; by default 1 where there are any.

    Returns:
        the path of boxes.parquet.
    """
    refuse_unwritable(out)
    check_writing(["parquet"], out, overwrite)
    refuse_existing(out / UNREADABLE, overwrite)
    settings: dict[str, Any] = {"threshold": threshold, "objects": objects, "min_score": min_score}
    settings |= {"options": options, "batch_size": batch_size, "top_k": top_k, "actors": actors, "gpus": gpus}
    with _ray() as ray:
        images, root = _opened(ray, inputs)
        images.context.execution_options.preserve_order = True
        rows = localize_dataset(images, checkpoint, root=root, **settings)
        unreadable = _write(rows, out)
    print_message(f"boxes in {out / BOXES}")
    if unreadable:
        raise IncompleteError(f"{unreadable} images could not be read; {out / UNREADABLE} names them")
    return out / BOXES


@contextmanager
def _ray() -> Iterator[Any]:
    """Yield Ray, started where it is not running, and then ended again."""
    ray = library("ray", "ray")
    library("ray.data", "ray")
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _opened(ray: Any, inputs: list[str]) -> tuple[Any, Path | None]:
    """Return the images as a Ray dataset, and the folder by which to name them; see ``localize_dataset``."""
    tables = [word for word in inputs if word.rstrip("/").endswith(".parquet")]
    if tables and len(tables) < len(inputs):
        other = next(word for word in inputs if word not in tables)
        raise ValueError(f"give either images or Parquet files, not both: {tables[0]} and {other}")
    if tables:
        return _read_tables(ray, tables), None
    files = find_images(inputs)
    return ray.data.from_items([{"path": str(absolute(file))} for file in files]), common_folder(inputs)


def _read_tables(ray: Any, tables: list[str]) -> Any:
    for table in tables:
        if "://" not in table and not Path(table).exists():
            raise FileNotFoundError(f"{table}: no such file or folder; check the path")
    places = [table if "://" in table else str(absolute(table)) for table in tables]
    try:
        names = ray.data.read_parquet(places).columns()
        return ray.data.read_parquet(places, columns=[name for name in names if name in ("path", "bytes")] or None)
    except library("pyarrow", "ray").ArrowException as error:
        raise ValueError(f"{', '.join(tables)} cannot be read as Parquet: {error}") from error


def _write(rows: Any, out: Path) -> int:
    """Write the two tables as rows come, each whole or not at all; return how many images were unreadable."""
    arrow, parquet = library("pyarrow", "ray"), library("pyarrow.parquet", "ray")
    unreadable = []
    with atomic_write(out / BOXES) as temporary, parquet.ParquetWriter(temporary, box_schema()) as writer:
        for table in rows.iter_batches(batch_size=ROWS_AT_A_TIME, batch_format="pyarrow"):
            broken = table.filter(arrow.compute.is_valid(table[ERROR]))
            unreadable.append(broken.select(["file", ERROR]))
            writer.write_table(table.filter(arrow.compute.is_null(table[ERROR])).select(COLUMNS).cast(box_schema()))
    (out / UNREADABLE).unlink(missing_ok=True)
    found = sum(map(len, unreadable))
    if found:
        with atomic_write(out / UNREADABLE) as temporary:
            parquet.write_table(arrow.concat_tables(unreadable), temporary)
    return found
