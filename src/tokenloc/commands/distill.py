"""``tokenloc distill``: a student that gives the maps of many passes of a model in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenloc._files import refuse_unwritable, remove_partial_files, require_regular
from tokenloc._names import counted
from tokenloc.boxes import get_protocol
from tokenloc.commands.console import print_message, progress
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.commands.thresholds import calibration_note
from tokenloc.commands.train import train
from tokenloc.inference import PredictionOptions, Predictor, choose_device
from tokenloc.inference.options import DEFAULT_OPTIONS
from tokenloc.models.checkpoint import default_threshold, load_checkpoint
from tokenloc.models.hub import run_folder
from tokenloc.training.config import DataConfig, DataSource, Freeze, ModelChoice, Optimisation, Precision
from tokenloc.training.run_folder import RunFolder
from tokenloc.training.target_maps import write_target_maps


def distill(
    checkpoint: Path,
    *,
    data: DataSource,
    split: str = "train",
    options: PredictionOptions = DEFAULT_OPTIONS,
    threshold: float | None = None,
    out: Path | None = None,
    epochs: int = 30,
    batch_size: int = 32,
    lr: float = 2e-4,
    freeze: Freeze = "none",
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "32-true",
    workers: int = 0,
) -> Path:
    """Train a student on a model's own maps of the training images, so that one pass gives the maps of many.

    Writes the maps with the given options, such as --scales 320 448 --flip --shifts 2, to OUT/maps, but none for images
    whose class is not recognised inside the box; then trains the method `student` on them, from the weights of the
    model. It uses the labels alone, no boxes. The same command resumes an interrupted run.

    Args:
        checkpoint: a checkpoint file of `tokenloc train`.
        data: the dataset; by default that of the training.
        split: its training split.
        options: test-time augmentation, refinement and precision of the model.
        threshold: where the object ends on these maps, in [0, 1]; by default that of the checkpoint.
        out: the student's run; by default the folder student in the run of the checkpoint.
        epochs: passes over the training images.
        batch_size: images in a batch.
        lr: initial learning rate, of a cosine.
        freeze: the part of the backbone that is frozen, such as backbone for all of it; see `tokenloc train --help`.
        seed: of all random numbers.
        device: auto, cpu, cuda or mps.
        precision: of the training: 32-true, bf16-mixed, or 16-mixed on a GPU.
        workers: data loading processes.
    """
    require_regular(checkpoint)  # the training starts with its weights
    out = out or run_folder(checkpoint) / "student"
    refuse_unwritable(out / "maps")
    model, metadata = load_checkpoint(checkpoint)
    described = data_of(metadata, data, split, "held_out")
    images = open_data(described, metadata.classes)
    if threshold is None:
        threshold = default_threshold(model, metadata)
        note = calibration_note(metadata, options, model.refinement)
        print_message(f"the object ends at {threshold:g} on the maps{note}")
    predictor = Predictor(model.to(choose_device(device)), metadata.preprocessing, options, get_protocol("standard"))
    remove_partial_files(out / "maps", locked=False)
    unreadable = write_target_maps(predictor, images, out / "maps", threshold, workers, progress)
    if unreadable:
        print_message(f"{counted(len(unreadable), 'image')} could not be read; the first: {unreadable[0].reason}")
    config, preprocessing = metadata.model, metadata.preprocessing
    training = DataConfig(
        described["name"],
        described["root"],
        described.get("classes", list(metadata.classes)),
        resize=min(preprocessing.resize),
        crop=min(preprocessing.size),
        train_split=split,
        maps=out / "maps",
        options=described["options"],
    )
    learned = {"teacher_threshold": threshold}
    student = ModelChoice("student", config.backbone, checkpoint, learned, config.backbone_options)
    optimisation = Optimisation(epochs, batch_size, lr, weight_decay=0.05, schedule="cosine", freeze=freeze)
    settings: dict[str, Any] = {"seed": seed, "device": device, "precision": precision, "workers": workers}
    resume = RunFolder(out).last.is_file()
    return train(data=training, model=student, optimisation=optimisation, out=out, resume=resume, **settings)
