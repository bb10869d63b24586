"""Small models, and images of 4 x 3 patches for them."""

from __future__ import annotations

from typing import Any

import torch

from tokenloc.models import create_model

SMALL = {"embed_dim": 24, "num_heads": 2, "depth": 2}
IMAGES = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def small_model(method: str, classes: int = 5, **options: Any) -> Any:
    backbone = ("vit_tiny_patch16_224", classes, False, (64, 48))
    return create_model(method, *backbone, backbone_options=SMALL, **options).eval()
