"""A compiled training gives the same results, and reports if it cannot be compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo import lookup_backend

from tests.runs import TINY_VIT, tiny_run, weights
from tests.training.test_scale import assert_same_training, command, settings, torchrun
from tokenloc.commands.train import train
from tokenloc.methods import Method, Output, list_methods
from tokenloc.models import create_model
from tokenloc.training import compilation
from tokenloc.training.compilation import compiled
from tokenloc.training.config import Optimisation

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as fit does
HAS_COMPILER = (
    shutil.which(os.environ.get("CXX", "g++")) and (Path(sysconfig.get_path("include")) / "Python.h").is_file()
)


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The number of nodes of each traced graph, which runs without generating code, since that takes long."""
    traced: list[int] = []

    def counting(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        traced.append(len(graph.graph.nodes))
        run: Callable[..., Any] = lookup_backend("aot_eager")(graph, example)
        return run

    monkeypatch.setattr(compilation, "BACKEND", {"backend": counting})
    yield traced
    torch.compiler.reset()


def tiny(method: str) -> Method:
    depth, options = (4, {"spatial_blocks": 1}) if method == "sat" else (1, {})
    backbone: dict[str, Any] = {**TINY_VIT, "depth": depth, "proj_drop_rate": 0.3}
    return create_model(method, "vit_tiny_patch16_224", 3, False, 32, backbone, **options).train()


def step(model: Method, run: Callable[[Tensor], Output], size: int, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Return the loss and all gradients of a step on ``size`` images, always the same."""
    torch.manual_seed(size)
    images, labels = torch.randn(size, 3, 32, 32), torch.randint(3, (size,))
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        total = model.loss(run(images), labels)["total"]
    model.zero_grad()
    total.backward()
    return {"": total.detach()} | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_steps(model: Method, dtype: torch.dtype | None = None, **tolerance: float) -> None:
    fast = compiled(model.__call__)
    for size in (4, 3, 2):
        torch.testing.assert_close(step(model, fast, size, dtype), step(model, model, size, dtype), **tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("method", list_methods())
def test_compiled_gradients_are_the_same(method: str, graphs: list[int]) -> None:
    """Two compilations cover every batch size; SCM's graph is in two parts, without its diffusion."""
    assert_same_steps(tiny(method), rtol=1e-5, atol=1e-7)
    assert len(graphs) == (4 if method == "scm" else 2)
    assert max(graphs) < 400


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(None, 1e-5, 1e-7), (torch.bfloat16, 0.02, 5e-4)])
def test_checkpointed_activations(dtype: torch.dtype | None, rtol: float, atol: float) -> None:
    """Also in bfloat16, with its own backward pass; recomputation repeats the dropout."""
    model = tiny("tscam")
    model.backbone.checkpointed = True
    assert_same_steps(model, dtype, rtol=rtol, atol=atol)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="torch.compile needs a C++ compiler and the Python headers")
def test_generated_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert compilation.BACKEND["backend"] == "inductor"
    model = tiny("tscam")
    fast = compiled(model.__call__)
    torch.testing.assert_close(step(model, fast, 4, None), step(model, model, 4, None), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_run_learns_the_same_and_may_resume_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a smaller last batch, two batches in a step, and recomputed blocks."""
    optimisation = Optimisation(epochs=1, batch_size=7, accumulate=2, lr=1e-3)
    one, other = tmp_path / "one", tmp_path / "other"
    train(**settings(one, "tscam", optimisation))
    train(**settings(other, "tscam", optimisation, compile=True, checkpoint_activations=True))
    torch.testing.assert_close(weights(other), weights(one), rtol=1e-5, atol=1e-7)
    train(**settings(other, "tscam", Optimisation(epochs=2, batch_size=7, accumulate=2, lr=1e-3), resume=True))
    assert "compile: stored True, now False" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(**settings(one))
    traced = (
        "from tokenloc.training import compilation; compilation.BACKEND = {'backend': 'eager'}; "
        "from tokenloc.cli import main; main()"
    )
    words = [sys.executable, "-c", traced, *command(two, "--compile", "--checkpoint_activations")[3:]]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(22000 + os.getpid() % 20000)}
    environments = [{**os.environ, **address, **torchrun(rank, 1)} for rank in range(2)]
    started = [subprocess.Popen(words, env=each, stderr=subprocess.PIPE, text=True) for each in environments]
    printed = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert_same_training(two, one)


@pytest.mark.slow
def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    without = {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}
    with (
        torch._inductor.config.patch(without),
        pytest.raises(ValueError, match=r"needs a C\+\+ compiler and the Python headers .* Train without --compile"),
    ):
        tiny_run(tmp_path, compile=True)
    assert not (tmp_path / "checkpoints").exists()


def test_a_model_that_cannot_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: Any) -> Callable[..., Any]:
        raise RuntimeError("too large")

    monkeypatch.setattr(compilation, "BACKEND", {"backend": refusing})
    with pytest.raises(ValueError, match=r"PyTorch cannot compile this model: .*too large.*set compile: false in"):
        tiny_run(tmp_path, compile=True)


@torch.compiler.disable
def out_of_memory(images: Tensor) -> Output:
    raise torch.OutOfMemoryError(f"a batch of {len(images)} is too large")


def test_an_error_of_the_model_itself_is_raised_unchanged() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="a batch of 2 is too large"):
        compiled(lambda images: out_of_memory(images))(torch.ones(2, 3))
