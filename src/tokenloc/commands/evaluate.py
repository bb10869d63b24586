"""``tokenloc evaluate`` and ``tokenloc calibrate``: how good a model is, and at which threshold."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tokenloc.boxes import Protocol, get_protocol
from tokenloc.commands.console import IncompleteError, print_message, progress
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.commands.looking import Known, calibrated, threshold_of
from tokenloc.commands.results import BOXES, METRICS, save_failures, save_figures, write_results
from tokenloc.data.base import shorten
from tokenloc.inference import Localizer, PredictionOptions, choose_device
from tokenloc.inference.evaluation import calibrate_threshold, measure
from tokenloc.inference.options import DEFAULT_OPTIONS
from tokenloc.inference.processes import joined
from tokenloc.inference.stored_maps import measure_maps
from tokenloc.inference.tally import EvaluationResult
from tokenloc.metrics.stored_boxes import writing_boxes
from tokenloc.metrics.stored_maps import StoredMaps, open_maps, writing_maps
from tokenloc.models.checkpoint import load_checkpoint, store_threshold
from tokenloc.models.hub import run_folder, writable_path
from tokenloc.models.metadata import ModelMetadata
from tokenloc.training.config import DataSource


def evaluate(
    checkpoint: Path | None = None,
    *,
    data: DataSource,
    split: str | None = None,
    protocol: str = "standard",
    maps: Path | None = None,
    save_maps: Path | None = None,
    threshold: float | None = None,
    thresholds: list[float] | None = None,
    options: PredictionOptions = DEFAULT_OPTIONS,
    out: Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
) -> Path:
    """Measure a checkpoint, or maps that any code made, on a dataset; write metrics.json, images.csv and figures.

    Under torchrun the images are shared by all processes; the result is the same to the last bit.

    Under the protocol `standard` the map threshold is the one that `tokenloc calibrate` stored in the checkpoint;
    where there is none, the best threshold on the evaluated set is used and named as the oracle that it is.

    Args:
        checkpoint: a checkpoint of `tokenloc train`, a folder that was saved for sharing, or hf-hub:USER/NAME; none
            where maps are given.
        data: the dataset; by default the one that the checkpoint was trained on.
        split: the split of the dataset; by default the one that papers measure on: test, of imagenet val.
        protocol: by which boxes are judged; see `tokenloc list protocols`.
        maps: a folder of maps to measure in place of a checkpoint: of `--save-maps`, or an ID.npy for each image, in
            [0, 1], 224x224.
        save_maps: a new folder to keep the maps and predicted classes in.
        threshold: a fixed map threshold in [0, 1], in place of the usual one.
        thresholds: the thresholds among which the best is sought, in place of the protocol's.
        options: test-time augmentation, refinement and precision.
        out: the folder to write to; by default evaluation/PROTOCOL in the run's folder (for a model of the hub in
            runs/NAME), or beside that of the maps.
        batch_size: images that pass the network together.
        workers: processes that read images, or maps.
        device: auto, cpu, cuda or mps.

    Returns:
        the path of metrics.json.
    """
    judged = get_protocol(protocol)
    judged = judged.with_thresholds(thresholds) if thresholds else judged
    if (checkpoint is None) == (maps is None) or (save_maps is not None and checkpoint is None):
        raise ValueError("give either CHECKPOINT, with or without --save-maps, or --maps")
    if checkpoint is None:
        folder = out or Path(str(maps).rstrip("/")).parent / "evaluation" / protocol
        return _evaluate_maps(open_maps(str(maps)), data, split, judged, threshold, folder, workers)
    folder = out or run_folder(checkpoint) / "evaluation" / protocol
    model, metadata = load_checkpoint(checkpoint)
    measured_data = data_of(metadata, data, split, "measured")
    dataset = open_data(measured_data, metadata.classes)
    usual = calibrated(metadata, options, dataset)
    fixed, source = threshold_of(judged, threshold, usual)
    settings: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "options": options}
    about = _about_maps(metadata, judged, options, usual)
    with (
        joined() as first,
        writing_maps(save_maps, about) if save_maps and first else nullcontext() as save,
        writing_boxes(folder / BOXES, judged, fixed) if first else nullcontext() as keep,
    ):
        model.to(choose_device(device))
        settings["progress"] = progress if first else None
        measured = measure(model, dataset, metadata.preprocessing, judged, fixed, save=save, keep=keep, **settings)
    if first:
        described = {"model": asdict(metadata.model), "data": measured_data, "viewing": str(options)}
        write_results(folder, measured, source, described)
        localizer = Localizer(model, metadata, measured.evaluation.threshold, options=options, protocol=judged)
        save_figures(localizer, dataset, folder / "figures")
        save_failures(localizer, dataset, measured, folder / "figures")
        _close(f"metrics and figures in {folder}", measured, "images could not be read")
    return folder / METRICS


def _evaluate_maps(
    maps: StoredMaps,
    data: DataSource,
    split: str | None,
    protocol: Protocol,
    given: float | None,
    folder: Path,
    workers: int,
) -> Path:
    """Measure maps on disk; write metrics.json and images.csv to ``folder``."""
    measured_data = data_of(None, data, split, "measured")
    dataset = open_data(measured_data, maps.about.get("classes"))
    usual = maps.about.get("threshold"), maps.about.get("threshold_source")
    threshold, source = threshold_of(protocol, given, usual)
    with joined() as first, writing_boxes(folder / BOXES, protocol, threshold) if first else nullcontext() as keep:
        settings: dict[str, Any] = {"workers": workers, "progress": progress if first else None, "keep": keep}
        measured, matched = measure_maps(maps, dataset, protocol, threshold, **settings)
    if first:
        described = {"folder": str(maps.folder), "differing": matched.differing, "surplus": matched.surplus}
        about = {"model": maps.about.get("model"), "data": measured_data, "maps": described}
        write_results(folder, measured, source, about)
        _tell("maps match by all but extension or slashes", matched.differing)
        _tell("maps have no image", matched.surplus)
        _close(f"metrics in {folder}", measured, "images have no map or mask, or a broken one")
    return folder / METRICS


def _about_maps(
    metadata: ModelMetadata, protocol: Protocol, options: PredictionOptions, usual: Known
) -> dict[str, Any]:
    """Return what is kept beside saved maps: how they were made, and the threshold that goes with them."""
    return {
        "input_frame": protocol.input_frame,
        "viewing": str(options),
        "classes": metadata.classes,
        "model": asdict(metadata.model),
        "threshold": usual[0],
        "threshold_source": usual[1],
    }


def _tell(what: str, ids: list[str]) -> None:
    if ids:
        print_message(f"{len(ids)} {what}: {shorten(ids)}")


def _close(message: str, measured: EvaluationResult, fault: str) -> None:
    """Say where the results are; raise IncompleteError where some images are in no number."""
    print_message(message)
    if measured.unreadable:
        raise IncompleteError(f"{len(measured.unreadable)} {fault}, and are in no number (see above)")


def calibrate(
    checkpoint: Path,
    *,
    data: DataSource,
    split: str | None = None,
    protocol: str = "standard",
    options: PredictionOptions = DEFAULT_OPTIONS,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
) -> float:
    """Choose the map threshold with the best GT-known on a held-out split with boxes, and store it in the checkpoint.

    Args:
        checkpoint: a checkpoint of `tokenloc train`, or a folder that was saved for sharing; it is replaced whole.
        data: the dataset; by default the one that the checkpoint was trained on.
        split: the split of the dataset; by default the held-out one: val, of imagenet val2.
        protocol: by which boxes are judged; see `tokenloc list protocols`.
        options: test-time augmentation, refinement and precision.
        batch_size: images that pass the network together.
        workers: processes that read images.
        device: auto, cpu, cuda or mps.

    Returns:
        the threshold.
    """
    model, metadata = load_checkpoint(writable_path(checkpoint))
    dataset = open_data(data_of(metadata, data, split, "held_out"), metadata.classes)
    model.to(choose_device(device))
    settings: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": progress}
    chosen = calibrate_threshold(
        model, dataset, metadata.preprocessing, get_protocol(protocol), options=options, **settings
    )
    store_threshold(checkpoint, chosen)
    print_message(f"map threshold {chosen.value:g}, {chosen.source}; stored in {checkpoint}")
    return chosen.value
