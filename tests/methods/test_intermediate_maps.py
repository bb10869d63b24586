"""What maps are made of, for images: the parts make up the map that ``localize`` returns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.methods.test_contract import every_kind, every_method, make, make_images
from tokenloc.methods import Method
from tokenloc.models import create_model

CLASSES = torch.tensor([2, 0])
VIT = {"embed_dim": 48, "depth": 4, "num_heads": 3}


@every_method
@every_kind
def test_parts_have_the_form_of_maps(method: str, kind: str) -> None:
    model = make(method, kind).eval()
    images = make_images(model)
    with torch.no_grad():
        maps = model.localize(images, CLASSES[:, None])[1]
        parts = model.intermediate_maps(images, CLASSES)
    assert all(part.shape == (2, *maps.shape[-2:]) and part.isfinite().all() for part in parts.values())
    assert bool(parts) == (method != "cam")


def parts_and_map(method: str, **options: object) -> tuple[dict[str, Tensor], Tensor]:
    model: Method = create_model(method, "vit_tiny_patch16_224", 3, False, backbone_options=VIT, **options).eval()
    images = make_images(model)
    with torch.no_grad():
        return model.intermediate_maps(images, CLASSES), model.localize(images, CLASSES[:, None])[1][:, 0]


@pytest.mark.parametrize(
    ("method", "first", "second"),
    [("tscam", "attention", "semantic map"), ("lctr", "patch relation", "semantic map"), ("scm", "F0", "S0")],
)
def test_coupled_maps_are_products(method: str, first: str, second: str) -> None:
    parts, map_ = parts_and_map(method)
    torch.testing.assert_close(parts[first] * parts[second], map_)


def test_scm_has_a_pair_for_each_block_and_the_start() -> None:
    parts, _ = parts_and_map("scm", blocks=2)
    assert list(parts) == ["F0", "S0", "F1", "S1", "F2", "S2"]
    assert not torch.equal(parts["F0"], parts["F2"])


def test_sats_map_is_the_mean_of_its_gates() -> None:
    parts, map_ = parts_and_map("sat")
    assert list(parts) == ["gate of block 2", "gate of block 3", "gate of block 4"]
    torch.testing.assert_close(torch.stack(list(parts.values())).mean(dim=0), map_)


def test_tokencuts_map_is_the_eigenvector() -> None:
    parts, map_ = parts_and_map("tokencut")
    torch.testing.assert_close(parts["eigenvector"], map_)
    assert set(parts["object"].unique().tolist()) <= {0.0, 1.0}


def test_lcars_seed_says_which_side_of_the_cut_is_the_object() -> None:
    parts, map_ = parts_and_map("lcar")
    torch.testing.assert_close(parts["eigenvector"].abs(), map_.abs())
    inside = (map_ * parts["seed"]).sum(dim=(1, 2)) / parts["seed"].sum(dim=(1, 2))
    assert bool((inside >= map_.mean(dim=(1, 2)) - 1e-6).all())
