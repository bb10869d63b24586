"""``tokenloc localize-ray``: boxes on the images of a cluster."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tokenloc._extras import library
from tokenloc._files import atomic_files, refuse_unwritable, remove_partial_files
from tokenloc._names import counted
from tokenloc.boxes.extraction import SMALLEST
from tokenloc.commands.console import IncompleteError, print_message
from tokenloc.data import expand_wildcards, find_images
from tokenloc.export import FORMATS, common_folder
from tokenloc.export.base import absolute, check_outputs, refuse_existing
from tokenloc.export.ray_data import ERROR, localize_dataset
from tokenloc.export.tables import COLUMNS, ROWS_PER_GROUP, box_schema
from tokenloc.inference import PredictionOptions
from tokenloc.inference.localization import Objects
from tokenloc.inference.options import DEFAULT_OPTIONS
from tokenloc.models.checkpoint import OptionValue

BOXES, UNREADABLE = "boxes.parquet", "unreadable.parquet"


def localize_ray(
    checkpoint: Path,
    inputs: list[str],
    *,
    out: Path,
    threshold: float | None = None,
    objects: Objects = "largest",
    top_k: int = 1,
    min_score: float = 0.0,
    min_confidence: float = 0.0,
    min_area: float = SMALLEST,
    options: PredictionOptions = DEFAULT_OPTIONS,
    method_options: dict[str, OptionValue] | None = None,
    overwrite: bool = False,
    batch_size: int = 16,
    actors: int | None = None,
    gpus: float | None = None,
) -> Path:
    """Draw boxes on images with Ray, on this machine or on the cluster that RAY_ADDRESS names.

    Writes boxes.parquet, the table of `tokenloc localize --format parquet`. Images that cannot be read are listed in
    unreadable.parquet, and the exit status is 1. Needs the extra `ray`.

    Args:
        checkpoint: a checkpoint or shared folder that all machines can read, or hf-hub:USER/NAME.
        inputs: images and folders that all machines can read; or Parquet files with a column path or bytes.
        out: the output folder.
        threshold: on the map scaled to [0, 1]; by default the calibrated one in the checkpoint.
        objects: largest draws one box, around the largest component; all draws one per object, merging fragments.
        top_k: number of classes per image, the most probable ones; each has its own rows.
        min_score: probability below which a class gets no box, for images that show none of the classes.
        min_confidence: confidence below which a box is left out.
        min_area: of all objects but the largest, the smallest area of the map, as a fraction of the image.
        options: how the model predicts.
        method_options: values of the method's test-time options, such as map, instead of those of the training.
        overwrite: replace existing files.
        batch_size: images per forward pass.
        actors: number of models that run at once; by default one per GPU, or one per CPU except one.
        gpus: GPUs per model; by default 1 if there are any.
    """
    ray = library("ray", "ray")
    for module in ("ray.data", "pyarrow.parquet"):
        library(module, "ray")
    refuse_unwritable(out)
    remove_partial_files(out, locked=False)
    check_outputs([FORMATS["parquet"]], out, overwrite)
    refuse_existing(out / UNREADABLE, overwrite)
    settings: dict[str, Any] = {"batch_size": batch_size, "top_k": top_k, "actors": actors, "gpus": gpus}
    settings |= {"threshold": threshold, "objects": objects, "min_score": min_score, "options": options}
    settings |= {"method_options": method_options, "min_confidence": min_confidence, "min_area": min_area}
    with ExitStack() as stack:
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
            stack.callback(ray.shutdown)
        images, root = _open_images(ray, inputs)
        images.context.execution_options.preserve_order = True
        unreadable = _write(localize_dataset(images, checkpoint, root=root, **settings), out)
    print_message(f"boxes in {out / BOXES}")
    if unreadable:
        raise IncompleteError(f"{counted(unreadable, 'image')} could not be read, as listed in {out / UNREADABLE}")
    return out / BOXES


def _open_images(ray: Any, inputs: list[str]) -> tuple[Any, Path | None]:
    """Return the images as a Ray dataset, and the folder that their names are relative to."""
    tables = [item for item in inputs if item.rstrip("/").endswith(".parquet")]
    if not tables:
        paths = expand_wildcards(inputs)
        files = [{"path": str(absolute(file))} for file in find_images(paths)]
        return ray.data.from_items(files), common_folder(paths)
    for item in inputs:
        if item not in tables:
            raise ValueError(f"inputs must be either images or Parquet files, not both: {tables[0]} and {item}")
        if "://" not in item and not Path(item).exists():
            raise FileNotFoundError(f"{item}: no such file or folder; check the path")
    sources = [table if "://" in table else str(absolute(table)) for table in tables]
    try:
        columns = ray.data.read_parquet(sources).columns()
        wanted = [name for name in columns if name in ("path", "bytes")]
        return ray.data.read_parquet(sources, columns=wanted or None), None
    except library("pyarrow", "ray").ArrowException as error:
        raise ValueError(f"{', '.join(tables)} cannot be read as Parquet: {error}") from error


def _write(rows: Any, out: Path) -> int:
    """Write both tables in constant memory; return the number of unreadable images."""
    arrow, parquet = library("pyarrow", "ray"), library("pyarrow.parquet", "ray")
    unreadable = []
    with atomic_files(out, BOXES, [UNREADABLE]) as folder:
        with parquet.ParquetWriter(folder / BOXES, box_schema()) as writer:
            for table in rows.iter_batches(batch_size=ROWS_PER_GROUP, batch_format="pyarrow"):
                failed = table[ERROR].is_valid()
                unreadable.append(table.filter(failed).select(["file", ERROR]))
                read = table.filter(arrow.compute.invert(failed))
                writer.write_table(read.select(list(COLUMNS)).cast(box_schema()))
        if count := sum(map(len, unreadable)):
            parquet.write_table(arrow.concat_tables(unreadable), folder / UNREADABLE)
    return count
