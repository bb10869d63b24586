"""Attention in bfloat16 on the CPU: the gradients of the custom backward pass against exact ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.runs import TINY_VIT
from tokenloc.backbones import _bfloat16
from tokenloc.models import create_model

SCALE = 0.3


def projections(batch: int, heads: int, length: int, width: int) -> list[Tensor]:
    return [torch.randn(batch, length, heads, width).transpose(1, 2).bfloat16().requires_grad_() for _ in range(3)]


def exact_gradients(tensors: list[Tensor], gradient: Tensor) -> list[Tensor]:
    """Return the gradients in float64, from the full attention matrix."""
    queries, keys, values = (tensor.detach().double().requires_grad_() for tensor in tensors)
    ((queries @ keys.mT * SCALE).softmax(dim=-1) @ values).backward(gradient.double())
    return [tensor.grad for tensor in (queries, keys, values) if tensor.grad is not None]


@pytest.mark.parametrize("entries", [1, 300, 10**9], ids=["image by image", "two at a time", "all at once"])
@pytest.mark.parametrize("shape", [(5, 3, 7, 4), (2, 1, 65, 16), (3, 2, 1, 4)])
def test_gradients_are_exact_to_bfloat16(
    shape: tuple[int, int, int, int], entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bfloat16, "CHUNK_ENTRIES", entries)
    tensors = projections(*shape)
    gradient = torch.randn(shape).bfloat16()
    result = _bfloat16.attention(*tensors, SCALE)
    torch.testing.assert_close(result, F.scaled_dot_product_attention(*tensors, scale=SCALE), rtol=0, atol=0)
    result.backward(gradient)
    for tensor, expected in zip(tensors, exact_gradients(tensors, gradient), strict=True):
        assert tensor.grad is not None
        assert tensor.grad.dtype == torch.bfloat16
        scale = expected.norm() + gradient.norm() * (shape[2] == 1)  # the attention of a single token is always 1
        assert (tensor.grad.double() - expected).norm() <= 0.02 * scale


def test_supported_tensors() -> None:
    tensors = projections(1, 1, 2, 4)
    assert _bfloat16.is_supported(*tensors)
    assert not _bfloat16.is_supported(*(tensor.float() for tensor in tensors))
    assert not _bfloat16.is_supported(*(tensor.detach() for tensor in tensors))
    with torch.inference_mode():
        assert not _bfloat16.is_supported(*tensors)


def test_training_in_mixed_precision_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    own = _bfloat16._gradients
    monkeypatch.setattr(_bfloat16, "_gradients", lambda *args: (called.append(1), own(*args))[1])
    options = {**TINY_VIT, "patch_size": 16}
    model = create_model("tscam", "vit_tiny_patch16_224", 4, False, image_size=32, backbone_options=options).train()
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])
    gradients = []
    for mixed in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            total = model.loss(model(images), labels)["total"]
        total.backward()
        gradients.append(torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]))
        assert len(called) == mixed * model.backbone.depth
    assert (gradients[1] - gradients[0]).norm() < 0.05 * gradients[0].norm()
