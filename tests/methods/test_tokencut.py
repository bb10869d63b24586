"""TokenCut: its map and its options, on a small backbone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tokenloc.backbones import FeatureRequest, Features
from tokenloc.methods._normalized_cut import eigenvector_maps
from tokenloc.methods.tokencut import TokenCut
from tokenloc.models import create_model

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "drop_path_rate": 0.5}
IMAGES = torch.randn(3, 3, 64, 80, generator=torch.Generator().manual_seed(1))


def small(name: str = "tokencut", **options: object) -> TokenCut:
    model = create_model(name, "vit_tiny_patch16_224", 4, False, backbone_options=SMALL, **options)
    assert isinstance(model, TokenCut)
    return model.eval()


def map_of(model: TokenCut, rows: list[list[float]]) -> Tensor:
    """Return the object map of an image whose patches have keys in two directions, as given by ``rows``."""
    members = torch.tensor(rows)
    keys = torch.stack([members, 1 - members], dim=-1).flatten(0, 1)[None]
    return model.object_map(Features(keys, None, members.shape, keys=keys))[0]


def test_the_map_is_the_eigenvector_of_the_keys() -> None:
    model = small(edges="cosine", tau=0.0)
    features = model.backbone(IMAGES, FeatureRequest(keys=True))
    logits, maps = model.localize(IMAGES, torch.tensor([[0, 2], [3, 3], [1, 0]]))
    assert maps.shape == (3, 2, 4, 5)
    expected = eigenvector_maps(features.keys, (4, 5), 0.0, "cosine")
    for index in range(2):
        torch.testing.assert_close(maps[:, index], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits, model.head(features.patches.mean(dim=1)))
    torch.testing.assert_close(model(IMAGES).logits, logits)
    intermediate = model.intermediate_maps(IMAGES, torch.tensor([0, 3, 1]))
    torch.testing.assert_close(intermediate["eigenvector"], maps[:, 0])
    assert set(intermediate["object"].unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("polarity", ["peak", "border"])
def test_a_small_object_is_the_high_side(polarity: str) -> None:
    rows = [[0.0] * 5, [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0.0] * 5]
    assert torch.equal(map_of(small(polarity=polarity), rows) > 0, torch.tensor(rows) > 0)


def test_only_the_border_polarity_finds_an_object_that_fills_the_image() -> None:
    rows = [[0.0] * 7, *[[0.0] + [1.0] * 5 + [0.0]] * 6, [0.0] * 7]  # 30 patches of 56
    assert torch.equal(map_of(small(polarity="peak"), rows) > 0, torch.tensor(rows) == 0)
    assert torch.equal(map_of(small(polarity="border"), rows) > 0, torch.tensor(rows) > 0)


def test_the_mask_is_the_component_of_the_peak() -> None:
    rows = [[0.0] * 6, [0, 1, 1, 0, 1, 0], [0, 1, 1, 0, 0, 0], [0.0] * 6]
    mask = map_of(small(map="mask"), rows)
    assert mask.unique().tolist() == [0.0, 1.0]
    assert int(mask.sum()) in (1, 4)  # both components have the same value; the mask is one of them
    assert (mask.bool() & ~(torch.tensor(rows) > 0)).sum() == 0


@pytest.mark.parametrize("name", ["tokencut", "lcar"])
def test_the_backbone_is_frozen_and_stays_in_evaluation_mode(name: str) -> None:
    model = small(name).train()
    assert model.training
    assert model.head.training
    assert not model.backbone.training
    assert torch.equal(model(IMAGES).logits, model(IMAGES).logits)  # no drop path
    model.loss(model(IMAGES), torch.tensor([0, 1, 2]))["total"].backward()
    assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
    assert all(p.grad is not None for key, p in model.named_parameters() if not key.startswith("backbone."))
    assert not model.eval().training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": -0.1}, r"tau is a cosine in \[0, 1\); got -0.1"),
        ({"tau": 1.0}, r"tau is a cosine in \[0, 1\); got 1.0"),
        ({"tau": float("nan")}, r"tau is a cosine in \[0, 1\); got nan"),
        *(({option: "peek"}, f"unknown {option} 'peek'.*Valid: ") for option in ("edges", "polarity", "map")),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
