"""Interpolation of outlier tokens, against means over neighbours."""

from __future__ import annotations

import pytest
import torch

from tokenloc.backbones import FeatureRequest, SpatialQuery, create_backbone
from tokenloc.backbones.outliers import interpolate_outliers

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}
EVERYTHING = FeatureRequest(class_attention=True, patch_relation=True, keys=True)


def test_outliers_get_the_mean_of_their_neighbours() -> None:
    backbone, _ = create_backbone("vit_tiny_patch16_224", False, (48, 64), **SMALL, smooth_outliers=True)
    corner, inner = 0, 6  # of a grid of 3 x 4
    backbone.get_parameter("pos_embed").data[0, 1 + torch.tensor([corner, inner])] *= 1e4
    images, spatial = torch.randn(2, 3, 48, 64), SpatialQuery(torch.randn(1, 1, 48), (1,))
    with torch.no_grad():
        smoothed = backbone.eval()(images, EVERYTHING, spatial)
        backbone.smooth_outliers = False
        plain = backbone(images, EVERYTHING, spatial)
    for name in ("patches", "keys", "class_attention", "patch_relation", "spatial_gates"):
        found, expected = getattr(smoothed, name), getattr(plain, name).clone()
        if name not in ("patches", "keys"):
            found, expected = found.transpose(1, 2), expected.transpose(1, 2)  # [B, N, …]
        expected[:, corner] = expected[:, [1, 4, 5]].mean(dim=1)
        expected[:, inner] = expected[:, [1, 2, 3, 5, 7, 9, 10, 11]].mean(dim=1)
        torch.testing.assert_close(found, expected, msg=name)


def test_adjacent_outliers_are_no_neighbours() -> None:
    rows = torch.tensor([[[9.0, 8.0, 1.0, 2.0, 3.0, 4.0]]])
    expected = [[[(2 + 3) / 2, (1 + 2 + 3 + 4) / 4, 1, 2, 3, 4]]]
    assert interpolate_outliers(rows, rows[:, 0] > 5, (2, 3)).tolist() == expected
    assert interpolate_outliers(rows, rows[:, 0] > 0, (2, 3)).tolist() == [[[0] * 6]]


def test_without_outliers_nothing_changes() -> None:
    backbone, _ = create_backbone("vit_tiny_patch16_224", False, (48, 64), **SMALL, smooth_outliers=True)
    images = torch.randn(2, 3, 48, 64)
    with torch.no_grad():
        smoothed = backbone.eval()(images).patches
        backbone.smooth_outliers = False
        assert torch.equal(smoothed, backbone(images).patches)


def test_the_option_is_a_boolean() -> None:
    with pytest.raises(ValueError, match="smooth_outliers must be true or false; got 'yes'"):
        create_backbone("vit_tiny_patch16_224", False, **SMALL, smooth_outliers="yes")
