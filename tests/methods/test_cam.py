"""CAM: its map is the contribution of each patch to the score."""

from __future__ import annotations

import pytest
import torch

from tests.methods.small import IMAGES, small_model
from tokenloc.methods.cam import CAM


@pytest.fixture
def cam() -> CAM:
    model: CAM = small_model("cam", 4)
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
