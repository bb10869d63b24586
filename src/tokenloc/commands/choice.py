"""``--model.method auto``: a method is chosen without boxes, by brief trainings of several on few images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokenloc._files import read_text, write_json
from tokenloc._plain import load_json
from tokenloc.boxes import box_iou
from tokenloc.commands.console import print_message, print_table
from tokenloc.data import ImageDataset
from tokenloc.inference import Localizer, Prediction
from tokenloc.inference.calibration import evidence_beyond_area, evidence_tables
from tokenloc.training.config import DataConfig, ModelChoice, Optimisation
from tokenloc.training.data import open_training_images
from tokenloc.training.placement import choose_placement
from tokenloc.training.run_folder import RunFolder
from tokenloc.training.selection import THRESHOLDS

AUTO, FOLDER, FILE = "auto", "choice", "choice.json"
PER_CLASS, EPOCHS = 10, 10  # of a brief training, at most
COMPARED = 32  # training images, at most, whose boxes are compared
AGREEING = 0.5  # fraction of the best agreement below which a method is out: its boxes are elsewhere
NO_BOX = np.array([0.0, 0.0, 1.0, 1.0])  # in place of the box of a constant map
REFERENCE = "tokencut"  # its boxes on the frozen backbone need no training


@dataclass(frozen=True)
class Candidate:
    """A method's options for any ViT, and its learning rate; None for that of the run."""

    options: dict[str, Any] = field(default_factory=dict)
    lr: float | None = None


_COSINE = {"edges": "cosine", "tau": 0.0}  # binary edges need a tau for each backbone
CANDIDATES = {
    "tscam": Candidate(),
    "sat": Candidate({"area_target": 0.35}),
    "lcar": Candidate({**_COSINE, "polarity": "border", "refinement": ["affinity_wide"]}, 1e-3),
    REFERENCE: Candidate(_COSINE, 1e-3),
}


class Compared(NamedTuple):
    """A trained candidate: its map threshold, evidence and area at it, and its boxes [N, 4] xyxy, original pixels."""

    threshold: float
    evidence: float
    area: float
    boxes: NDArray[np.float64]


def with_chosen_method(settings: dict[str, Any], train: Callable[..., Path]) -> dict[str, Any]:
    """Return the arguments of ``train`` with the chosen method in place of ``auto``, and its learning rate.

    The candidates' runs and choice.json are in OUT/choice. An interrupted choice is resumed, and a finished one stays.

    Raises:
        ValueError: if options of a method are given, several processes train, no candidate can be trained, or the
            choice in OUT is that of other settings.
    """
    model: ModelChoice = settings["model"]
    if model.method != AUTO:
        return settings
    if model.options or model.keep_classifier:
        raise ValueError("model.options and model.keep_classifier are of one method; leave them out with auto")
    if choose_placement(settings["device"], settings["devices"], settings["nodes"]).world > 1:
        raise ValueError("model.method auto needs a single process; choose the method first, then train with several")
    data, optimisation = _brief(settings["data"], settings["optimisation"])
    about = {"data": str(data), "backbone": model.backbone, "seed": settings["seed"]}
    file = settings["out"] / FOLDER / FILE
    if file.is_file():
        stored = load_json(read_text(file))
        if not isinstance(stored, dict) or stored.get("about") != about or stored.get("chosen") not in [*CANDIDATES]:
            raise ValueError(f"{file} is the choice of another data set or seed; choose another --out")
        return {**settings, **_with(stored["chosen"], model, settings["optimisation"])}
    try:
        found = _train_candidates({**settings, "data": data, "optimisation": optimisation}, train)
    except KeyboardInterrupt as end:
        again = f"repeat the command with --out {settings['out']} to resume"
        raise KeyboardInterrupt(f"interrupted while choosing a method; {again}") from end
    agreements = agreement(found)
    chosen = best(found, agreements)
    rows = {name: {**_numbers(each), "agreement": agreements[name]} for name, each in found.items()}
    _report(rows, chosen)
    write_json(file, {"about": about, "candidates": rows, "chosen": chosen})
    return {**settings, **_with(chosen, model, settings["optimisation"])}


def _brief(data: DataConfig, optimisation: Optimisation) -> tuple[DataConfig, Optimisation]:
    """Return the data and optimisation of a brief training: few images of each class, without other splits."""
    fewest = int(np.bincount(open_training_images(data).labels).min())
    few = replace(data, val_split=None, select="top1_cls", calibration_split=None, test_split=None, cached_views=0)
    few.per_class = min(PER_CLASS, fewest)
    return few, replace(optimisation, epochs=min(EPOCHS, optimisation.epochs))


def _with(method: str, model: ModelChoice, optimisation: Optimisation) -> dict[str, Any]:
    candidate = CANDIDATES[method]
    chosen = replace(model, method=method, options=candidate.options)
    return {"model": chosen, "optimisation": replace(optimisation, lr=candidate.lr or optimisation.lr)}


def _train_candidates(settings: dict[str, Any], train: Callable[..., Path]) -> dict[str, Compared]:
    """Train each candidate in its folder, or resume it, and return how they compare."""
    images, found = _some_images(settings["data"]), dict[str, Compared]()
    errors: list[str] = []
    for name in CANDIDATES:
        folder = RunFolder(settings["out"] / FOLDER / name)
        run = {**settings, **_with(name, settings["model"], settings["optimisation"]), "out": folder.path}
        print_message(f"choosing a method: {name}, trained briefly")
        try:
            checkpoint = train(**{**run, "resume": folder.last.is_file()})
        except ValueError as error:
            errors.append(f"{name} is left out: {error}")
            print_message(errors[-1])
            continue
        found[name] = compare(Localizer.from_checkpoint(checkpoint, settings["device"]), images)
    if not found:
        raise ValueError("no method could be trained:\n" + "\n".join(errors))
    return found


def _some_images(data: DataConfig) -> ImageDataset:
    """Return readable images with objects, spread over the training images."""
    images = open_training_images(replace(data, per_class=None)).with_objects()
    readable = []
    for index in np.unique(np.linspace(0, len(images) - 1, COMPARED).round().astype(int)).tolist():
        with suppress(ValueError, OSError):  # the training reports it
            images.image(index)
            readable.append(index)
    return images.subset(readable)


def compare(localizer: Localizer, images: ImageDataset) -> Compared:
    """Measure the evidence of a model on images of known classes, and its boxes, at the threshold that has the most."""
    settings: dict[str, Any] = {"thresholds": THRESHOLDS, "most": len(images)}
    model, preprocessing = localizer.model, localizer.metadata.preprocessing
    tables = evidence_tables(model, images, preprocessing, localizer.protocol, **settings)
    chosen = int(evidence_beyond_area(tables).argmax())
    inside, outside, area = tables.mean(axis=0)[:, chosen].tolist()
    localizer.threshold = THRESHOLDS[chosen]
    labels = [images.classes[sample.label] for sample in images]
    predictions = localizer.predict(map(images.image, range(len(images))), labels=labels)
    found = [one.results[0].boxes for one in predictions if isinstance(one, Prediction)]
    boxes = np.array([each[0] if len(each) else NO_BOX for each in found])
    return Compared(localizer.threshold, inside - outside, area, boxes)


def agreement(found: Mapping[str, Compared]) -> dict[str, float | None]:
    """Return the mean IoU of each candidate's boxes with those of ``REFERENCE``; None for itself, or without it."""
    reference = found.get(REFERENCE)
    if reference is None:
        return dict.fromkeys(found)
    return {
        name: None if name == REFERENCE else float(np.diagonal(box_iou(each.boxes, reference.boxes)).mean())
        for name, each in found.items()
    }


def best(found: Mapping[str, Compared], agreements: Mapping[str, float | None]) -> str:
    """Return the candidate with the most evidence beyond the area of its boxes, among those whose boxes agree."""
    most = max((value for value in agreements.values() if value is not None), default=0.0)
    left = {
        name: each.evidence - each.area
        for name, each in found.items()
        if (value := agreements[name]) is None or value >= AGREEING * most
    }
    return max(left, key=left.__getitem__)


def _numbers(each: Compared) -> dict[str, float]:
    return {"threshold": each.threshold, "evidence": each.evidence, "area": each.area}


def _report(rows: Mapping[str, Mapping[str, float | None]], chosen: str) -> None:
    names = ("threshold", "evidence", "area", "agreement")
    texts = {
        name: ["-" if (value := row[key]) is None else f"{value:.2f}" for key in names] for name, row in rows.items()
    }
    table = [[name, *texts[name], f"{(row['evidence'] or 0) - (row['area'] or 0):.3f}"] for name, row in rows.items()]
    print_table(("method", *names, "evidence - area"), table, "brief trainings")
    print_message(
        f"chose {chosen}: the most evidence beyond the area of its boxes, among the methods whose boxes "
        f"agree with those of {REFERENCE} at least half as well as the best"
    )
