"""AdamW as the papers use it: parameter groups and learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from tokenloc.training.config import Optimisation

UNDECAYED = ("_token", "_embed")


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split the trainable parameters into those with weight decay and those without.

    Biases, norms, tokens and position embeddings do not decay.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (undecayed if parameter.ndim <= 1 or name.endswith(UNDECAYED) else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0}]


def make_optimiser(model: nn.Module, settings: Optimisation) -> torch.optim.AdamW:
    """Return AdamW over the model's trainable parameters, with epsilon 1e-8."""
    first, second = settings.betas
    groups = parameter_groups(model, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(first, second), eps=1e-8)


def lr_factor(settings: Optimisation, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the learning rate's factor as a function of the step, counted from 0.

    >>> factor = lr_factor(Optimisation(epochs=2, schedule="cosine"), steps_per_epoch=10)
    >>> factor(0), round(factor(10), 3), factor(20)
    (1.0, 0.5, 0.0)
    """
    floor = settings.min_lr / settings.lr
    warmup = settings.warmup_epochs * steps_per_epoch
    total = max(1, settings.epochs * steps_per_epoch)

    def decay(step: int) -> float:
        if settings.schedule == "cosine":
            return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2
        if settings.schedule == "step":
            return float(0.1 ** (step // (steps_per_epoch * settings.step_epochs)))
        return 1.0

    return lambda step: min(1.0, (step + 1) / (warmup + 1)) * decay(step)


def make_schedule(optimiser: torch.optim.Optimizer, settings: Optimisation, steps_per_epoch: int) -> LambdaLR:
    """Return the learning rate schedule; advance it after every optimiser step."""
    return LambdaLR(optimiser, lr_factor(settings, steps_per_epoch))
