"""CNNs as backbones: timm's feature maps, and refusals of what needs attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tokenloc.backbones import FeatureRequest, create_backbone, list_backbones
from tokenloc.methods import METHODS
from tokenloc.models import create_model

SMALL = {"resnet18": {}, "vgg11": {}, "inception_v3": {}, "convnext_atto": {"depths": (1, 1, 1, 1)}}
IMAGES = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", pytest.param("vgg11", marks=pytest.mark.slow), "inception_v3"]
)
def test_the_patches_are_timms_last_feature_map(name: str, tmp_path: Path) -> None:
    """Also loads a file with all of timm's weights, those of the classifier included."""
    trunk = timm.create_model(name, num_classes=7, **SMALL[name]).eval()
    save_file(trunk.state_dict(), path := tmp_path / "weights.safetensors")
    backbone, normalisation = create_backbone(name, path, **SMALL[name])
    with torch.no_grad():
        features, expected = backbone.eval()(IMAGES), trunk.forward_features(IMAGES)
    torch.testing.assert_close(features.patch_map(), expected)
    assert features.class_token is None
    assert backbone.embed_dim == expected.shape[1]
    assert normalisation.mean == trunk.pretrained_cfg["mean"]
    assert not any("fc" in key.split(".") or "pre_logits" in key for key in backbone.state_dict())


@pytest.mark.parametrize(
    ("name", "stride", "grid", "width"),
    [
        ("resnet18", 16, (6, 8), 512),
        ("convnext_atto", 8, (12, 16), 320),
        pytest.param("vgg11", 16, (6, 8), 512, marks=pytest.mark.slow),
        ("inception_v3", 16, (4, 6), 768),
    ],
)
def test_output_stride(name: str, stride: int, grid: tuple[int, int], width: int) -> None:
    backbone, _ = create_backbone(name, False, output_stride=stride, **SMALL[name])
    features = backbone.eval()(IMAGES)
    assert (features.grid, features.patches.shape[2], backbone.patch_size) == (grid, width, (stride, stride))
    whole, _ = create_backbone(name, False, **SMALL[name])
    smaller = sum(p.numel() for p in backbone.parameters()) < sum(p.numel() for p in whole.parameters())
    assert smaller == (name == "inception_v3")  # dilation and pooling have no parameters


@pytest.mark.parametrize(("name", "stride"), [("resnet18", 5), ("inception_v3", 1)])
def test_impossible_strides(name: str, stride: int) -> None:
    with pytest.raises(ValueError, match=f"output_stride .*{stride}"):
        create_backbone(name, False, output_stride=stride)


def test_the_listed_families() -> None:
    assert {"vgg16", "resnet50", "inception_v3", "convnext_tiny"} <= {*list_backbones()}


@pytest.mark.parametrize("method", [name for name in METHODS.names() if name != "cam"])
def test_methods_that_need_attention_refuse_a_cnn(method: str) -> None:
    with pytest.raises(ValueError, match="resnet18 (is a convolutional network without attention|has no class token)"):
        create_model(method, "resnet18", 3, False)


def test_an_attention_output_is_refused() -> None:
    backbone, _ = create_backbone("resnet18", False)
    with pytest.raises(ValueError, match="resnet18 is a convolutional network without attention"):
        backbone(IMAGES, FeatureRequest(keys=True))
