"""CAM: its map is what each patch adds to the score."""

from __future__ import annotations

import torch

from tokenloc.methods.cam import CAM
from tokenloc.models import create_model

SMALL = {"embed_dim": 24, "num_heads": 2, "depth": 2}
IMAGES = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(1))


def model() -> CAM:
    made = create_model("cam", "vit_tiny_patch16_224", 4, False, (64, 48), backbone_options=SMALL).eval()
    assert isinstance(made, CAM)
    torch.nn.init.normal_(made.head.bias)
    return made


def test_a_map_is_the_weight_of_its_class_on_each_patch() -> None:
    cam = model()
    classes = torch.tensor([[3, 0], [1, 1]])
    _, maps = cam.localize(IMAGES, classes)
    patches = cam.backbone(IMAGES).patch_map()
    assert maps.shape == (2, 2, 4, 3)
    for image in range(2):
        for place, label in enumerate(classes[image]):
            for row in range(4):
                for column in range(3):
                    expected = (cam.head.weight[label] * patches[image, :, row, column]).sum()
                    torch.testing.assert_close(maps[image, place, row, column], expected)


def test_the_mean_of_a_map_is_the_logit_less_the_bias() -> None:
    cam = model()
    logits, maps = cam.localize(IMAGES, torch.arange(4).repeat(2, 1))
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + cam.head.bias, logits)


def test_training_and_testing_agree_on_the_logits() -> None:
    cam = model()
    torch.testing.assert_close(cam(IMAGES).logits, cam.localize(IMAGES)[0])


def test_the_loss_is_the_cross_entropy_and_reaches_everything() -> None:
    cam = model()
    output, labels = cam(IMAGES), torch.tensor([2, 0])
    terms = cam.loss(output, labels)
    expected = (output.logits.logsumexp(dim=1) - output.logits[[0, 1], labels]).mean()
    torch.testing.assert_close(terms["total"], expected)
    terms["total"].backward()
    without = [name for name, parameter in cam.named_parameters() if parameter.grad is None]
    assert without == []


def test_a_backbone_without_a_class_token_will_do() -> None:
    options = {**SMALL, "class_token": False, "global_pool": "avg"}
    cam = create_model("cam", "vit_tiny_patch16_224", 4, False, (64, 48), backbone_options=options)
    assert cam.localize(IMAGES)[1].shape == (2, 1, 4, 3)
