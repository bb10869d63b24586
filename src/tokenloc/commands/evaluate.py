"""``tokenloc evaluate`` and ``tokenloc calibrate``: how good a model is, and at which threshold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenloc._files import write_json
from tokenloc.boxes import Protocol, get_protocol
from tokenloc.boxes.protocols import checked_threshold
from tokenloc.commands.console import IncompleteError, console, progress
from tokenloc.commands.looking import viewing_note, viewing_of
from tokenloc.commands.results import METRICS, print_results, save_figures
from tokenloc.data import ImageDataset, create_dataset
from tokenloc.inference import Localizer, Viewing, choose_device
from tokenloc.inference.evaluation import calibrate_threshold, measure
from tokenloc.training.checkpoint import Card, load_checkpoint, store_threshold
from tokenloc.training.config import DataSource


def evaluate(
    checkpoint: Path,
    *,
    data: DataSource,
    split: str = "test",
    protocol: str = "standard",
    threshold: float | None = None,
    thresholds: list[float] | None = None,
    scales: list[int] | None = None,
    flip: bool = False,
    refine: list[str] | None = None,
    ten_crop: bool = False,
    out: Path | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
) -> Path:
    """Measure a checkpoint on a dataset; write metrics.json and figures.

    Under the protocol `standard` the map threshold is the one that `tokenloc calibrate` stored in the checkpoint;
    where there is none, the best threshold on the evaluated set is used and named as the oracle that it is.

    Args:
        checkpoint: a checkpoint of `tokenloc train`.
        data: the dataset; by default the one that the checkpoint was trained on.
        split: the split of the dataset.
        protocol: by which boxes are judged; see `tokenloc list protocols`.
        threshold: a fixed map threshold in [0, 1], in place of the usual one.
        thresholds: the thresholds among which the best is sought, in place of the protocol's.
        scales: sides of the network's input in pixels, such as 224 320 448, over which maps and scores are averaged; by
            default the side that the model was trained with.
        flip: look at each picture mirrored, too.
        refine: steps that refine the maps, such as affinity,reprediction, or none; by default those of the method.
        ten_crop: take the classes from ten crops of a larger resize, as SAT's paper does.
        out: the folder to write to; by default RUN/evaluation/PROTOCOL beside the checkpoint's folder.
        batch_size: photographs that pass the network together.
        workers: processes that read pictures.
        device: auto, cpu, cuda or mps.

    Returns:
        the path of metrics.json.
    """
    judged = get_protocol(protocol)
    judged = judged.with_thresholds(thresholds) if thresholds else judged
    model, card = load_checkpoint(checkpoint)
    dataset = open_dataset(card, data, split)
    viewing = viewing_of(scales, flip, refine, ten_crop)
    fixed, source = _threshold(card, judged, threshold, viewing)
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": progress, "viewing": viewing}
    model.to(choose_device(device))
    measured = measure(model, dataset, card.preprocessing, judged, fixed, **options)
    print_results(measured, source)
    folder = out or checkpoint.parent.parent / "evaluation" / protocol
    described = {"viewing": str(viewing), **({"threshold_source": source} if source else {})}
    write_json(folder / METRICS, {**measured.to_dict(), **described})
    save_figures(Localizer(model, card, fixed, viewing=viewing), dataset, folder / "figures")
    console.print(f"metrics and figures in {folder}", highlight=False, markup=False)
    if measured.unreadable:
        raise IncompleteError(f"{len(measured.unreadable)} pictures could not be read and are in no number (see above)")
    return folder / METRICS


def calibrate(
    checkpoint: Path,
    *,
    data: DataSource,
    split: str = "val",
    protocol: str = "standard",
    scales: list[int] | None = None,
    flip: bool = False,
    refine: list[str] | None = None,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
) -> float:
    """Choose the map threshold with the best GT-known on a held-out split with boxes, and store it in the checkpoint.

    Args:
        checkpoint: a checkpoint of `tokenloc train`; it is replaced whole.
        data: the dataset; by default the one that the checkpoint was trained on.
        split: the split of the dataset; not the one that is measured later.
        protocol: by which boxes are judged; see `tokenloc list protocols`.
        scales: sides of the network's input in pixels, such as 224 320 448, over which maps and scores are averaged; by
            default the side that the model was trained with.
        flip: look at each picture mirrored, too.
        refine: steps that refine the maps, such as affinity,reprediction, or none; by default those of the method.
        batch_size: photographs that pass the network together.
        workers: processes that read pictures.
        device: auto, cpu, cuda or mps.

    Returns:
        the threshold.
    """
    model, card = load_checkpoint(checkpoint)
    dataset = open_dataset(card, data, split)
    model.to(choose_device(device))
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": progress}
    options["viewing"] = viewing_of(scales, flip, refine)
    chosen = calibrate_threshold(model, dataset, card.preprocessing, get_protocol(protocol), **options)
    store_threshold(checkpoint, chosen)
    console.print(
        f"map threshold {chosen.value:g}, {chosen.source}; stored in {checkpoint}", highlight=False, markup=False
    )
    return chosen.value


def open_dataset(card: Card, data: DataSource, split: str) -> ImageDataset:
    """Open a split of the named dataset, or of the one the checkpoint was trained on, with its classes.

    Raises:
        ValueError: where the dataset has other classes than the checkpoint.
    """
    trained = card.data or {}
    name = data.name or trained.get("name") or "folder"
    root = data.root or trained.get("root")
    options = data.options if data.options is not None else (trained.get("options") or {} if data.name is None else {})
    return create_dataset(name, root, split, card.classes, **options).in_class_order(card.classes)


def _threshold(
    card: Card, protocol: Protocol, given: float | None, viewing: Viewing
) -> tuple[float | None, str | None]:
    """Return the fixed threshold and where it comes from; None for the protocol's own rule."""
    if given is not None:
        return checked_threshold(given), "given on the command line"
    if protocol.threshold_rule == "calibrated" and card.threshold:
        return card.threshold.value, card.threshold.source + viewing_note(card, viewing)
    return None, None
