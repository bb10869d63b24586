"""Calibration of the best checkpoint after training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tokenloc.boxes import Protocol
from tokenloc.inference.evaluation import calibrate_threshold
from tokenloc.inference.processes import first_process
from tokenloc.methods import Method
from tokenloc.models.checkpoint import load_checkpoint, store_threshold
from tokenloc.models.metadata import ModelMetadata
from tokenloc.training.config import DataConfig
from tokenloc.training.data import open_split
from tokenloc.training.run_folder import RunFolder


def calibrated_best(
    folder: RunFolder, data: DataConfig, protocol: Protocol, device: str, **options: Any
) -> tuple[Method, ModelMetadata]:
    """Load the best checkpoint; calibrate its map threshold on ``data.calibration_split``, if set, and store it.

    ``options`` are those of ``calibrate_threshold``. The threshold is stored in best.ckpt and last.ckpt.
    """
    model, metadata = load_checkpoint(folder.best)
    model.to(device)
    images = open_split(data, data.calibration_split, data.classes)
    if images is None:
        return model, metadata
    threshold = calibrate_threshold(model, images, metadata.preprocessing, protocol, **options)
    for path in (folder.best, folder.last) if first_process() else ():
        store_threshold(path, threshold)
    return model, replace(metadata, threshold=threshold)
