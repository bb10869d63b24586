"""Means over the batches of all processes, so that a loss does not depend on the number of processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def global_mean(values: Tensor) -> Tensor:
    """Return the mean of ``values`` [B] over the batches of all processes, with gradient to this process's values.

    The average of the gradients over the processes, as DistributedDataParallel computes it, is that of the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return values.mean()
    total = torch.stack([values.detach().sum(), values.new_full((), len(values))])
    dist.all_reduce(total)
    local = values.sum() * dist.get_world_size() / total[1]
    return total[0] / total[1] + (local - local.detach())


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the ``global_mean`` cross-entropy of ``logits`` [B, C] and class indices ``labels`` [B], in nats."""
    return global_mean(F.cross_entropy(logits, labels, reduction="none"))


def global_sum(values: Tensor) -> Tensor:
    """Return the sum of ``values``, of any shape, over all processes, without gradient."""
    total = values.detach().clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
    return total
