"""``tokenloc demo``: the methods on generated scenes, or TokenCut on a user's own images, without any training."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from tokenloc._files import refuse_unwritable, write_json
from tokenloc.boxes import get_protocol
from tokenloc.commands.console import percents, print_message, print_table
from tokenloc.commands.localize import localize
from tokenloc.commands.train import train
from tokenloc.data import ImageDataset, Preprocessing, create_dataset
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.inference.evaluation import EvaluationResult, calibrate_threshold, evaluate_model
from tokenloc.methods.base import METHODS
from tokenloc.metrics import Scorer
from tokenloc.models import create_model
from tokenloc.models.checkpoint import load_checkpoint, store_threshold
from tokenloc.models.metadata import ModelMetadata
from tokenloc.reporting.drawing import TRUTH, draw_boxes, draw_map, image_table, save_image
from tokenloc.reporting.runs import METRICS
from tokenloc.training.config import DataConfig, ModelChoice, Optimisation
from tokenloc.training.run_folder import CHECKPOINTS, RunFolder

SIDE = 96  # pixels of a scene
DRAWN = 320  # pixels of a scene in the figure
VIT = {"patch_size": 8, "embed_dim": 96, "depth": 5, "num_heads": 3}
WEIGHTS = Path(__file__).with_name("demo.safetensors")  # of experiments/demo_backbone.py
LENGTHS = {"train": 960, "val": 100, "test": 200}
PHASES = ("training", "calibrating", "evaluating", "evaluating refined maps")
STEPS = ("affinity", "reprediction")
COMPARED = ("cam", "tscam", "lctr", "scm", "lcar", "sat")
EPOCHS = {"sat": 2}  # times as many, for its own token
LR = {"lcar": 1e-2, "tokencut": 1e-2, "sat": 1e-3}  # the first two train a classifier only
CUT: dict[str, Any] = {"edges": "cosine", "tau": 0.0}  # which suits the keys of any backbone
OPTIONS: dict[str, dict[str, Any]] = {"sat": {"area_target": 0.12, "token": "pretrained"}, "lcar": CUT, "tokencut": CUT}


class MethodResult(NamedTuple):
    """One method with plain and with refined maps: two evaluations and localizers, and the seconds of its training."""

    evaluations: list[EvaluationResult]
    localizers: list[Localizer]
    seconds: float


def demo(
    *,
    out: Path = Path("runs/demo"),
    methods: list[str] | None = None,
    seed: int = 0,
    epochs: int = 1,
    images: Path | None = None,
    backbone: str = "vit_small_patch16_224.dino",
    pretrained: Path | None = None,
) -> Path:
    """Compare the methods, and their refined maps, on generated scenes, trained on class labels alone.

    Each method continues from a small vision transformer that is part of tokenloc. The table also has the accuracies of
    the box of the whole image and of its center. With --images, TokenCut localizes the objects in your own images
    instead, without any training.

    Args:
        out: the folder for metrics.json, figures/summary.png, and a run's folder for each method; of the results for
            your own images, OUT/images.
        methods: names of `tokenloc list methods`; by default those of five papers, and CAM as a baseline.
        seed: of scenes, weights and training.
        epochs: passes over the training scenes; twice as many for SAT, which learns a token.
        images: an image, or a folder of images.
        backbone: for --images, a vision transformer whose weights are downloaded if --pretrained is not given.
        pretrained: for --images, a file with the weights of the backbone.
    """
    if images is not None:
        return _localize_own(images, backbone, pretrained, out / "images")
    chosen = list(dict.fromkeys(methods or COMPARED))
    for method in chosen:
        METHODS[method]  # reports an unknown name before the training
    refuse_unwritable(out / "figures")
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=Console(file=sys.stderr)) as bar:
        task = bar.add_task("", total=len(PHASES) * len(chosen))

        def enter(method: str, phase: str) -> None:
            done = len(PHASES) * chosen.index(method) + PHASES.index(phase)
            bar.update(task, description=f"{method}: {phase}", completed=done)

        results = {method: _run_method(method, out / method, seed, epochs, partial(enter, method)) for method in chosen}
        bar.update(task, description="done", completed=len(PHASES) * len(chosen))
    _print_results(results)
    content = {
        method: {"plain": plain.to_dict(), "refined": refined.to_dict(), "training_seconds": seconds}
        for method, ((plain, refined), _, seconds) in results.items()
    }
    write_json(out / METRICS, {"protocol": "standard", "images": LENGTHS["test"], "methods": content})
    figure = out / "figures" / "summary.png"
    save_image(_draw_results(results, seed), figure)
    print_message(f"see {figure}; next: `tokenloc demo --images PHOTOS` draws boxes on your own images")
    return out


def demo_settings(method: str, out: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Return the arguments of ``train`` for a method."""
    lr, epochs = LR.get(method, 5e-4), epochs * EPOCHS.get(method, 1)
    options = {"size": SIDE, "seed": seed, "length": LENGTHS["train"]}
    return {
        "data": DataConfig("scenes", resize=SIDE + 8, crop=SIDE, options=options),
        "model": ModelChoice(method, "vit_tiny_patch16_224", WEIGHTS, OPTIONS.get(method, {}), backbone_options=VIT),
        "optimisation": Optimisation(epochs, 32, lr, weight_decay=0.05, schedule="cosine", warmup_epochs=0.1 * epochs),
        "out": out,
        "seed": seed,
    }


def scenes(split: str, seed: int, size: int = SIDE) -> ImageDataset:
    """Return the demo's scenes."""
    return create_dataset("scenes", None, split, size=size, seed=seed, length=LENGTHS[split])


def _run_method(method: str, out: Path, seed: int, epochs: int, enter: Callable[[str], None]) -> MethodResult:
    """Train one method, choose its map threshold on val, and evaluate it on test; ``enter`` receives the phases."""
    enter("training")
    began = time.perf_counter()
    with redirect_stdout(io.StringIO()) as silent, redirect_stderr(silent):
        checkpoint = train(**demo_settings(method, out, seed, epochs), resume=RunFolder(out).last.is_file())
    seconds = time.perf_counter() - began
    model, metadata = load_checkpoint(checkpoint)
    standard, val, test = get_protocol("standard"), scenes("val", seed), scenes("test", seed)
    plain, refined = PredictionOptions(refine=()), PredictionOptions(refine=STEPS)
    enter("calibrating")
    threshold = calibrate_threshold(model, val, metadata.preprocessing, standard, options=plain)
    for name in ("best.ckpt", "last.ckpt"):
        store_threshold(out / CHECKPOINTS / name, threshold)
    metadata, scorer = replace(metadata, threshold=threshold), Scorer(standard, threshold.value)
    evaluations, localizers = [], []
    for phase, options in (("evaluating", plain), ("evaluating refined maps", refined)):
        enter(phase)
        evaluations.append(evaluate_model(model, test, metadata.preprocessing, scorer, options=options))
        localizers.append(Localizer(model, metadata, options=options))
    write_json(out / METRICS, {**evaluations[0].to_dict(), "threshold_source": threshold.source})
    return MethodResult(evaluations, localizers, seconds)


def _print_results(results: Mapping[str, MethodResult]) -> None:
    rows, levels = [], ("0.5", "0.7", "0.9")
    for method, result in results.items():
        plain, refined = (each.evaluation for each in result.evaluations)
        accuracies = [(each.box_acc or {}).get(level) for each in (plain, refined) for level in levels]
        rows.append([method, *percents(plain.top1_cls, *accuracies), f"{result.seconds:.0f}"])
    rows.sort(key=lambda row: float(row[2]))
    for name, accuracy in plain.constant_boxes.items():  # the same for every method
        rows.append([name, "", *percents(*(accuracy[level] for level in levels))])
    columns = ("", "Cls@1", "GT-kn.", "IoU.7", "IoU.9", "GT-kn.*", "IoU.7*", "IoU.9*", "s")
    title = "generated scenes, protocol standard, percent; * refined; s: training"
    print_table(columns, rows, title, box=None, padding=(0, 1, 0, 0))


def _draw_results(results: Mapping[str, MethodResult], seed: int) -> Image.Image:
    """Return an image with a row for each of the first scenes, and the refined map and box of each method."""
    rows: list[tuple[str, list[Image.Image]]] = []
    small, large = scenes("test", seed), scenes("test", seed, DRAWN)
    for index in range(4):
        scene, drawn = small.image(index), large.image(index)
        truth = draw_boxes(drawn, large[index].boxes, TRUTH)
        localized = (draw_map(drawn, result.localizers[1](scene)) for result in results.values())
        rows.append((small.classes[small[index].label], [truth, *localized]))
    return image_table(["scene, true box", *results], rows)


def _localize_own(images: Path, backbone: str, pretrained: Path | None, out: Path) -> Path:
    """Localize a user's images by TokenCut, whose maps need no training; return the file of the results."""
    try:
        weights = True if pretrained is None else pretrained
        model = create_model("tokencut", backbone, 1, weights, 224, {"smooth_outliers": True}, **CUT)
    except FileNotFoundError as error:
        if pretrained is not None:
            raise
        raise FileNotFoundError(
            f"the weights of {backbone} are neither in the local cache nor could they be downloaded. Connect to the "
            "internet once, or give a file: --backbone vit_tiny_patch16_224 --pretrained WEIGHTS.safetensors"
        ) from error
    normalisation = model.normalisation
    preprocessing = Preprocessing((224, 224), (256, 256), normalisation.mean, normalisation.std)
    folder = Localizer(model.eval(), ModelMetadata(model.config, ("object",), preprocessing)).save_pretrained(
        out / "model"
    )
    refine = PredictionOptions(refine=("affinity",))
    return localize(folder, [images], out=out, options=refine, overwrite=True)
