"""A compiled training learns what another learns, and says where it cannot be."""

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

from tests.runs import TINY_VIT, tiny_run
from tests.training.test_scale import assert_as_one, command, settings, weights
from tokenloc.commands.train import train
from tokenloc.methods import Method, Output, list_methods
from tokenloc.models import create_model
from tokenloc.training import compilation
from tokenloc.training.compilation import compiled
from tokenloc.training.config import Optimisation

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as fit does
CPU = torch.device("cpu")
HAS_COMPILER = (
    shutil.which(os.environ.get("CXX", "g++")) and (Path(sysconfig.get_path("include")) / "Python.h").is_file()
)
NEEDS_COMPILER = "torch's compiler needs a C++ compiler and Python's headers, which are not here"


@pytest.fixture(autouse=True)
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """What is traced is run without generating code, which takes long; the nodes of each graph, the trial's first."""
    traced: list[int] = []

    def counting(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        traced.append(len(graph.graph.nodes))
        run: Callable[..., Any] = lookup_backend("aot_eager")(graph, example)
        return run

    monkeypatch.setattr(compilation, "BACKEND", {"backend": counting})
    yield traced
    torch.compiler.reset()


def tiny(method: str) -> Method:
    depth, own = (4, {"spatial_blocks": 1}) if method == "sat" else (1, {})
    options: dict[str, Any] = {**TINY_VIT, "depth": depth, "proj_drop_rate": 0.3}
    made = create_model(method, "vit_tiny_patch16_224", 3, False, 32, options, **own)
    return made.train()


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
    fast = compiled(model.__call__, CPU)
    for size in (4, 3, 2):
        torch.testing.assert_close(step(model, fast, size, dtype), step(model, model, size, dtype), **tolerance)


@pytest.mark.parametrize("method", list_methods())
def test_gradients_are_those_of_an_uncompiled_step(method: str, graphs: list[int]) -> None:
    """Of every batch size by two compilations; SCM's graph is broken in two, and its diffusion outside."""
    assert_same_steps(tiny(method), rtol=1e-5, atol=1e-7)
    assert len(graphs[1:]) == (4 if method == "scm" else 2)
    assert max(graphs) < 400


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(None, 1e-5, 1e-7), (torch.bfloat16, 0.02, 5e-4)])
def test_checkpointed_activations(dtype: torch.dtype | None, rtol: float, atol: float) -> None:
    """In bfloat16 through the backward pass of our own, and to its digits; what was dropped is dropped again."""
    model = tiny("tscam")
    model.backbone.checkpointed = True
    assert_same_steps(model, dtype, rtol=rtol, atol=atol)


@pytest.mark.skipif(not HAS_COMPILER, reason=NEEDS_COMPILER)
def test_generated_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert compilation.BACKEND["backend"] == "inductor"
    model = tiny("tscam")
    fast = compiled(model.__call__, CPU)
    torch.testing.assert_close(step(model, fast, 4, None), step(model, model, 4, None), rtol=1e-4, atol=1e-6)


def test_a_run_learns_the_same_and_may_go_on_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a last batch of its own size, two batches to a step, and blocks computed twice."""
    optimisation = Optimisation(epochs=1, batch_size=7, accumulate=2, lr=1e-3)
    one, other = tmp_path / "one", tmp_path / "other"
    train(**settings(one, "tscam", optimisation))
    train(**settings(other, "tscam", optimisation, compile=True, checkpoint_activations=True))
    torch.testing.assert_close(weights(other), weights(one), rtol=1e-5, atol=1e-7)
    train(**settings(other, "tscam", Optimisation(epochs=2, batch_size=7, accumulate=2, lr=1e-3), resume=True))
    assert "compile: stored True, now False" in capsys.readouterr().err


def test_two_processes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    train(**settings(one))
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(22000 + os.getpid() % 20000)}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0"}
    traced = (
        "from tokenloc.training import compilation; compilation.BACKEND = {'backend': 'eager'}; "
        "from tokenloc.cli import main; main()"
    )
    words = [sys.executable, "-c", traced, *command(two, "--compile", "--checkpoint_activations")[3:]]
    own = [{**common, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    started = [subprocess.Popen(words, env=env, stderr=subprocess.PIPE, text=True) for env in own]
    told = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert_as_one(two, one)


def test_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    without = {"cpp.cxx": ("no-such-compiler",), "fx_graph_cache": False}
    with (
        torch._inductor.config.patch(without),
        pytest.raises(ValueError, match=r"machine's cpu, which takes a C\+\+ compiler .*; leave --compile away"),
    ):
        tiny_run(tmp_path, compile=True)
    assert not (tmp_path / "checkpoints").exists()


def test_a_model_that_cannot_be_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(graph: torch.fx.GraphModule, example: list[Tensor]) -> Callable[..., Any]:
        if len(graph.graph.nodes) > 20:
            raise RuntimeError("too large")
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", {"backend": refusing})
    with pytest.raises(ValueError, match=r"PyTorch cannot compile this model: .*too large.*set compile: false in"):
        tiny_run(tmp_path, compile=True)
