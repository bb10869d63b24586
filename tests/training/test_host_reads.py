"""A training step does not wait for the GPU, except to copy its losses once.

The tensors claim to be on a CUDA device and have no values, so that no GPU is needed: reading a value raises.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedFakeTensorException
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.runs import TINY_VIT
from tokenloc.data import Preprocessing
from tokenloc.methods import METHODS, Method, list_methods
from tokenloc.models import create_model
from tokenloc.models.metadata import ModelMetadata
from tokenloc.training.config import Optimisation
from tokenloc.training.module import LocalizationTask
from tokenloc.training.optimisation import make_optimiser


@pytest.fixture
def without_logger(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """What a task logs."""
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(LocalizationTask, "log", lambda _, name, value, **__: logged.update({name: value}))
    monkeypatch.setattr(LocalizationTask, "log_dict", lambda _, values, **__: logged.update(values))
    return logged


def model_on_meta(method: str) -> Method:
    options = {**TINY_VIT, "depth": 4}
    return create_model(method, "vit_tiny_patch16_224", 3, False, 32, options).train().to("meta")


def batch(device: str) -> tuple[Tensor, Tensor]:
    return torch.empty(4, 3, 32, 32, device=device), torch.empty(4, dtype=torch.int64, device=device)


class NoCopies(TorchDispatchMode):
    """Raises if a tensor is copied between devices, such as a list of numbers to the GPU: that waits, too."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        devices = {leaf.device.type for leaf in tree_leaves((arguments, result)) if isinstance(leaf, Tensor)}
        if function is torch.ops.aten._to_copy.default and len(devices) > 1:
            raise AssertionError(f"a copy between {devices}")
        return result


@pytest.mark.parametrize("method", list_methods())
def test_forward_pass_and_loss(method: str) -> None:
    model = model_on_meta(method)
    with FakeTensorMode(allow_non_fake_inputs=True), NoCopies():
        images, labels = batch("cuda")
        model.to_empty(device="cuda")
        assert model.loss(model(images), labels)["total"].device.type == "cuda"


@pytest.mark.parametrize("method", [name for name in list_methods() if METHODS[name].exportable])
def test_class_maps(method: str) -> None:
    """Those that are not exportable solve an eigenvalue problem until it converges."""
    model = model_on_meta(method).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), NoCopies():
        images, labels = batch("cuda")
        model.to_empty(device="cuda")
        assert model.class_maps(images)[1](labels[:, None]).device.type == "cuda"


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: float(x.sum()),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: torch.where(x > 0),
        lambda x: x.cpu(),
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: torch.ones(2, 3) + x,
    ],
)
def test_waiting_is_noticed(wait: Callable[[Tensor], object]) -> None:
    with FakeTensorMode(), NoCopies(), pytest.raises((UnsupportedFakeTensorException, RuntimeError, AssertionError)):
        wait(torch.empty(2, 3, device="cuda"))


@pytest.mark.parametrize("method", list_methods())
def test_a_training_step_copies_its_losses_once(
    method: str, monkeypatch: pytest.MonkeyPatch, without_logger: dict[str, Tensor]
) -> None:
    """On the meta device, which has no values either; with the backward pass and the optimiser."""
    model, copies = model_on_meta(method), []

    def copy(tensor: Tensor) -> Tensor:
        copies.append(tensor)
        return torch.ones(tensor.shape)

    monkeypatch.setattr(Tensor, "cpu", copy)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # does not know the device
    metadata = ModelMetadata(model.config, ("a", "b", "c"), Preprocessing())
    task = LocalizationTask(model, Optimisation(), metadata, 1, 0, model.__call__)
    task.training_step(batch("meta"), 0).backward()
    make_optimiser(model, Optimisation()).step()
    assert len(copies) == 1
    assert {"train/total", "train/top1_cls", "loss"} <= without_logger.keys()
    assert {value.device.type for value in without_logger.values()} == {"cpu"}  # the progress bar reads them


@pytest.mark.parametrize(("clip", "fused"), [(None, True), (1.0, None)])
def test_the_optimiser_is_fused_on_a_gpu_unless_gradients_are_clipped(clip: float | None, fused: bool | None) -> None:
    """Lightning clips no gradients of a fused optimiser in mixed precision."""
    model, settings = model_on_meta("cam"), Optimisation(gradient_clip=clip)
    assert make_optimiser(model, settings).defaults["fused"] is None
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert make_optimiser(model.to_empty(device="cuda"), settings).defaults["fused"] is fused
