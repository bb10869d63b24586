"""``tokenloc demo``: the methods beside one another on generated scenes, without any download."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from rich.table import Table

from tokenloc._files import write_json
from tokenloc.boxes import get_protocol
from tokenloc.commands.console import console, percents, print_message, progress
from tokenloc.commands.train import train
from tokenloc.data import ImageDataset, create_dataset
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.inference.evaluation import EvaluationResult, calibrate_threshold, evaluate_model
from tokenloc.methods.base import METHODS, list_methods
from tokenloc.metrics import Scorer
from tokenloc.models.checkpoint import load_checkpoint, store_threshold
from tokenloc.reporting import draw_boxes, draw_map, image_table, save_image
from tokenloc.reporting.drawing import TRUTH
from tokenloc.reporting.runs import METRICS
from tokenloc.training.config import DataConfig, ModelChoice, Optimisation
from tokenloc.training.run_folder import CHECKPOINTS

SIDE = 96  # pixels of a scene
VIT = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}
LENGTHS = {"val": 200, "test": 300}
STEPS = ("affinity", "reprediction")
DRAWN = 4  # scenes in the image


@dataclass(frozen=True)
class Compared:
    """One method of the demo: how good its maps are as they come and refined, and how long its training took."""

    localizer: Localizer
    refining: Localizer
    plain: EvaluationResult
    refined: EvaluationResult
    seconds: float


def demo(*, out: Path = Path("runs/demo"), methods: list[str] | None = None, seed: int = 0, epochs: int = 5) -> Path:
    """Compare the methods, and their refined maps, on generated scenes from class labels alone; draw what they find.

    A small vision transformer first learns from nothing to tell the classes apart, so no weights are downloaded; each
    method then goes on from it for a fifth of the epochs. The table shows, beside the methods, what the box of the
    whole image and the box of its centre reach.

    Args:
        out: the folder to write to: metrics.json, figures/summary.png, and a run's folder for each method.
        methods: names of `tokenloc list methods`; by default all of them. One alone, such as tscam, is quickest.
        seed: of scenes, weights and training.
        epochs: passes over the scenes until the transformer tells the classes apart.

    Returns:
        the folder.
    """
    chosen = list(dict.fromkeys(methods or list_methods()))
    for method in chosen:
        METHODS[method]  # an unknown name is told before anything is trained
    print_message("a vision transformer learns to tell the classes apart")
    start = train(**demo_settings("tscam", out / "backbone", seed, epochs))
    compared = {method: compare(method, start, out / method, seed, max(1, epochs // 5)) for method in chosen}
    print_comparison(compared)
    content = {
        method: {"plain": one.plain.to_dict(), "refined": one.refined.to_dict(), "training_seconds": one.seconds}
        for method, one in compared.items()
    }
    write_json(out / METRICS, {"protocol": "standard", "images": LENGTHS["test"], "methods": content})
    save_image(comparison_image(compared, scenes("test", seed)), out / "figures" / "summary.png")
    print_message(f"look at {out / 'figures' / 'summary.png'}")
    return out


def demo_settings(method: str, out: Path, seed: int, epochs: int, start: Path | None = None) -> dict[str, Any]:
    """Return the arguments of ``train`` for a method; ``start`` is a checkpoint whose backbone it goes on from."""
    return {
        "data": DataConfig("scenes", resize=SIDE + 8, crop=SIDE, options={"size": SIDE, "seed": seed}),
        "model": ModelChoice(method, "vit_tiny_patch16_224", start or False, backbone_options=VIT),
        "optimisation": Optimisation(
            epochs=epochs,
            batch_size=64,
            lr=1e-3 if start is None else 5e-4,
            weight_decay=0.05,
            schedule="cosine",
            warmup_epochs=1 if start is None else 0.2,
            gradient_clip=1.0,
        ),
        "out": out,
        "seed": seed,
    }


def scenes(split: str, seed: int) -> ImageDataset:
    """Return the demo's scenes."""
    return create_dataset("scenes", None, split, size=SIDE, seed=seed, length=LENGTHS[split])


def compare(method: str, start: Path, out: Path, seed: int, epochs: int) -> Compared:
    """Train one method from the backbone of ``start``, choose its threshold on val, and measure it on test."""
    print_message(f"\n{method}")
    began = time.perf_counter()
    checkpoint = train(**demo_settings(method, out, seed, epochs, start))
    seconds = time.perf_counter() - began
    model, metadata = load_checkpoint(checkpoint)
    standard, plain, refined = get_protocol("standard"), PredictionOptions(refine=()), PredictionOptions(refine=STEPS)
    settings: dict[str, Any] = {"progress": progress}
    threshold = calibrate_threshold(
        model, scenes("val", seed), metadata.preprocessing, standard, options=plain, **settings
    )
    for name in ("best.ckpt", "last.ckpt"):
        store_threshold(out / CHECKPOINTS / name, threshold)
    metadata = replace(metadata, threshold=threshold)

    def measured(chosen: PredictionOptions) -> EvaluationResult:
        test = scenes("test", seed)
        scorer = Scorer(standard, threshold.value)
        return evaluate_model(model, test, metadata.preprocessing, scorer, options=chosen, **settings)

    own = measured(plain)
    write_json(out / METRICS, {**own.to_dict(), "threshold_source": threshold.source})
    localizers = Localizer(model, metadata, options=plain), Localizer(model, metadata, options=refined)
    return Compared(*localizers, own, measured(refined), seconds)


def print_comparison(compared: dict[str, Compared]) -> None:
    """Print a row for each method, beside what boxes that ignore the image would reach."""
    title = "generated scenes, protocol standard, percent; * refined; s: training"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in ("Cls@1", "Loc@1", "GT-kn.", "IoU.7", "IoU.9", "GT-kn.*", "IoU.7*", "IoU.9*", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    for method, one in compared.items():
        plain, refined = one.plain.evaluation, one.refined.evaluation.box_acc or {}
        own = plain.box_acc or {}
        numbers = (plain.top1_cls, plain.top1_loc, *(own.get(level) for level in (0.5, 0.7, 0.9)))
        table.add_row(
            method, *percents(*numbers, *(refined.get(level) for level in (0.5, 0.7, 0.9))), f"{one.seconds:.0f}"
        )
    for name, accuracy in next(iter(compared.values())).plain.evaluation.constant_boxes.items():
        table.add_row(name, "", "", *percents(*(accuracy[level] for level in (0.5, 0.7, 0.9))))
    console.print(table)


def comparison_image(compared: dict[str, Compared], dataset: ImageDataset) -> Image.Image:
    """Return an image: a column for each method, and for each of some scenes a row of maps and one of refined maps."""
    found = list(compared.values())
    rows: list[tuple[str, list[Image.Image]]] = []
    for index in range(DRAWN):
        scene = dataset.image(index)
        true = draw_boxes(scene, dataset[index].boxes, TRUTH)
        rows.append(
            (dataset.classes[dataset[index].label], [true, *(draw_map(scene, one.localizer(scene)) for one in found)])
        )
        rows.append(("refined", [true, *(draw_map(scene, one.refining(scene)) for one in found)]))
    return image_table(["scene, true box", *compared], rows)
