"""``tokenloc train``: from a recipe to a run's folder."""

from __future__ import annotations

import inspect
import math
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml

from tokenloc._files import remove_partial_files, write_json, write_text
from tokenloc._locks import exclusive_lock
from tokenloc.boxes import Protocol, get_protocol
from tokenloc.commands.console import print_message, progress
from tokenloc.commands.datasets import data_of
from tokenloc.commands.results import save_figures, write_results
from tokenloc.commands.runs import SEED, groups_to_json, print_runs
from tokenloc.commands.thresholds import calibrated_threshold, choose_threshold
from tokenloc.data import ImageDataset, Preprocessing, create_dataset
from tokenloc.data.stratified import few_shot
from tokenloc.inference import Localizer, PredictionOptions, choose_device
from tokenloc.inference.evaluation import calibrate_threshold, evaluate_model
from tokenloc.methods import Method
from tokenloc.metrics import Scorer
from tokenloc.models import create_model
from tokenloc.models.checkpoint import load_checkpoint, read_checkpoint, store_threshold
from tokenloc.models.metadata import ModelMetadata, versions
from tokenloc.reporting.charts import save_training_curves
from tokenloc.reporting.runs import BOXES, METRICS, read_run
from tokenloc.training.cached_features import CachedFeatureData, FeatureCache, frozen, sources_of
from tokenloc.training.cached_images import ResizedImages
from tokenloc.training.config import DataConfig, DataSource, ModelChoice, Optimisation, Precision
from tokenloc.training.fit import CHECKPOINTS, TrainingData, fit
from tokenloc.training.freezing import freeze, told
from tokenloc.training.interruption import StoppedError
from tokenloc.training.placement import check_precision, first_process, placed, process_rank
from tokenloc.training.resuming import CONFIG, check_settings
from tokenloc.training.selection import Selection

SEEDS = "seeds.json"


def train(
    *,
    data: DataConfig,
    model: ModelChoice,
    optimisation: Optimisation,
    out: Path = Path("runs/latest"),
    protocol: str = "standard",
    seed: int = 0,
    seeds: list[int] | None = None,
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
    """Train a method on images and their class labels; then calibrate and measure it where boxes are known.

    The run's folder gets config.yaml, environment.json, checkpoints/best.ckpt and last.ckpt, logs, and, where
    data.test_split is given, metrics.json and figures.

    Args:
        data: the images.
        model: the method and its backbone.
        optimisation: epochs, learning rate and so on.
        out: the run's folder.
        protocol: by which boxes are judged; see `tokenloc list protocols`.
        seed: of everything random.
        seeds: train once with each of these instead, in OUT/seed-N, and print mean and spread; see `tokenloc compare`.
        resume: go on with the interrupted run in the folder; it ends with the weights of one that never was.
        device: auto, cpu, cuda or mps.
        devices: so many of each machine share every batch, a process each; None: those of torchrun or srun, or one.
        nodes: machines.
        precision: 32-true, bf16-mixed, or 16-mixed on a GPU.
        checkpoint_activations: compute the transformer blocks twice rather than keep what is in them: less memory.
        compile: let torch compile what a step runs: a slow start, and on a CPU nothing gained.
        workers: processes that read images.
        save_minutes: last.ckpt is saved at the end of every epoch, and within one after so many minutes.

    Returns:
        the path of the best checkpoint; with ``seeds``, that of the first.
    """
    if seeds is not None:
        _refuse_processes(devices, nodes)
        return _repeat({**locals(), "seeds": None}, seeds, out, resume)
    settings = _plain_settings(locals())
    lightning.seed_everything(seed, workers=True, verbose=False)  # before the head is drawn
    chosen = choose_device(device)
    placement = placed(device, devices, nodes)
    check_precision(precision, placement)
    judged = get_protocol(protocol)
    _check_out(out, resume, settings)
    images = _to_learn_from(data)
    held_out = _split(data, data.val_split, images)
    network = _create(model, data, images)
    tunable = told(freeze(network, optimisation.freeze), network, optimisation.freeze)
    network.backbone.checkpointed = checkpoint_activations
    metadata = _metadata(network, data, images)
    selection = _selection(data, held_out, metadata.preprocessing, judged, workers)
    sets = _kept_images(images, held_out, metadata.preprocessing, data, out)
    feed = TrainingData(*sets, metadata.preprocessing, optimisation.batch_size, workers, seed)
    if data.cached_views:
        feed = _cached(feed, network, data, out)
    run: dict[str, Any] = {"placement": placement, "precision": precision, "compile": compile}
    run |= {"save_minutes": save_minutes, "selection": selection}
    with exclusive_lock(out) if first_process() else nullcontext(), _telling_how_to_go_on(out):
        if first_process():
            remove_partial_files(out)
            _record(out, settings)
            _tell_begin(images, optimisation.batch_size, tunable)
        resumed = _last(out).is_file()
        if resumed and first_process():
            _tell_if_trained(_last(out), optimisation, feed)
        shown = progress if first_process() else lambda items, _: iter(items)
        for images in (each for each in sets if isinstance(each, ResizedImages)):
            images.fill(workers, print_message, shown, (process_rank(), placement.world))
        if isinstance(feed, CachedFeatureData):
            feed.fill(network, optimisation.epochs, chosen, print_message, shown)
        best = fit(network, feed, metadata, optimisation, out, seed=seed, resume=resumed, **run)
        if first_process():
            save_training_curves(out / "logs", out / "figures" / "training.png")
        _after(best, out, judged, data, workers, chosen)
    if first_process():
        _tell_next(best, out)
    return best


def _repeat(settings: dict[str, Any], seeds: list[int], out: Path, resume: bool) -> Path:
    """Train once with each seed; to resume is to leave out what is measured, go on with what began, begin the rest."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds must be different numbers, at least one; got {seeds}")
    folders = {seed: out / f"{SEED}{seed}" for seed in seeds}
    try:
        for seed, folder in folders.items():
            begun = resume and (folder / CONFIG).is_file()
            one = {**settings, "seed": seed, "out": folder, "resume": begun}
            if begun and (folder / METRICS).is_file():
                _check_out(folder, True, _plain_settings(one))
            else:
                train(**one)
    except KeyboardInterrupt as end:
        raise KeyboardInterrupt(f"{end}; or, for all seeds, the same command with --resume") from end
    if settings["data"].test_split is not None:
        runs = [read_run(folder) for folder in folders.values()]
        print_runs({str(out): runs})
        write_json(out / SEEDS, {"protocol": runs[0].protocol, "groups": groups_to_json({str(out): runs})})
    return folders[seeds[0]] / CHECKPOINTS / "best.ckpt"


def _refuse_processes(devices: int | None, nodes: int) -> None:
    if placed("cpu", devices, nodes).world > 1:
        raise ValueError("--seeds trains one run after the other, in one process: give --seed to a command for each")


def _last(out: Path) -> Path:
    return out / CHECKPOINTS / "last.ckpt"


@contextmanager
def _telling_how_to_go_on(out: Path) -> Iterator[None]:
    """Let an interruption say what is kept, and what to type to go on."""
    try:
        yield
    except (StoppedError, KeyboardInterrupt) as end:
        if not first_process():
            raise SystemExit(130) from end
        kept = str(end) or (f"{_last(out)} is kept" if _last(out).is_file() else "no checkpoint was written yet")
        command = shlex.join(["tokenloc", "train", "--config", str(out / CONFIG), "--resume"])
        raise KeyboardInterrupt(f"interrupted; {kept}; go on with: {command}") from end


def _after(best: Path, out: Path, judged: Protocol, data: DataConfig, workers: int, device: torch.device) -> None:
    """Calibrate the best checkpoint and measure it, as far as the configuration asks for it."""
    model, metadata = load_checkpoint(best)
    model.to(device)
    first = first_process()
    options: dict[str, Any] = {"workers": workers, "progress": progress if first else None}
    calibration = _split(data, data.calibration_split, None)
    if calibration is not None:
        threshold = calibrate_threshold(model, calibration, metadata.preprocessing, judged, **options)
        for name in ("best.ckpt", "last.ckpt") if first else ():
            store_threshold(out / CHECKPOINTS / name, threshold)
        metadata = replace(metadata, threshold=threshold)
    test = _split(data, data.test_split, None)
    if test is None:
        return
    fixed, source = choose_threshold(judged, None, calibrated_threshold(metadata, PredictionOptions(), test))
    options["boxes"] = out / BOXES if first else None
    measured = evaluate_model(model, test, metadata.preprocessing, Scorer(judged, fixed), **options)
    if not first:
        return
    described = {"model": asdict(metadata.model), "data": data_of(metadata, DataSource(), data.test_split, "measured")}
    chosen = {"epoch": read_checkpoint(best)["epoch"] + 1, "epoch_source": _epoch_source(data)}
    write_results(out, measured, source, {**described, **chosen})
    print_message(f"epoch {chosen['epoch']}: {chosen['epoch_source']}")
    save_figures(Localizer(model, metadata, measured.evaluation.threshold, protocol=judged), test, out / "figures")


def _to_learn_from(data: DataConfig) -> ImageDataset:
    images = create_dataset(data.name, data.root, "train", data.classes, **data.options)
    return images if data.per_class is None else few_shot(images, data.per_class, data.draw)


def _cached(feed: TrainingData, network: Method, data: DataConfig, out: Path) -> CachedFeatureData:
    """Return the images as features of the frozen backbone, on disk."""
    if data.cached_views < 0:
        raise ValueError(f"data.cached_views must be at least 0; got {data.cached_views}")
    sources = sources_of(frozen(network), feed.train, feed.preprocessing, feed.seed, data.options)
    return CachedFeatureData(
        feed, FeatureCache(data.cache or out / "features", sources, len(feed.train)), data.cached_views
    )


def _kept_images(
    images: ImageDataset, held_out: ImageDataset | None, preprocessing: Preprocessing, data: DataConfig, out: Path
) -> tuple[ImageDataset, ImageDataset | None]:
    """Return the images and those that choose the best epoch, as resized images where that is asked for."""
    if not data.cached_images:
        return images, held_out
    if data.cached_views:
        raise ValueError(
            "data.cached_images and data.cached_views keep the same images twice: features of a frozen backbone "
            "need each image only while they are computed. Give one of them"
        )
    folder = data.cache or out / "images"
    kept = ResizedImages(images, preprocessing, folder, data.options)
    if held_out is None or held_out.has_masks:  # whose masks are read anyway: a broken one leaves its image out
        return kept, held_out
    return kept, ResizedImages(held_out, preprocessing, folder, data.options)


def _tell_begin(images: ImageDataset, batch_size: int, tunable: str) -> None:
    count = len(images)
    lines = [f"{count} images of {len(images.classes)} classes from {images.name}", tunable]
    if batch_size > count:
        lines.append(f"the batch of {batch_size} is larger than the set: each step learns from all {count} images")
    for line in lines:
        print_message(line)


def _tell_if_trained(last: Path, optimisation: Optimisation, feed: TrainingData) -> None:
    steps = optimisation.epochs * math.ceil(feed.steps / optimisation.accumulate)
    if read_checkpoint(last)["global_step"] >= steps:
        print_message(
            f"{last} is trained to its end, {optimisation.epochs} epochs: what is asked for after it is done again"
        )


def _tell_next(best: Path, out: Path) -> None:
    """Say what was left where, and what to do with it."""
    print_message(f"trained: {best}; boxes for images of your own, and numbers under another protocol:")
    print_message(
        "  " + shlex.join(["tokenloc", "localize", str(best), "PHOTOGRAPHS", "--out", str(out / "localized")])
    )
    print_message("  " + shlex.join(["tokenloc", "evaluate", str(best), "--protocol", "wsol-eval"]))


def _selection(
    data: DataConfig, held_out: ImageDataset | None, preprocessing: Preprocessing, judged: Protocol, workers: int
) -> Selection:
    """Return by what the best epoch is chosen; refuse boxes where there are none."""
    if data.select == "top1_cls":
        return Selection()
    if held_out is None or not held_out.has_boxes:
        lacking = "data.val_split is not given" if held_out is None else f"{held_out.split} of {held_out.name} has none"
        raise ValueError(f"data.select={data.select!r} chooses the best epoch by held-out boxes, and {lacking}")
    images: ImageDataset = held_out

    def judge(model: Method) -> float:
        result = evaluate_model(model, images, preprocessing, Scorer(judged), workers=workers)
        return float(getattr(result.evaluation, data.select))

    return Selection(data.select, judge)


def _epoch_source(data: DataConfig) -> str:
    """Return how the best epoch was chosen, with a mark where that was by the images that are measured."""
    if data.val_split is None:
        return "the last one"
    mark = "; chosen on the very images that are measured, as an oracle" if data.val_split == data.test_split else ""
    return f"the best {data.select} on {data.val_split} of {data.name}{mark}"


def _split(data: DataConfig, split: str | None, train: ImageDataset | None) -> ImageDataset | None:
    if split is None:
        return None
    classes = data.classes if train is None else train.classes
    return create_dataset(data.name, data.root, split, classes, **data.options)


def _create(model: ModelChoice, data: DataConfig, images: ImageDataset) -> Method:
    return create_model(
        model.method,
        model.backbone,
        num_classes=len(images.classes),
        pretrained=model.pretrained,
        image_size=data.crop,
        backbone_options=model.backbone_options,
        **model.options,
    )


def _metadata(network: Method, data: DataConfig, images: ImageDataset) -> ModelMetadata:
    normalisation = network.normalisation
    size, resize = (data.crop, data.crop), (data.resize, data.resize)
    preprocessing = Preprocessing(size, resize, normalisation.mean, normalisation.std)
    source = {"name": data.name, "root": None if data.root is None else str(data.root), "options": data.options}
    return ModelMetadata(network.config, tuple(images.classes), preprocessing, None, source)


def _check_out(out: Path, resume: bool, settings: dict[str, Any]) -> None:
    """Refuse to write over a run, and to resume one that is not there or was begun otherwise."""
    if not resume:
        if _last(out).is_file():
            raise ValueError(f"{out} holds a run already; continue it with --resume, or give another --out")
        return
    if (out / CONFIG).is_file():
        lines = check_settings(out, settings, _defaults())
        if not first_process():
            return
        for line in lines:
            print_message(f"resumed with{line}")
    elif not _last(out).is_file():
        raise FileNotFoundError(f"nothing to resume: no {_last(out)}; leave --resume away to start anew")


def _defaults() -> dict[str, Any]:
    parameters = inspect.signature(train).parameters.values()
    flat = {each.name: each.default for each in parameters if each.default is not each.empty}
    return _plain_settings({**flat, "data": DataConfig(), "model": ModelChoice(), "optimisation": Optimisation()})


def _record(out: Path, settings: dict[str, Any]) -> None:
    """Write the resolved configuration, which can be given to --config again, and what it ran with."""
    write_text(out / CONFIG, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    write_json(out / "environment.json", {**versions(), "commit": _commit()})


def _plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``train`` as plain values."""
    return {name: _plain(value) for name, value in settings.items() if name not in ("resume", "seeds")}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _commit() -> str | None:
    """Return the commit of the source tree that this module is in; None where it is not in one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
