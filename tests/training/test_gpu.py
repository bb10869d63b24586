"""On an NVIDIA GPU: every method learns in every precision as on the CPU, and so do two devices."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import get_args

import pytest
import torch

from tests.runs import TINY_VIT, tiny_settings
from tests.training.test_scale import assert_same_training, command
from tokenloc.commands.evaluate import evaluate
from tokenloc.commands.localize import localize
from tokenloc.commands.train import train
from tokenloc.methods import list_methods
from tokenloc.models import create_model
from tokenloc.training.compilation import compiled
from tokenloc.training.config import DataSource, Optimisation, Precision
from tokenloc.training.optimisation import make_optimiser

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU: PyTorch finds no CUDA device"),
]
KINDS = {  # dtype of autocast, whether it is compiled, and the relative tolerance
    "fp32": (None, False, 2e-3),  # convolutions are TF32
    "bf16": (torch.bfloat16, False, 0.02),
    "fp16": (torch.float16, False, 5e-3),
    "compile": (None, True, 2e-3),
}


def losses(method: str, device: str, dtype: torch.dtype | None = None, compile: bool = False) -> list[float]:
    """Return the loss before and after a step."""
    torch.manual_seed(0)
    options = {**TINY_VIT, "depth": 4}
    model = create_model(method, "vit_tiny_patch16_224", 3, False, 32, options).train()
    images, labels = torch.randn(4, 3, 32, 32).to(device), torch.tensor([0, 1, 2, 0], device=device)
    optimiser = make_optimiser(model.to(device), Optimisation(lr=1e-3))
    scaler = torch.amp.GradScaler(device, init_scale=256.0, enabled=dtype == torch.float16)
    run, found = compiled(model.__call__) if compile else model, []
    for _ in range(2):
        with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            total = model.loss(run(images), labels)["total"]
        scaler.scale(total).backward()
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()
        found.append(float(total))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", list_methods())
def test_a_step_has_the_losses_of_the_cpu(method: str, kind: str) -> None:
    dtype, compile, tolerance = KINDS[kind]
    before, after = losses(method, "cpu")
    assert before != pytest.approx(after, rel=1e-3)
    assert losses(method, "cuda", dtype, compile) == pytest.approx([before, after], rel=tolerance)


@pytest.mark.parametrize("method", list_methods())
def test_maps_are_those_of_the_cpu(method: str) -> None:
    options = {**TINY_VIT, "depth": 4}
    model = create_model(method, "vit_tiny_patch16_224", 3, False, 32, options).eval()
    images, classes = torch.randn(2, 3, 32, 32), torch.tensor([[0, 1], [2, 1]])
    with torch.inference_mode():
        expected = model.localize(images, classes)
        found = model.to("cuda").localize(images.to("cuda"), classes.to("cuda"))
    for on_gpu, on_cpu in zip(found, expected, strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("precision", get_args(Precision))
def test_commands_need_no_flag(precision: Precision, clip: float | None, tmp_path: Path) -> None:
    """Also with clipped gradients, which Lightning refuses for the fused optimiser."""
    torch.cuda.reset_peak_memory_stats()
    optimisation = Optimisation(epochs=2, batch_size=8, lr=1e-3, gradient_clip=clip)
    settings = tiny_settings(tmp_path / "run", precision=precision, optimisation=optimisation)
    best = train(**{name: value for name, value in settings.items() if name != "device"})
    assert torch.cuda.max_memory_allocated() > 0
    evaluate(best, data=DataSource(), out=tmp_path / "evaluated")
    drawn = sorted((tmp_path / "evaluated").rglob("*.png"))
    assert localize(best, drawn[:2], out=tmp_path / "localized").is_file()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_two_devices_learn_the_same_as_one_over_nccl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    monkeypatch.setenv("NCCL_DEBUG", "VERSION")
    for devices in ("1", "2"):
        words = [*command(tmp_path / devices), "--device", "cuda", "--devices", devices]
        done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    assert "NCCL version" in done.stdout + done.stderr
    assert_same_training(tmp_path / "2", tmp_path / "1")
