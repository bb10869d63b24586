"""Weights follow from the settings alone: not from the number of loader processes, nor from interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.runs import TINY_VIT, tiny_run, tiny_settings, weights
from tests.training.test_scale import command
from tokenloc.methods import METHODS
from tokenloc.methods.base import Frozen
from tokenloc.training.config import ModelChoice, Optimisation
from tokenloc.training.module import LocalizationTask

CACHED = [f"{name} cached" for name in METHODS.names() if issubclass(METHODS[name], Frozen)]
TRAININGS = [*METHODS.names(), *CACHED]
MOMENTS = {"never": None, "within an epoch": (1, 1), "between epochs": (1, 5)}  # (epoch, step) of a Ctrl-C

Weights = dict[str, torch.Tensor]


def settings(training: str, out: Path, **changes: Any) -> dict[str, Any]:
    """Return the arguments of a training of three epochs of six steps, more than two workers read ahead."""
    method, _, cached = training.partition(" ")
    options = {"spatial_blocks": 1, "area_target": 0.6} if method == "sat" else {}
    backbone = {**TINY_VIT, "drop_path_rate": 0.3, "depth": 4 if method == "sat" else 2}
    model = ModelChoice(method, "vit_tiny_patch16_224", False, options=options, backbone_options=backbone)
    optimisation = Optimisation(epochs=3, batch_size=4, lr=1e-3, schedule="cosine")
    made = tiny_settings(out, model=model, optimisation=optimisation, **changes)
    splits: dict[str, Any] = {"val_split": None, "calibration_split": None, "test_split": None}
    return {**made, "data": replace(made["data"], **splits, cached_views=2 if cached else 0)}


def train_interrupted(training: str, out: Path, workers: int, moment: tuple[int, int] | None) -> Weights:
    """Train; with a ``moment``, stop there and resume."""
    if moment is not None:
        step = LocalizationTask.training_step

        def interrupting(self: LocalizationTask, images: Any, batch_index: int) -> torch.Tensor:
            if (self.current_epoch, batch_index) == moment:
                os.kill(os.getpid(), signal.SIGINT)
            return step(self, images, batch_index)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LocalizationTask, "training_step", interrupting)
            with pytest.raises(KeyboardInterrupt, match=r"interrupted; .* saved"):
                tiny_run(**settings(training, out, workers=workers))
    tiny_run(**settings(training, out, workers=workers, resume=moment is not None))
    return weights(out)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Weights]:
    """The weights of trainings without workers and interruptions, made when first needed."""

    class Made(dict[str, Weights]):
        def __missing__(self, training: str) -> Weights:
            self[training] = train_interrupted(training, tmp_path_factory.mktemp("undisturbed") / "run", 0, None)
            return self[training]

    return Made()


def cases() -> list[Any]:
    every = [(training, count, moment) for training in TRAININGS for count in (0, 1, 2, 4) for moment in MOMENTS]
    quick = [("tscam", 2, "within an epoch"), ("lcar cached", 2, "between epochs")]
    marks = [() if case in quick else pytest.mark.slow for case in every]
    return [
        pytest.param(*case, marks=mark) for case, mark in zip(every, marks, strict=True) if case[1:] != (0, "never")
    ]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # on a small machine
@pytest.mark.parametrize(("training", "workers", "moment"), cases())
def test_workers_and_interruptions_change_no_weight(
    training: str, workers: int, moment: str, tmp_path: Path, undisturbed: dict[str, Weights]
) -> None:
    found = train_interrupted(training, tmp_path / "run", workers, MOMENTS[moment])
    torch.testing.assert_close(found, undisturbed[training], rtol=0, atol=0)


@pytest.mark.slow
def test_workers_and_interruptions_change_no_weight_on_two_devices(tmp_path: Path) -> None:
    plain, broken = (command(tmp_path / name, "--devices", "2") for name in ("plain", "broken"))
    subprocess.run(plain, capture_output=True, timeout=240, check=True)
    last = tmp_path / "broken/checkpoints/last.ckpt"
    words = [*broken, "--workers", "2", "--save_minutes", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as first:
        while not last.is_file() and first.poll() is None:
            time.sleep(0.01)
        first.terminate()
        assert "interrupted" in first.communicate(timeout=120)[1].decode()
    subprocess.run([*words, "--resume"], capture_output=True, timeout=240, check=True)
    torch.testing.assert_close(weights(tmp_path / "broken"), weights(tmp_path / "plain"), rtol=0, atol=0)
