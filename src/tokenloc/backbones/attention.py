"""Multi-head self-attention of timm's ViTs, fused, with the asked-for request computed beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from tokenloc.backbones import _bfloat16
from tokenloc.backbones.features import FeatureRequest, Gate

# What timm's Attention and EvaAttention consist of. A module with any other part computes something else.
PROJECTIONS = {"qkv", "q_proj", "k_proj", "v_proj", "q_bias", "k_bias", "v_bias"}
KNOWN_PARTS = PROJECTIONS | {"q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"}


@dataclass(frozen=True)
class Query:
    """Which token asks for the spatial gate (its index; -1 is the last), and what the gate scales."""

    index: int
    gate: Gate


@dataclass(frozen=True)
class AttentionOutput:
    """What one block's attention showed, over all T tokens; None where it was not asked for.

    Attributes:
        class_row: softmax(q_cls K^T / sqrt(d)), mean over heads, [B, T] float32.
        relation: LCTR's relation vector, [B, T] float32.
        keys: [B, T, D], heads side by side.
        gate: the spatial gate, [B, T].
    """

    class_row: Tensor | None = None
    relation: Tensor | None = None
    keys: Tensor | None = None
    gate: Tensor | None = None


def attend(
    attention: Any, tokens: Tensor, request: FeatureRequest, query: Query | None = None, rope: Tensor | None = None
) -> tuple[Tensor, AttentionOutput]:
    """Apply timm's ``attention`` to ``tokens`` through torch's fused product.

    The fused product hides the attention matrix. The class token's row costs one more query of it: 1 x T per head.
    The spatial gate multiplies columns of the attention, which is the same as scaling the values (before the softmax:
    the keys). So no T x T matrix is ever kept for a backward pass.

    Args:
        attention: timm's ``Attention`` or ``EvaAttention``; its parameters are used where they are.
        tokens: [B, T, D], normalised, the class token first.
        request: what to compute beside the product.
        query: the spatial query, where this block has one.
        rope: rotary embedding of the patches, where the backbone has one.

    Returns:
        the attended tokens [B, T, D], and what was asked for.
    """
    queries, keys, values = _project(attention, tokens)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    if rope is not None:
        queries, keys = (_rotate(attention, x, rope).type_as(values) for x in (queries, keys))
    scale = float(attention.scale)
    seen = _look(queries, keys, scale, request, query)
    if query is not None and seen.gate is not None:
        gate = seen.gate[:, None, :, None].to(values.dtype)
        keys = keys * gate if query.gate == "keys" else keys
        values = values * gate if query.gate == "values" else values
    dropout = float(attention.attn_drop.p) if attention.training else 0.0
    if not dropout and _bfloat16.suits(queries, keys, values):
        mixed = _bfloat16.attention(queries, keys, values, scale)
    else:
        mixed = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, scale=scale)
    mixed = attention.norm(mixed.transpose(1, 2).flatten(2))
    if getattr(attention, "gate", None) is not None:
        mixed = mixed * attention.gate(tokens).sigmoid()
    return attention.proj_drop(attention.proj(mixed)), seen


def _look(queries: Tensor, keys: Tensor, scale: float, request: FeatureRequest, query: Query | None) -> AttentionOutput:
    """Compute the asked-for request from queries and keys [B, H, T, d]."""
    row = relation = gate = None
    if request.class_attention or request.patch_relation:
        row = _scores(queries, 0, keys, scale).softmax(dim=-1).mean(dim=1)
    if request.patch_relation and row is not None:
        relation = _relation(queries, keys, scale, row)
    if query is not None:
        gate = _scores(queries, query.index, keys, scale).mean(dim=1).sigmoid()
    return AttentionOutput(row, relation, keys.transpose(1, 2).flatten(2) if request.keys else None, gate)


def _scores(queries: Tensor, index: int, keys: Tensor, scale: float) -> Tensor:
    """Return one token's scaled products with all keys, [B, H, T] float32."""
    return torch.einsum("bhd,bhtd->bht", queries[:, :, index] * scale, keys).float()


@torch.no_grad()
def _relation(queries: Tensor, keys: Tensor, scale: float, row: Tensor) -> Tensor:
    """Return c^T A / T, [B, T]: the head-mean attention A of all tokens weighted by the class row c (LCTR, Eq. 5).

    One head's matrix exists at a time, and the weighted matrix never.
    """
    total = torch.zeros_like(row)
    for head_queries, head_keys in zip(queries.unbind(1), keys.unbind(1), strict=True):
        matrix = (head_queries @ head_keys.transpose(-2, -1) * scale).float().softmax(dim=-1)
        total += torch.einsum("bi,bij->bj", row, matrix)
    return total / (queries.shape[1] * row.shape[1])


def _project(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values, each [B, H, T, d], from a fused or a split projection."""
    heads = attention.num_heads
    if attention.qkv is None:  # EVA's split form
        split = [layer(tokens) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)]
        queries, keys, values = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in split)
        return queries, keys, values
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:  # EVA keeps the key's zero bias out of its parameters
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    fused = F.linear(tokens, attention.qkv.weight, bias)
    queries, keys, values = fused.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return queries, keys, values


def _rotate(attention: Any, x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the patches of x [B, H, T, d]; tokens before and behind them have no place and stay as they are."""
    first, last = attention.num_prefix_tokens, attention.num_prefix_tokens + rope.shape[-2]
    half = getattr(attention, "rotate_half", False)
    return torch.cat(
        [x[:, :, :first], apply_rot_embed_cat(x[:, :, first:last], rope, half=half), x[:, :, last:]], dim=2
    )
