"""Making models by name."""

from __future__ import annotations

import pytest
import torch

import tokenloc
from tokenloc.methods import METHODS, list_methods
from tokenloc.methods.base import pick_classes, register_method, top_classes
from tokenloc.models import create_model, method_options

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}


def test_methods_are_listed_and_match_wildcards() -> None:
    assert "tscam" in tokenloc.list_methods()
    assert list_methods("ts*") == ["tscam"]


def test_options_with_their_defaults() -> None:
    assert method_options("tscam") == {"map": "coupled", "head": "conv2d", "attention_blocks": None}


def test_unknown_method_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="unknown method 'ts-cam'; did you mean 'tscam'\\? Valid: .*tscam"):
        create_model("ts-cam", pretrained=False)


def test_no_classes() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1; got 0"):
        create_model("tscam", "vit_tiny_patch16_224", 0, pretrained=False, backbone_options=SMALL)


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(ValueError, match="method 'tscam' is registered already"):
        register_method("tscam")(type("Other", (METHODS["tscam"],), {}))


def test_config_makes_the_model_again() -> None:
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, 64, SMALL, head="fc")
    config = model.config
    again = create_model(
        config.method,
        config.backbone,
        config.num_classes,
        False,
        config.image_size,
        config.backbone_options,
        **config.options,
    )
    again.load_state_dict(model.state_dict())
    assert config.image_size == (64, 64)


def test_loss_is_cross_entropy_by_hand() -> None:
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, 64, SMALL)
    output = model(torch.randn(4, 3, 64, 64))
    labels = torch.tensor([0, 2, 1, 1])
    terms = model.loss(output, labels)
    by_hand = -output.logits.log_softmax(dim=1)[torch.arange(4), labels].mean()
    torch.testing.assert_close(terms["total"], by_hand)


def test_pick_classes_picks() -> None:
    maps = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    picked = pick_classes(maps, torch.tensor([[2, 0], [1, 1]]))
    assert torch.equal(picked[0], maps[0, [2, 0]])
    assert torch.equal(picked[1], maps[1, [1, 1]])


def test_top_classes_are_stable_and_at_most_all() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0]])
    assert top_classes(logits, 2).tolist() == [[1, 2], [0, 2]]
    assert top_classes(logits, 9).tolist() == [[1, 2, 0], [0, 2, 1]]


def test_localize_takes_classes_or_their_count() -> None:
    model = create_model("tscam", "vit_tiny_patch16_224", 3, False, 64, SMALL).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits, every_map = model.localize(images, torch.arange(3).expand(2, -1))
        best = pick_classes(every_map, top_classes(logits, 2))
        torch.testing.assert_close(model.localize(images, 2)[1], best)
        torch.testing.assert_close(model.localize(images)[1], best[:, :1])
    with pytest.raises(ValueError, match="must be at least 1; got 0"):
        model.localize(images, 0)
