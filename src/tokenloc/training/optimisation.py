"""AdamW as the papers use it: parameter groups and learning rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from tokenloc.training.config import Optimisation


def parameter_groups(model: nn.Module, weight_decay: float, decay_tokens: bool = False) -> list[dict[str, object]]:
    """Split the trainable parameters: biases and norms do not decay, the others do.

    Tokens and position embeddings are among the others if ``decay_tokens``.
    """
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            exempt = parameter.ndim <= 1 or (name.endswith(("_token", "_embed")) and not decay_tokens)
            groups[exempt].append(parameter)
    return [{"params": groups[0], "weight_decay": weight_decay}, {"params": groups[1], "weight_decay": 0.0}]


def make_optimiser(model: nn.Module, settings: Optimisation) -> torch.optim.AdamW:
    """Return AdamW over the model's trainable parameters, with epsilon 1e-8.

    On CUDA devices it is PyTorch's fused one, unless gradients are clipped, which Lightning then refuses.
    """
    groups = parameter_groups(model, settings.weight_decay, settings.decay_tokens)
    on_cuda = all(parameter.is_cuda for parameter in model.parameters())
    fused = True if on_cuda and settings.gradient_clip is None else None
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=1e-8, fused=fused)


def lr_factor(settings: Optimisation, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the learning rate's factor as a function of the step, counted from 0.

    >>> factor = lr_factor(Optimisation(epochs=2, schedule="cosine"), steps_per_epoch=10)
    >>> factor(0), round(factor(10), 3), factor(20)
    (1.0, 0.5, 0.0)
    """
    floor = settings.min_lr / settings.lr
    warmup = settings.warmup_epochs * steps_per_epoch
    total = max(1, settings.epochs * steps_per_epoch)
    periods = settings.step_epochs if isinstance(settings.step_epochs, list) else [settings.step_epochs]

    def decay(step: int) -> float:
        if settings.schedule == "cosine":
            return floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, step / total))) / 2
        if settings.schedule == "step":
            epoch = step // steps_per_epoch + 1
            return float(0.1 ** sum(any(each % n == 0 for n in periods) for each in range(1, epoch + 1)))
        return 1.0

    return lambda step: min(1.0, (step + 1) / (warmup + 1)) * decay(step)
