"""Training in float16: the loss is scaled, and steps whose gradients overflow are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from tests.runs import TINY_VIT, tiny_settings
from tokenloc.commands.train import train
from tokenloc.methods import list_methods
from tokenloc.models import create_model
from tokenloc.models.checkpoint import read_checkpoint
from tokenloc.training import fit
from tokenloc.training.config import Optimisation

FIRST_SCALE = 2.0**30


@pytest.fixture
def float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on the CPU as a GPU does with ``--precision 16-mixed``."""

    def trainer(**given: Any) -> L.Trainer:
        scaler = torch.amp.GradScaler("cpu", init_scale=FIRST_SCALE)
        plugins = [*given["plugins"], MixedPrecision("16-mixed", "cpu", scaler)]
        return original(**{**given, "precision": None, "plugins": plugins})

    original = L.Trainer
    monkeypatch.setattr(fit.L, "Trainer", trainer)


@pytest.mark.slow
@pytest.mark.usefixtures("float16")
def test_a_skipped_step_is_not_a_divergence(tmp_path: Path) -> None:
    """A resumed run starts with the scale that was found."""
    settings = tiny_settings(tmp_path / "run", optimisation=Optimisation(epochs=8, batch_size=8, lr=1e-3))
    settings["data"].calibration_split = settings["data"].test_split = None
    train(**settings)
    after = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    taken = {int(state["step"]) for state in after["optimizer_states"][0]["state"].values()}
    skipped = after["global_step"] - taken.pop()
    assert 0 < skipped < after["global_step"]
    assert not taken
    assert after["MixedPrecision"]["scale"] == FIRST_SCALE / 2**skipped
    settings["optimisation"].epochs = 9
    train(**{**settings, "resume": True})
    later = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert later["MixedPrecision"]["scale"] == after["MixedPrecision"]["scale"]


@pytest.mark.parametrize("method", list_methods())
def test_gradients_are_near_those_of_float32(method: str) -> None:
    """With a scaled loss nothing overflows or underflows."""
    options = {**TINY_VIT, "depth": 4}
    model = create_model(method, "vit_tiny_patch16_224", 3, False, 32, options).train()
    images, labels, scale = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]), 256.0
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.float16, enabled=enabled):
            total = model.loss(model(images), labels)["total"]
        model.zero_grad()
        (scale * total).backward()
        found.append(torch.cat([p.grad.flatten() / scale for p in model.parameters() if p.grad is not None]))
    exact, half = found
    assert (half - exact).norm() < 0.02 * exact.norm()
