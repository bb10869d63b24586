"""CAM: its map is the contribution of each patch to the score."""

from __future__ import annotations

import pytest
import torch

from tokenloc.methods.cam import CAM
from tokenloc.models import create_model

SMALL = {"embed_dim": 24, "num_heads": 2, "depth": 2}
IMAGES = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cam() -> CAM:
    model = create_model("cam", "vit_tiny_patch16_224", 4, False, (64, 48), backbone_options=SMALL).eval()
    assert isinstance(model, CAM)
    torch.nn.init.normal_(model.head.bias)
    return model


def test_the_map_is_the_product_of_class_weight_and_patch(cam: CAM) -> None:
    classes = torch.tensor([[3, 0], [1, 1]])
    _, maps = cam.localize(IMAGES, classes)
    patches = cam.backbone(IMAGES).patch_map()
    assert maps.shape == (2, 2, 4, 3)
    for image in range(2):
        for index, label in enumerate(classes[image]):
            for row in range(4):
                for column in range(3):
                    expected = (cam.head.weight[label] * patches[image, :, row, column]).sum()
                    torch.testing.assert_close(maps[image, index, row, column], expected)


def test_the_mean_of_a_map_is_the_logit_minus_the_bias(cam: CAM) -> None:
    logits, maps = cam.localize(IMAGES, torch.arange(4).repeat(2, 1))
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + cam.head.bias, logits)
    torch.testing.assert_close(cam(IMAGES).logits, logits)


def test_a_backbone_without_a_class_token() -> None:
    options = {**SMALL, "class_token": False, "global_pool": "avg"}
    cam = create_model("cam", "vit_tiny_patch16_224", 4, False, (64, 48), backbone_options=options)
    assert cam.localize(IMAGES)[1].shape == (2, 1, 4, 3)
