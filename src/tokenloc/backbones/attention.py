"""Multi-head self-attention of timm's ViTs: PyTorch's fused product, and the requested attention outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from torch import Tensor

from tokenloc.backbones import _bfloat16
from tokenloc.backbones.features import FeatureRequest, SpatialQuery

# The children and parameters of timm's Attention and EvaAttention. Others would mean a different computation.
PROJECTIONS = {"qkv", "q_proj", "k_proj", "v_proj", "q_bias", "k_bias", "v_bias"}
ATTENTION_PARTS = PROJECTIONS | {"q_norm", "k_norm", "attn_drop", "norm", "gate", "proj", "proj_drop"}


@dataclass(frozen=True)
class AttentionOutput:
    """The requested outputs of one block's attention, over all T tokens; None if not requested."""

    class_attention: Tensor | None = None  # softmax(q_cls K^T / sqrt(d)), mean over heads, [B, T] float32
    patch_relation: Tensor | None = None  # LCTR's relation vector, [B, T] float32
    keys: Tensor | None = None  # heads concatenated, [B, T, D]
    gate: Tensor | None = None  # SAT's spatial gate, [B, T] in (0, 1)


def attend(
    attention: Any,
    tokens: Tensor,
    request: FeatureRequest,
    query: SpatialQuery | None = None,
    rope: Tensor | None = None,
) -> tuple[Tensor, AttentionOutput]:
    """Apply timm's ``attention`` to normalised ``tokens`` [B, T, D] by PyTorch's fused product.

    The fused product does not return the attention matrix. The class token's row costs one more query, 1 x T per head.
    The spatial gate multiplies columns of the attention, which equals scaling the values (or, before the softmax, the
    keys). No T x T matrix is stored for the backward pass. A spatial query's own token is the last, if it has one.
    """
    queries, keys, values = _project(attention, tokens)
    queries, keys = attention.q_norm(queries), attention.k_norm(keys)
    if rope is not None:
        queries, keys = (_rotate(attention, x, rope).type_as(values) for x in (queries, keys))
    scale = float(attention.scale)
    output = _output(queries, keys, scale, request, query)
    if query is not None and output.gate is not None:
        gate = output.gate[:, None, :, None].to(values.dtype)
        keys = keys * gate if query.gate == "keys" else keys
        values = values * gate if query.gate == "values" else values
    dropout = float(attention.attn_drop.p) if attention.training else 0.0
    if not dropout and _bfloat16.is_supported(queries, keys, values):
        mixed = _bfloat16.attention(queries, keys, values, scale)
    else:
        mixed = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, scale=scale)
    mixed = attention.norm(mixed.transpose(1, 2).flatten(2))
    if getattr(attention, "gate", None) is not None:
        mixed = mixed * attention.gate(tokens).sigmoid()
    return attention.proj_drop(attention.proj(mixed)), output


def _output(
    queries: Tensor, keys: Tensor, scale: float, request: FeatureRequest, query: SpatialQuery | None
) -> AttentionOutput:
    """Compute the requested outputs from queries and keys [B, H, T, d]."""
    row = relation = gate = None
    if request.class_attention or request.patch_relation:
        row = _scores(queries, 0, keys, scale).softmax(dim=-1).mean(dim=1)
        relation = _relation(queries, keys, scale, row) if request.patch_relation else None
    if query is not None:
        gate = _scores(queries, 0 if query.token is None else -1, keys, scale).mean(dim=1).sigmoid()
    flat_keys = keys.transpose(1, 2).flatten(2) if request.keys else None
    return AttentionOutput(row if request.class_attention else None, relation, flat_keys, gate)


def _scores(queries: Tensor, index: int, keys: Tensor, scale: float) -> Tensor:
    """Return the scaled products of one token's query with all keys, [B, H, T] float32."""
    return torch.einsum("bhd,bhtd->bht", queries[:, :, index] * scale, keys).float()


@torch.no_grad()
def _relation(queries: Tensor, keys: Tensor, scale: float, row: Tensor) -> Tensor:
    """Return c^T A / T, [B, T]: the head-mean attention A of all tokens weighted by the class row c (LCTR, Eq. 5).

    Only one head's matrix exists at a time; the weighted matrix is never built.
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
        layers = (attention.q_proj, attention.k_proj, attention.v_proj)
        queries, keys, values = (layer(tokens).unflatten(-1, (heads, -1)).transpose(1, 2) for layer in layers)
        return queries, keys, values
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:  # EVA's key bias is a buffer of zeros
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    fused = F.linear(tokens, attention.qkv.weight, bias)
    queries, keys, values = fused.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return queries, keys, values


def _rotate(attention: Any, x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the patches of x [B, H, T, d]; the tokens before and after them have no position."""
    first, last = attention.num_prefix_tokens, attention.num_prefix_tokens + rope.shape[-2]
    half = getattr(attention, "rotate_half", False)
    patches = apply_rot_embed_cat(x[:, :, first:last], rope, half=half)
    return torch.cat([x[:, :, :first], patches, x[:, :, last:]], dim=2)
