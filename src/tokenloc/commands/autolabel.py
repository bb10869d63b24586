"""``tokenloc autolabel``: from a folder of photographs sorted by class to boxes, in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenloc._files import refuse_unwritable
from tokenloc.commands.localize import localize
from tokenloc.commands.train import train
from tokenloc.export.base import find_formats
from tokenloc.inference import PredictionOptions
from tokenloc.training.config import DataConfig, ModelChoice, Optimisation, Precision
from tokenloc.training.run_folder import RunFolder

TRAINING = "training"  # subfolder of the run


def autolabel(
    photos: Path,
    *,
    data: DataConfig,
    model: ModelChoice,
    optimisation: Optimisation,
    out: Path,
    format: list[str] | None = None,
    min_confidence: float = 0.0,
    overwrite: bool = False,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "32-true",
    workers: int = 0,
) -> Path:
    """Learn from photographs sorted by class, and draw a box on each of them: nobody needs to draw one.

    Trains with recipes/folder.yaml, whose values are also flags, as in `tokenloc train`; chooses the map threshold
    without boxes; and localizes the photographs with the labels of their folders. Writes what `tokenloc localize`
    writes, such as review.csv, the least confident images first, and the run in OUT/training. The same command resumes
    an interrupted run.

    Args:
        photos: a folder with a folder of images for each class.
        data: preprocessing and splits; its root is the folder of the photos.
        model: the method and its backbone.
        optimisation: epochs, learning rate and so on.
        out: the output folder.
        format: annotation files to write: coco yolo voc label-studio csv parquet; by default coco.
        min_confidence: confidence below which a box is left out; review.csv lists all images.
        overwrite: replace the results of an earlier command.
        seed: of all random numbers.
        device: auto, cpu, cuda or mps.
        precision: of the training: 32-true, bf16-mixed, or 16-mixed on a GPU.
        workers: data loading processes.
    """
    formats = format or ["coco"]
    find_formats(formats)  # an unknown one would otherwise be found only after training
    if photos.resolve() in (out.resolve(), *out.resolve().parents):
        raise ValueError(f"--out {out} is in {photos}, of which every image is learned; choose a folder elsewhere")
    refuse_unwritable(out / "images")
    run = out / TRAINING
    settings: dict[str, Any] = {"model": model, "optimisation": optimisation, "device": device, "precision": precision}
    resume = RunFolder(run).last.is_file()
    best = train(photos, data=data, out=run, seed=seed, workers=workers, resume=resume, **settings)
    chosen: dict[str, Any] = {
        "labels_from_folders": True,
        "options": PredictionOptions(evidence=True),
        "format": formats,
        "min_confidence": min_confidence,
    }
    return localize(best, [photos], out=out, overwrite=overwrite, device=device, **chosen)
