"""``tokenloc demo``: the whole way on generated scenes, without any download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenloc.commands.console import console
from tokenloc.commands.train import train
from tokenloc.training.config import DataConfig, ModelChoice, Optimisation

SIDE = 96  # pixels of a scene


def demo(*, out: Path = Path("runs/demo"), methods: list[str] | None = None, seed: int = 0, epochs: int = 8) -> Path:
    """Train on generated scenes from class labels alone, measure against the hidden boxes, and draw what was found.

    A small vision transformer learns from nothing, so no weights are downloaded. The table shows, beside the model,
    what the box of the whole picture and the box of its centre reach.

    Args:
        out: the folder to write to: metrics.json, figures/summary.png, checkpoints; a folder for each method where
            there are several.
        methods: names of `tokenloc list methods`; by default tscam.
        seed: of scenes, weights and training.
        epochs: passes over the scenes.

    Returns:
        the folder.
    """
    chosen = methods or ["tscam"]
    for method in chosen:
        folder = out if len(chosen) == 1 else out / method
        train(**demo_settings(method, folder, seed, epochs))
        console.print(f"look at {folder / 'figures' / 'summary.png'}", highlight=False, markup=False)
    return out


def demo_settings(method: str, out: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Return the arguments of ``train`` for one method of the demo."""
    vit = {"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3}
    return {
        "data": DataConfig(
            name="scenes",
            resize=SIDE + 8,
            crop=SIDE,
            val_split="val",
            calibration_split="val",
            test_split="test",
            options={"size": SIDE, "seed": seed},
        ),
        "model": ModelChoice(method, "vit_tiny_patch16_224", pretrained=False, backbone_options=vit),
        "optimisation": Optimisation(
            epochs=epochs,
            batch_size=64,
            lr=1e-3,
            weight_decay=0.05,
            schedule="cosine",
            warmup_epochs=1,
            gradient_clip=1.0,
        ),
        "out": out,
        "seed": seed,
    }
