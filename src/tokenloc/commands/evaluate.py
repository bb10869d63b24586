"""``tokenloc evaluate`` and ``tokenloc calibrate``: metrics of a model, and its map threshold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tokenloc._files import exclusive_lock, refuse_unwritable, remove_partial_files
from tokenloc._names import counted
from tokenloc.boxes import Protocol, get_protocol
from tokenloc.boxes.protocols import ErrorForm
from tokenloc.commands.console import IncompleteError, print_message, progress
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.commands.results import atomic_results, save_failures, save_figures, write_results
from tokenloc.commands.thresholds import ThresholdChoice, choose_threshold, localize_threshold
from tokenloc.data.base import file_fingerprint, shorten
from tokenloc.inference import Localizer, PredictionOptions, choose_device
from tokenloc.inference.calibration import calibrate_without_boxes
from tokenloc.inference.evaluation import EvaluationResult, calibrate_threshold, evaluate_model
from tokenloc.inference.options import DEFAULT_OPTIONS
from tokenloc.inference.processes import process_group
from tokenloc.inference.stored_maps import evaluate_maps
from tokenloc.methods import Method
from tokenloc.metrics import Scorer
from tokenloc.metrics.scores import BestThreshold
from tokenloc.metrics.stored_maps import StoredMaps, open_maps, writing_maps
from tokenloc.models.checkpoint import OptionValue, load_checkpoint, store_threshold
from tokenloc.models.hub import run_folder, writable_path
from tokenloc.models.metadata import ModelMetadata
from tokenloc.reporting.runs import BOXES, METRICS
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
    map_class: Literal["true", "predicted"] | None = None,
    best_threshold: BestThreshold = "gt_known",
    errors: ErrorForm = "released",
    options: PredictionOptions = DEFAULT_OPTIONS,
    method_options: dict[str, OptionValue] | None = None,
    out: Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
) -> Path:
    """Evaluate a checkpoint, or maps of any code, on a dataset; write metrics.json, images.csv and figures.

    Under torchrun the processes share the images; the result is bit-identical. The protocol `standard` uses the map
    threshold of `tokenloc localize`: that of `tokenloc calibrate`, or else the default of the method; for maps of other
    code, it is the best one on the evaluated set, an oracle.

    Args:
        checkpoint: a checkpoint, a folder that was saved for sharing, or hf-hub:USER/NAME; not with maps.
        data: the dataset; by default that of the training.
        split: the split of the dataset; by default the one that papers report: test, for imagenet val.
        protocol: how boxes are extracted and judged; see `tokenloc list protocols`.
        maps: a folder of maps to evaluate instead: of `--save-maps`, or an ID.npy for each image, 224x224 in [0, 1].
        save_maps: a new folder for the maps and predicted classes.
        threshold: a fixed map threshold in [0, 1] instead of the calibrated one.
        thresholds: the candidates for the best threshold, instead of the protocol's.
        map_class: the class whose map GT-known judges, true or predicted, instead of the protocol's.
        best_threshold: what the best threshold on the evaluated set maximizes: gt_known, or gt_known_plus_top1_loc as
            in SAT's release.
        errors: rules of TS-CAM's error categories: those of its released code, or of its printed Algorithm 1.
        options: test-time augmentation, refinement and precision.
        method_options: values of the method's test-time options, such as map, instead of those of the training.
        out: the output folder; by default evaluation/PROTOCOL beside the maps or in the run's folder (hub: runs/NAME).
        batch_size: images per forward pass.
        workers: processes that read images, or maps.
        device: auto, cpu, cuda or mps.
    """
    judged = get_protocol(protocol)
    judged = judged.with_thresholds(thresholds) if thresholds else judged
    judged = (judged.with_map_class(map_class) if map_class else judged).with_errors(errors)
    subfolder = Path("evaluation", protocol)
    if maps is not None and checkpoint is None and save_maps is None:
        job = _Job(data, split, judged, threshold, best_threshold, out or maps.parent / subfolder, workers)
        refuse_unwritable(job.folder)
        return _evaluate_maps(open_maps(maps), job)
    if maps is not None or checkpoint is None:
        raise ValueError("give either CHECKPOINT, with or without --save-maps, or --maps")
    job = _Job(data, split, judged, threshold, best_threshold, out or run_folder(checkpoint) / subfolder, workers)
    for folder in (job.folder / "figures", *([save_maps] if save_maps else [])):
        refuse_unwritable(folder)
    return _evaluate_model(*load_checkpoint(checkpoint, method_options), job, options, save_maps, batch_size, device)


class _Job(NamedTuple):
    data: DataSource
    split: str | None
    protocol: Protocol
    threshold: float | None
    best_threshold: BestThreshold
    folder: Path
    workers: int

    def scorer(self, threshold: float | None) -> Scorer:
        """Return the scorer; raise ValueError if a best threshold was asked for, and none is chosen."""
        scorer = Scorer(self.protocol, threshold, self.best_threshold)
        if self.best_threshold != "gt_known" and scorer.fixed_threshold is not None:
            raise ValueError(
                f"--best_threshold {self.best_threshold} needs a threshold chosen on the evaluated set, but it is "
                f"fixed at {scorer.fixed_threshold:g}; add --protocol sat, for example"
            )
        return scorer


def _evaluate_model(
    model: Method,
    metadata: ModelMetadata,
    job: _Job,
    options: PredictionOptions,
    save_maps: Path | None,
    batch_size: int,
    device: str,
) -> Path:
    described = data_of(metadata, job.data, job.split, "measured")
    dataset = open_data(described, metadata.classes)
    localized = localize_threshold(model, metadata, options, dataset)
    threshold, source = choose_threshold(job.protocol, job.threshold, localized)
    content = {"model": asdict(metadata.model), "data": described, "viewing": str(options)}
    about = {
        "input_frame": job.protocol.input_frame,
        "map_class": job.protocol.map_class,
        "viewing": str(options),
        "classes": metadata.classes,
        "model": content["model"],
        "threshold": localized.value,
        "threshold_source": localized.source,
    }
    settings: dict[str, Any] = {"batch_size": batch_size, "workers": job.workers, "options": options}
    if save_maps:
        remove_partial_files(save_maps.parent, locked=False)
    with ExitStack() as stack:
        first = stack.enter_context(process_group())
        maps = stack.enter_context(writing_maps(save_maps, about)) if save_maps and first else None
        folder = stack.enter_context(_locked_results(job.folder)) if first else None
        model.to(choose_device(device))
        settings |= {"progress": progress, "boxes": folder / BOXES} if folder else {}
        scorer = job.scorer(threshold)
        result = evaluate_model(model, dataset, metadata.preprocessing, scorer, maps=maps, **settings)
        if folder:
            write_results(folder, result, source, content)
            localizer = Localizer(model, metadata, result.evaluation.threshold, options=options, protocol=job.protocol)
            save_figures(localizer, dataset, folder / "figures")
            save_failures(localizer, dataset, result, folder / "figures")
    if first:
        _finish(f"metrics and figures in {job.folder}", result, "could not be read")
    return job.folder / METRICS


def _evaluate_maps(maps: StoredMaps, job: _Job) -> Path:
    described = data_of(None, job.data, job.split, "measured")
    dataset = open_data(described, maps.about.get("classes"))
    localized = ThresholdChoice(maps.about.get("threshold"), maps.about.get("threshold_source"))
    threshold, source = choose_threshold(job.protocol, job.threshold, localized)
    with process_group() as first, _locked_results(job.folder) if first else nullcontext() as folder:
        settings: dict[str, Any] = {"progress": progress, "boxes": folder / BOXES} if folder else {}
        scorer = job.scorer(threshold)
        result, matched = evaluate_maps(maps, dataset, scorer, workers=job.workers, **settings)
        if folder:
            about = {"folder": str(maps.folder), "differing": matched.differing, "surplus": matched.surplus}
            write_results(folder, result, source, {"model": maps.about.get("model"), "data": described, "maps": about})
    if first:
        if ids := matched.differing:
            print_message(f"{len(ids)} maps match an image except for its extension or slashes: {shorten(ids)}")
        if ids := matched.surplus:
            print_message(f"{len(ids)} maps match no image: {shorten(ids)}")
        _finish(f"metrics in {job.folder}", result, "without a map or mask, or with a broken one")
    return job.folder / METRICS


@contextmanager
def _locked_results(folder: Path) -> Iterator[Path]:
    """Lock the folder of an evaluation; yield a temporary one, whose files replace those of an earlier evaluation."""
    with exclusive_lock(folder):
        remove_partial_files(folder)
        with atomic_results(folder) as files:
            yield files


def _fingerprint(checkpoint: Path) -> list[str]:
    files = sorted(checkpoint.iterdir()) if checkpoint.is_dir() else [checkpoint]
    return [file_fingerprint(path) for path in files if path.is_file()]


def _finish(message: str, result: EvaluationResult, fault: str) -> None:
    print_message(message)
    if result.unreadable:
        raise IncompleteError(f"{counted(len(result.unreadable), 'image')} {fault}, and not in any metric (see above)")


def calibrate(
    checkpoint: Path,
    *,
    data: DataSource,
    split: str | None = None,
    without_boxes: bool = False,
    protocol: str = "standard",
    options: PredictionOptions = DEFAULT_OPTIONS,
    method_options: dict[str, OptionValue] | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
) -> float:
    """Choose the map threshold with the best GT-known on a held-out split with boxes; store it in the checkpoint.

    The default of the method stays unless the best threshold gets at least six more images right: fewer may be chance.

    Args:
        checkpoint: a checkpoint, or a folder that was saved for sharing; it is replaced atomically.
        data: the dataset; by default that of the training.
        split: the split of the dataset; by default the held-out one: val, for imagenet val2; train without boxes.
        without_boxes: choose by evidence instead: whether the model recognises the class inside the boxes, and no
            longer outside of them. It needs the labels only.
        protocol: how boxes are extracted and judged; see `tokenloc list protocols`.
        options: test-time augmentation, refinement and precision.
        method_options: values of the method's test-time options, such as map, instead of those of the training.
        batch_size: images per forward pass.
        workers: processes that read images.
        device: auto, cpu, cuda or mps.
    """
    checkpoint = writable_path(checkpoint)
    before = _fingerprint(checkpoint)
    model, metadata = load_checkpoint(checkpoint, method_options)
    split = "train" if split is None and without_boxes else split
    dataset = open_data(data_of(metadata, data, split, "held_out"), metadata.classes)
    model.to(choose_device(device))
    options = replace(options, evidence=False)
    settings: dict[str, Any] = {"options": options, "batch_size": batch_size, "workers": workers, "progress": progress}
    if without_boxes:
        chosen = calibrate_without_boxes(model, dataset, metadata.preprocessing, get_protocol(protocol), **settings)
    else:
        settings["report"] = print_message
        chosen = calibrate_threshold(model, dataset, metadata.preprocessing, get_protocol(protocol), **settings)
    if method_options:
        described = ", ".join(f"{name} {value}" for name, value in method_options.items())
        chosen = replace(chosen, source=f"{chosen.source}, {described}", method_options=method_options)
    if _fingerprint(checkpoint) != before:
        raise ValueError(f"{checkpoint} was replaced, as by a training, and its threshold is not set; calibrate again")
    remove_partial_files(checkpoint.parent, locked=False)
    store_threshold(checkpoint, chosen)
    print_message(f"map threshold {chosen.value:g}, {chosen.source}; stored in {checkpoint}")
    return chosen.value
