"""Fused attention in bfloat16 on the CPU, with a backward pass of our own.

torch's fused product is slower there backwards in bfloat16 than in float32: it took a quarter of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

AT_ONCE = 500_000
"""Entries of the attention matrix that are there together, of as many images as fit: they stay in the caches."""


def suits(queries: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Tell whether ``attention`` serves these: bfloat16 on the CPU, of which gradients are wanted."""
    tensors = (queries, keys, values)
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return wanted and all(tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16 for tensor in tensors)


def attention(queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """Return softmax(scale Q K^T) V of [B, H, T, d] bfloat16 each, by torch's fused product.

    The backward pass writes out the attention matrices of a few images at a time, in bfloat16, and keeps none: twice as
    fast as torch's own, with gradients as far from exact ones as bfloat16 numbers are (1 %; torch's 0.6 %).
    """
    result: Tensor = _Attention.apply(queries, keys, values, scale)
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        """Take torch's fused product."""
        ctx.save_for_backward(queries, keys, values)
        ctx.scale = scale
        return F.scaled_dot_product_attention(queries, keys, values, scale=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Differentiate image by image, or by as many as are small together."""
        queries, keys, values = ctx.saved_tensors
        _, heads, length, _ = queries.shape
        together = max(1, AT_ONCE // (heads * length * keys.shape[2]))
        split = [tensor.split(together) for tensor in (gradient, queries, keys, values)]
        found = [_gradients(g, q, k, v, ctx.scale) for g, q, k, v in zip(*split, strict=True)]
        of_queries, of_keys, of_values = zip(*found, strict=True)
        return torch.cat(of_queries), torch.cat(of_keys), torch.cat(of_values), None


def _gradients(
    gradient: Tensor, queries: Tensor, keys: Tensor, values: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients to queries, keys and values, from the one to softmax(scale Q K^T) V."""
    matrix = (queries * scale @ keys.mT).softmax(dim=-1)
    weighted = (gradient @ values.mT).mul_(matrix)
    of_scores = torch.addcmul(weighted, matrix, weighted.sum(dim=-1, keepdim=True), value=-1).mul_(scale)
    return of_scores @ keys, of_scores.mT @ queries, matrix.mT @ gradient
