"""Small trainings on generated scenes that several tests share; each takes seconds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from tokenloc.commands.train import train
from tokenloc.inference import PredictionOptions, TestTimeAugmentation
from tokenloc.models.checkpoint import read_checkpoint
from tokenloc.training.config import DataConfig, ModelChoice, Optimisation

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.runs"])
TINY_VIT = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def prediction_options(
    scales: tuple[int, ...] = (), flip: bool = False, ten_crop: bool = False, shifts: int = 1, **others: Any
) -> PredictionOptions:
    """Return prediction options from the flags of the command line."""
    return PredictionOptions(TestTimeAugmentation(scales, flip, ten_crop, shifts), **others)


def tiny_settings(out: Path, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a training that takes a second or two."""
    data = DataConfig(
        name="scenes",
        resize=36,
        crop=32,
        val_split="val",
        calibration_split="val",
        test_split="test",
        options={"size": 40, "length": 24},
    )
    return {
        "data": data,
        "model": ModelChoice("tscam", "vit_tiny_patch16_224", False, backbone_options=TINY_VIT),
        "optimisation": Optimisation(epochs=2, batch_size=8, lr=1e-3, schedule="cosine"),
        "out": out,
        "device": "cpu",
        **changes,
    }


def tiny_run(out: Path, **changes: Any) -> Path:
    """Train for a moment; return the best checkpoint."""
    return train(**tiny_settings(out, **changes))


def weights(out: Path, name: str = "last.ckpt") -> dict[str, Tensor]:
    """Return the weights in a checkpoint of a run."""
    state: dict[str, Tensor] = read_checkpoint(out / "checkpoints" / name)["state_dict"]
    return state


def in_process(act: Callable[..., object], *arguments: Any) -> int | None:
    """Call ``act`` in a new process; return its exit status."""
    process = PROCESSES.Process(target=act, args=arguments)
    process.start()
    process.join()
    return process.exitcode
