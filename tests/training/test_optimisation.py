"""Weight decay and learning rate schedules."""

from __future__ import annotations

import math

import pytest
import torch

from tokenloc.models import create_model
from tokenloc.training.config import Optimisation
from tokenloc.training.optimisation import lr_factor, make_optimiser, parameter_groups


def test_only_weight_matrices_decay() -> None:
    small = {"embed_dim": 48, "depth": 1, "num_heads": 3}
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, backbone_options=small)
    decayed, others = parameter_groups(model, 0.05)
    names = {id(p): name for name, p in model.named_parameters()}
    block = "backbone.blocks.0."
    layers = {block + layer for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    expected = {f"{layer}.weight" for layer in layers | {"backbone.patch_embed.proj", "head"}}
    assert {names[id(p)] for p in decayed["params"]} == expected
    assert {"backbone.cls_token", "backbone.pos_embed", "head.bias"} <= {names[id(p)] for p in others["params"]}
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def test_tokens_do_not_decay_and_frozen_parameters_are_left_out() -> None:
    module = torch.nn.Linear(2, 2)
    module.loc_token = torch.nn.Parameter(torch.zeros(1, 1, 4))
    module.loc_embed = torch.nn.Parameter(torch.zeros(1, 1, 4))
    module.weight.requires_grad = False
    decayed, others = parameter_groups(module, 0.1)
    assert (len(decayed["params"]), len(others["params"])) == (0, 3)


def test_tokens_and_position_embeddings_decay_on_request() -> None:
    model = create_model("sat", "vit_tiny_patch16_224", 3, False, backbone_options={"embed_dim": 48, "num_heads": 3})
    settings = Optimisation(weight_decay=0.05, decay_tokens=True)
    decayed, others = make_optimiser(model, settings).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    tokens = {"backbone.cls_token", "backbone.pos_embed", "loc_token", "loc_embed"}
    assert tokens <= {names[id(p)] for p in decayed["params"]}
    assert all(p.ndim == 1 for p in others["params"])


@pytest.mark.parametrize("step", [0, 7, 50, 99, 100])
def test_the_cosine_is_that_of_torch(step: int) -> None:
    settings = Optimisation(epochs=10, lr=0.1, schedule="cosine", min_lr=0.001)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=100, eta_min=0.001)
    for _ in range(step):
        optimiser.step()
        expected.step()
    assert 0.1 * lr_factor(settings, 10)(step) == pytest.approx(expected.get_last_lr()[0], rel=1e-6)


def test_step_schedule_warmup_and_constant_rate() -> None:
    factor = lr_factor(Optimisation(epochs=90, schedule="step", step_epochs=30), steps_per_epoch=5)
    assert [round(math.log10(factor(5 * epoch))) for epoch in (0, 28, 29, 58, 59)] == [0, 0, -1, -1, -2]
    factor = lr_factor(Optimisation(epochs=60, schedule="step", step_epochs=[10, 12]), steps_per_epoch=1)
    drops = [epoch for epoch in range(2, 61) if factor(epoch - 1) < 0.5 * factor(epoch - 2)]
    assert drops == [10, 12, 20, 24, 30, 36, 40, 48, 50, 60]
    factor = lr_factor(Optimisation(warmup_epochs=1), steps_per_epoch=4)
    assert [factor(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert lr_factor(Optimisation(), 5)(10_000) == 1.0


def test_the_defaults_are_the_papers() -> None:
    settings = Optimisation()
    optimiser = make_optimiser(torch.nn.Linear(2, 2), settings)
    assert (optimiser.defaults["betas"], optimiser.defaults["eps"]) == ((0.9, 0.99), 1e-8)
    assert [group["lr"] for group in optimiser.param_groups] == [5e-5, 5e-5]


@pytest.mark.parametrize("name", ["epochs", "batch_size", "accumulate", "lr", "step_epochs"])
def test_invalid_values(name: str) -> None:
    with pytest.raises(ValueError, match=rf"optimisation\.{name} must be .*got 0"):
        Optimisation(**{name: 0})
