"""``tokenloc train``: from a recipe to a run's folder."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import lightning

from tokenloc._files import exclusive_lock, free_folder, remove_partial_files, write_json
from tokenloc._names import counted
from tokenloc.boxes import Protocol, get_protocol
from tokenloc.commands.choice import with_chosen_method
from tokenloc.commands.console import print_message, progress
from tokenloc.commands.datasets import data_of
from tokenloc.commands.results import atomic_results, save_figures, whole_image_note, write_results
from tokenloc.commands.runs import groups_to_json, print_runs
from tokenloc.commands.thresholds import choose_threshold, localize_threshold
from tokenloc.data import ImageDataset, Preprocessing
from tokenloc.data.base import BACKGROUND
from tokenloc.data.registry import split_of
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.inference.calibration import calibrate_without_boxes
from tokenloc.inference.evaluation import calibrate_threshold, evaluate_model
from tokenloc.inference.processes import first_process
from tokenloc.methods import Method
from tokenloc.metrics import Scorer
from tokenloc.models import create_model
from tokenloc.models.checkpoint import (
    load_checkpoint,
    load_classifier,
    read_checkpoint,
    read_metadata,
    store_threshold,
)
from tokenloc.models.metadata import ModelMetadata
from tokenloc.refinement import find_steps
from tokenloc.reporting.charts import read_curves, save_training_curves
from tokenloc.reporting.runs import BOXES, read_run
from tokenloc.training.cached_features import CachedFeatureData, cache_features
from tokenloc.training.config import DataConfig, DataSource, ModelChoice, Optimisation, Precision
from tokenloc.training.data import TrainingData, open_split, open_training_images
from tokenloc.training.fit import fit
from tokenloc.training.freezing import freeze
from tokenloc.training.placement import check_precision, choose_placement
from tokenloc.training.run_folder import RunFolder
from tokenloc.training.selection import Selection, best_threshold, describe_selection
from tokenloc.training.target_maps import add_maps


def train(
    photos: Path | None = None,
    *,
    data: DataConfig,
    model: ModelChoice,
    optimisation: Optimisation,
    out: Path | None = None,
    protocol: str = "standard",
    seed: int = 0,
    seeds: list[int] | None = None,
    draws: list[int] | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int | None = None,
    nodes: int = 1,
    precision: Precision = "32-true",
    checkpoint_activations: bool = False,
    compile: bool = False,
    workers: int = 0,
    save_minutes: float = 15.0,
) -> Path:
    """Train a method on images and their class labels; then calibrate and evaluate it on splits with boxes.

    Writes config.yaml, environment.json, checkpoints/best.ckpt, checkpoints/last.ckpt and logs to the run's folder,
    and metrics.json and figures if data.test_split is set. --method, --backbone, --epochs and --batch are short for
    --model.method, --model.backbone, --optimisation.epochs and --optimisation.batch_size.

    Args:
        photos: a folder with a folder of images for each class, short for --data.root; without --config, the other
            settings are those of recipes/folder.yaml.
        data: dataset, splits and preprocessing.
        model: the method and its backbone.
        optimisation: epochs, learning rate and so on.
        out: the run's folder; by default runs/METHOD, runs/METHOD-2 …, for resume the last of these.
        protocol: evaluation protocol, see `tokenloc list protocols`.
        seed: of all random numbers.
        seeds: train once with each of these seeds, in OUT/seed-N, and print mean and standard deviation.
        draws: train once with each of these draws of data.per_class images of each class (SAT, Fig. 8), in OUT/draw-N,
            or with seeds in OUT/draw-N-seed-M.
        resume: continue an interrupted run in OUT; it ends with the weights of an uninterrupted run.
        device: auto, cpu, cuda or mps.
        devices: devices of each machine, which share every batch; by default those of torchrun or srun, or one.
        nodes: number of machines.
        precision: 32-true, bf16-mixed, or 16-mixed on a GPU.
        checkpoint_activations: recompute the transformer blocks in the backward pass: less memory, more time.
        compile: compile the training forward pass with torch.compile: a slow start, and no gain on a CPU.
        workers: data loading processes.
        save_minutes: within an epoch, save last.ckpt after this many minutes; it is also saved after every epoch.
    """
    if photos is not None:
        data, photos = replace(data, root=photos), None
    out = out or _default_folder(model.method, resume, choose_placement(device, devices, nodes).world)
    if seeds is not None or draws is not None:
        return _train_repeats({**locals(), "seeds": None, "draws": None}, seeds, draws)
    return _train_once(Namespace(**with_chosen_method(locals(), train)))


def _default_folder(method: str, resume: bool, processes: int) -> Path:
    """Return runs/METHOD, with a number if it exists; several processes, which need one folder, cannot count up."""
    folder = Path("runs", method)
    return free_folder(folder, lambda _: resume) if processes == 1 else folder


def _train_once(run: Namespace) -> Path:
    """Train with the arguments of ``train`` but ``seeds``."""
    data, model, optimisation = run.data, run.model, run.optimisation
    settings, first = _settings(vars(run)), first_process()
    lightning.seed_everything(run.seed, workers=True, verbose=False)  # before the head is initialised
    placement = choose_placement(run.device, run.devices, run.nodes)
    check_precision(run.precision, placement)
    boxes_protocol = get_protocol(run.protocol)
    folder = RunFolder(run.out)
    report = print_message if first else lambda _: None
    changed = folder.check(settings, _defaults(), run.resume)
    for line in changed:
        report(f"resumed with{line}")

    images = open_training_images(data)
    val = open_split(data, data.val_split, images.classes)
    given = {**model.options, "backbone_options": model.backbone_options}
    network = create_model(model.method, model.backbone, len(images.classes), model.pretrained, data.crop, **given)
    if model.keep_classifier:
        load_classifier(network, model.pretrained)
    find_steps(network.refinement)  # an invalid step would otherwise be found only after training
    trainable = freeze(network, optimisation.freeze)
    network.backbone.checkpointed = run.checkpoint_activations
    metadata = _metadata(network, data, images)
    selection = Selection(data, val, metadata.preprocessing, boxes_protocol, run.workers)
    batches = TrainingData(images, val, metadata.preprocessing, optimisation.batch_size, run.workers, run.seed)
    if data.maps is not None:
        batches = add_maps(batches, network, data.maps)
    if data.cached_views:
        batches = cache_features(batches, network, data, run.out)

    with exclusive_lock(run.out) if first else nullcontext(), folder.explained_interruption(silent=not first):
        resume = folder.last.is_file()
        if first:
            remove_partial_files(run.out)
            folder.record(settings)
            _print_start(batches, optimisation, str(trainable), folder)
        if isinstance(batches, CachedFeatureData):
            batches.fill(optimisation.epochs, placement.device, report, progress if first else None)
        options: dict[str, Any] = {"placement": placement, "precision": run.precision, "compile": run.compile}
        options |= {"seed": run.seed, "resume": resume, "save_minutes": run.save_minutes, "selection": selection}
        fit(network, batches, metadata, optimisation, folder, **options)
        if first:
            save_training_curves(run.out / "logs", run.out / "figures" / "training.png")
            report(_kept_epoch(folder, data, optimisation.epochs))
        calibrated = not changed and read_metadata(folder.last).threshold is not None  # before an interruption
        split = None if calibrated else data.calibration_split
        _calibrate_and_test(
            folder, replace(data, calibration_split=split), boxes_protocol, run.workers, placement.device
        )
    if first:
        localizer = Localizer.from_checkpoint(folder.best, placement.device)
        if note := whole_image_note(localizer, (images if val is None else val).with_objects()):
            report(note)
        _print_next_steps(folder, data)
    return folder.best


def _train_repeats(settings: dict[str, Any], seeds: list[int] | None, draws: list[int] | None) -> Path:
    """Train once with each draw and seed; skip finished runs and resume interrupted ones if asked to resume."""
    for name, values in (("seed", seeds), ("draw", draws)):
        if values is not None and (not values or len(set(values)) < len(values)):
            raise ValueError(f"--{name}s needs at least one {name} and no {name} twice; got {values}")
    if draws is not None and settings["data"].per_class is None:
        raise ValueError("--draws needs data.per_class, the number of images of each class to draw")
    if choose_placement("cpu", settings["devices"], settings["nodes"]).world > 1:
        raise ValueError(
            "--seeds trains the runs one after the other in one process; start one command for each --seed"
        )
    out: Path = settings["out"]
    repeats = _repeats(settings, seeds, draws)
    folders = [RunFolder(out / name) for name in repeats]
    try:
        for changes, folder in zip(repeats.values(), folders, strict=True):
            resume = settings["resume"] and folder.config.is_file()
            run = with_chosen_method({**settings, **changes, "out": folder.path, "resume": resume}, train)
            if resume and folder.metrics.is_file():
                folder.check(_settings(run), _defaults(), True)  # a finished run, if it had the same settings
            else:
                train(**run)
    except KeyboardInterrupt as end:
        raise KeyboardInterrupt(f"{end}; to resume all seeds, repeat this command with --resume") from end
    if settings["data"].test_split is not None:
        groups = {str(out): [read_run(folder.path) for folder in folders]}
        print_runs(groups)
        summary = out / ("seeds.json" if draws is None else "draws.json")
        write_json(summary, {"protocol": groups[str(out)][0].protocol, "groups": groups_to_json(groups)})
    return folders[0].best


def _repeats(settings: dict[str, Any], seeds: list[int] | None, draws: list[int] | None) -> dict[str, dict[str, Any]]:
    """Return the changed settings of each run by the name of its folder."""
    found: dict[str, dict[str, Any]] = {}
    for draw, seed in product([None] if draws is None else draws, [None] if seeds is None else seeds):
        data = {} if draw is None else {"data": replace(settings["data"], draw=draw)}
        parts = [f"draw-{draw}"] * (draw is not None) + [f"seed-{seed}"] * (seed is not None)
        found["-".join(parts)] = data | ({} if seed is None else {"seed": seed})
    return found


def _metadata(network: Method, data: DataConfig, images: ImageDataset) -> ModelMetadata:
    size, resize = (data.crop, data.crop), (data.resize, data.resize)
    preprocessing = Preprocessing(size, resize, network.normalisation.mean, network.normalisation.std)
    source = {"name": data.name, "root": None if data.root is None else str(data.root), "options": data.options}
    return ModelMetadata(network.config, tuple(images.classes), preprocessing, None, source)


def _calibrate_and_test(folder: RunFolder, data: DataConfig, protocol: Protocol, workers: int, device: str) -> None:
    """Calibrate the best checkpoint and evaluate it, as far as splits are set; write metrics.json and figures."""
    first = first_process()
    options: dict[str, Any] = {"workers": workers, "progress": progress if first else None}
    model, metadata = load_checkpoint(folder.best)
    model.to(device)
    images = open_split(data, data.calibration_split, data.classes)
    if images is not None:
        if data.calibrate_by == "evidence":
            threshold = calibrate_without_boxes(model, images, metadata.preprocessing, protocol, **options)
        else:
            loading = {**options, "report": print_message if first else None}
            threshold = calibrate_threshold(model, images, metadata.preprocessing, protocol, **loading)
        metadata = replace(metadata, threshold=threshold)
        for path in (folder.best, folder.last) if first else ():
            store_threshold(path, threshold)
    test = open_split(data, data.test_split, data.classes)
    if test is None:
        return
    localized = localize_threshold(model, metadata, PredictionOptions(), test)
    fixed, source = choose_threshold(protocol, None, localized)
    with atomic_results(folder.path) if first else nullcontext() as files:
        options["boxes"] = files / BOXES if files else None
        scorer = Scorer(protocol, fixed, best_threshold(data.select))
        measured = evaluate_model(model, test, metadata.preprocessing, scorer, **options)
        if files is None:
            return
        epoch, choice = read_checkpoint(folder.best)["epoch"] + 1, describe_selection(data)
        tested = data_of(metadata, DataSource(), data.test_split, "measured")
        described = {"model": asdict(metadata.model), "data": tested, "epoch": epoch, "epoch_source": choice}
        write_results(files, measured, source, described)
        localizer = Localizer(model, metadata, measured.evaluation.threshold, protocol=protocol)
        save_figures(localizer, test, files / "figures")


def _kept_epoch(folder: RunFolder, data: DataConfig, epochs: int) -> str:
    """Return which epoch of a finished training is in best.ckpt, and why."""
    epoch = read_checkpoint(folder.best)["epoch"]
    values = dict(read_curves(folder.path / "logs").get(f"val/{data.select}", []))
    equal = sum(value == values.get(epoch) for value in values.values())
    among = f"the lowest validation loss of the {equal} epochs with " if equal > 1 else ""
    reason = f"{'is' if data.val_split is None else 'has'} {among}{describe_selection(data)}"
    return f"kept epoch {epoch + 1} of {epochs}, because it {reason}"


def _print_start(batches: TrainingData, optimisation: Optimisation, trainable: str, folder: RunFolder) -> None:
    images = batches.train
    print_message(f"{counted(len(images), 'image')} of {counted(len(images.classes), 'class')} from {images.name}")
    print_message(trainable)
    if len(images.classes) == 1:
        remedy = f"add a folder {BACKGROUND} of images without it"
        print_message(f"warning: with one class there is nothing to tell apart, and maps mean little; {remedy}")
    if batches.batch_size > len(images):
        print_message(f"the batch size {batches.batch_size} is larger than the dataset: each step uses all images")
    steps = optimisation.epochs * batches.steps_per_epoch(optimisation.accumulate)
    if folder.last.is_file() and read_checkpoint(folder.last)["global_step"] >= steps:
        print_message(f"{folder.last} has all {optimisation.epochs} epochs; only the steps after training are repeated")


def _print_next_steps(folder: RunFolder, data: DataConfig) -> None:
    best, tested = str(folder.best), data.test_split is not None
    evaluate = ", or evaluate under another protocol" if tested else ""
    print_message(f"trained: {best}; to localize objects in your own images{evaluate}:")
    localize = ["localize", best, "PHOTOGRAPHS", "--out", str(folder.path / "localized")]
    split = [] if data.test_split in (None, split_of(data.name, "measured")) else ["--split", data.test_split]
    for command in (localize, *([["evaluate", best, "--protocol", "wsol-eval", *split]] if tested else [])):
        print_message("  " + shlex.join(["tokenloc", *command]))


def _settings(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``train`` as plain values for config.yaml: dictionaries, lists and strings."""
    chosen = {name: value for name, value in arguments.items() if name not in ("photos", "resume", "seeds", "draws")}
    plain: dict[str, Any] = json.loads(json.dumps(chosen, default=lambda v: vars(v) if is_dataclass(v) else str(v)))
    return plain


def _defaults() -> dict[str, Any]:
    required = {"data": DataConfig(), "model": ModelChoice(), "optimisation": Optimisation()}
    return _settings({**(train.__kwdefaults__ or {}), **required})
