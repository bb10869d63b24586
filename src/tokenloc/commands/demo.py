"""``tokenloc demo``: a comparison of the methods on generated scenes, without any download."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from tokenloc._files import refuse_unwritable, write_json
from tokenloc.boxes import get_protocol
from tokenloc.commands.console import percents, print_message, print_table, progress
from tokenloc.commands.train import train
from tokenloc.data import ImageDataset, create_dataset
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.inference.evaluation import EvaluationResult, calibrate_threshold, evaluate_model
from tokenloc.methods.base import METHODS, list_methods
from tokenloc.metrics import Scorer
from tokenloc.models.checkpoint import load_checkpoint, store_threshold
from tokenloc.reporting.drawing import TRUTH, draw_boxes, draw_map, image_table, save_image
from tokenloc.reporting.runs import METRICS
from tokenloc.training.config import DataConfig, ModelChoice, Optimisation
from tokenloc.training.run_folder import CHECKPOINTS

SIDE = 96  # pixels of a scene
VIT = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}
LENGTHS = {"val": 200, "test": 300}
STEPS = ("affinity", "reprediction")


class MethodResult(NamedTuple):
    """One method with plain and with refined maps: two evaluations and localizers, and the seconds of its training."""

    evaluations: list[EvaluationResult]
    localizers: list[Localizer]
    seconds: float


def demo(*, out: Path = Path("runs/demo"), methods: list[str] | None = None, seed: int = 0, epochs: int = 5) -> Path:
    """Compare the methods, and their refined maps, on generated scenes, trained on class labels alone.

    A small vision transformer is first trained from scratch; each method continues from it for a fifth of the epochs.
    The table also has the accuracies of the box of the whole image and of its centre.

    Args:
        out: the folder for metrics.json, figures/summary.png, and a run's folder for each method.
        methods: names of `tokenloc list methods`; by default all of them.
        seed: of scenes, weights and training.
        epochs: of the first training.
    """
    chosen = list(dict.fromkeys(methods or list_methods()))
    for method in chosen:
        METHODS[method]  # reports an unknown name before the training
    refuse_unwritable(out / "figures")
    print_message("training a vision transformer to classify the scenes")
    start = train(**demo_settings("tscam", out / "backbone", seed, epochs))
    results = {method: _run_method(method, start, out / method, seed, max(1, epochs // 5)) for method in chosen}
    _print_results(results)
    content = {
        method: {"plain": plain.to_dict(), "refined": refined.to_dict(), "training_seconds": seconds}
        for method, ((plain, refined), _, seconds) in results.items()
    }
    write_json(out / METRICS, {"protocol": "standard", "images": LENGTHS["test"], "methods": content})
    save_image(_draw_results(results, scenes("test", seed)), out / "figures" / "summary.png")
    print_message(f"maps and boxes of all methods: {out / 'figures' / 'summary.png'}")
    return out


def demo_settings(method: str, out: Path, seed: int, epochs: int, start: Path | None = None) -> dict[str, Any]:
    """Return the arguments of ``train`` for a method; ``start`` is a checkpoint to take the backbone from."""
    lr, warmup = (1e-3, 1) if start is None else (5e-4, 0.2)
    schedule: dict[str, Any] = {"schedule": "cosine", "warmup_epochs": warmup}
    return {
        "data": DataConfig("scenes", resize=SIDE + 8, crop=SIDE, options={"size": SIDE, "seed": seed}),
        "model": ModelChoice(method, "vit_tiny_patch16_224", start or False, backbone_options=VIT),
        "optimisation": Optimisation(epochs, 64, lr, weight_decay=0.05, gradient_clip=1.0, **schedule),
        "out": out,
        "seed": seed,
    }


def scenes(split: str, seed: int) -> ImageDataset:
    """Return the demo's scenes."""
    return create_dataset("scenes", None, split, size=SIDE, seed=seed, length=LENGTHS[split])


def _run_method(method: str, start: Path, out: Path, seed: int, epochs: int) -> MethodResult:
    """Train one method from the backbone of ``start``, calibrate it on val, and evaluate it on test."""
    print_message(f"\n{method}")
    began = time.perf_counter()
    checkpoint = train(**demo_settings(method, out, seed, epochs, start))
    seconds = time.perf_counter() - began
    model, metadata = load_checkpoint(checkpoint)
    standard, val, test = get_protocol("standard"), scenes("val", seed), scenes("test", seed)
    plain, refined = PredictionOptions(refine=()), PredictionOptions(refine=STEPS)
    threshold = calibrate_threshold(model, val, metadata.preprocessing, standard, options=plain, progress=progress)
    for name in ("best.ckpt", "last.ckpt"):
        store_threshold(out / CHECKPOINTS / name, threshold)
    metadata, scorer = replace(metadata, threshold=threshold), Scorer(standard, threshold.value)
    evaluations, localizers = [], []
    for options in (plain, refined):
        result = evaluate_model(model, test, metadata.preprocessing, scorer, options=options, progress=progress)
        evaluations.append(result)
        localizers.append(Localizer(model, metadata, options=options))
    write_json(out / METRICS, {**evaluations[0].to_dict(), "threshold_source": threshold.source})
    return MethodResult(evaluations, localizers, seconds)


def _print_results(results: Mapping[str, MethodResult]) -> None:
    rows, levels = [], ("0.5", "0.7", "0.9")
    for method, result in results.items():
        plain, refined = (each.evaluation for each in result.evaluations)
        accuracies = [(each.box_acc or {}).get(level) for each in (plain, refined) for level in levels]
        rows.append([method, *percents(plain.top1_cls, plain.top1_loc, *accuracies), f"{result.seconds:.0f}"])
    for name, accuracy in plain.constant_boxes.items():  # the same for every method
        rows.append([name, "", "", *percents(*(accuracy[level] for level in levels))])
    columns = ("", "Cls@1", "Loc@1", "GT-kn.", "IoU.7", "IoU.9", "GT-kn.*", "IoU.7*", "IoU.9*", "s")
    title = "generated scenes, protocol standard, percent; * refined; s: training"
    print_table(columns, rows, title, box=None, padding=(0, 1, 0, 0))


def _draw_results(results: Mapping[str, MethodResult], dataset: ImageDataset) -> Image.Image:
    """Return an image with a column for each method, and two rows for each of some scenes: plain and refined maps."""
    rows: list[tuple[str, list[Image.Image]]] = []
    for index in range(4):
        scene, sample = dataset.image(index), dataset[index]
        truth = draw_boxes(scene, sample.boxes, TRUTH)
        for name, which in ((dataset.classes[sample.label], 0), ("refined", 1)):
            localized = (draw_map(scene, result.localizers[which](scene)) for result in results.values())
            rows.append((name, [truth, *localized]))
    return image_table(["scene, true box", *results], rows)
