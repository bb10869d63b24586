"""Creating models by name, and the defaults of every method."""

from __future__ import annotations

import pytest
import torch

import tokenloc
from tokenloc.methods import METHODS, Method, list_methods, register_method, top_classes
from tokenloc.methods.base import pick_classes
from tokenloc.models import create_model, method_options

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}


@pytest.fixture
def model() -> Method:
    return create_model("tscam", "vit_tiny_patch16_224", 3, False, 64, SMALL, head="fc").eval()


def test_methods_are_listed_with_their_options() -> None:
    assert "tscam" in tokenloc.list_methods()
    assert list_methods("ts*") == ["tscam"]
    assert method_options("sat").keys() >= {"spatial_blocks", "area_target"}
    assert method_options("cam") == {"conv_channels": None}


def test_an_unknown_method_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="unknown method 'ts-cam'; did you mean 'tscam'\\? Valid: .*tscam"):
        create_model("ts-cam", pretrained=False)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1; got 0"):
        create_model("tscam", "vit_tiny_patch16_224", 0, pretrained=False, backbone_options=SMALL)


def test_a_registered_name_is_refused() -> None:
    with pytest.raises(ValueError, match="method 'tscam' is already registered"):
        register_method("tscam")(type("Other", (METHODS["tscam"],), {}))


def test_the_config_recreates_the_model(model: Method) -> None:
    c = model.config
    size, options = c.image_size, c.backbone_options
    again = create_model(c.method, c.backbone, c.num_classes, False, size, options, **c.options)
    again.load_state_dict(model.state_dict())
    assert size == (64, 64)


def test_the_default_loss_is_the_cross_entropy(model: Method) -> None:
    output, labels = model(torch.randn(4, 3, 64, 64)), torch.tensor([0, 2, 1, 1])
    expected = -output.logits.log_softmax(dim=1)[torch.arange(4), labels].mean()
    torch.testing.assert_close(model.loss(output, labels)["total"], expected)


def test_pick_classes() -> None:
    maps = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    picked = pick_classes(maps, torch.tensor([[2, 0], [1, 1]]))
    assert torch.equal(picked[0], maps[0, [2, 0]])
    assert torch.equal(picked[1], maps[1, [1, 1]])


def test_top_classes_are_stable_and_at_most_all() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, 0.0, 2.0]])
    assert top_classes(logits, 2).tolist() == [[1, 2], [0, 2]]
    assert top_classes(logits, 9).tolist() == [[1, 2, 0], [0, 2, 1]]


def test_localize_takes_classes_or_a_count(model: Method) -> None:
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits, every_map = model.localize(images, torch.arange(3).expand(2, -1))
        best = pick_classes(every_map, top_classes(logits, 2))
        torch.testing.assert_close(model.localize(images, 2)[1], best)
        torch.testing.assert_close(model.localize(images)[1], best[:, :1])
    with pytest.raises(ValueError, match="must be at least 1; got 0"):
        model.localize(images, 0)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (torch.tensor([[3], [0]]), r"class indices must lie in \[0, 3\); got 0 to 3"),
        (torch.tensor([[-1], [0]]), r"got -1 to 0"),
        (torch.tensor([0, 1]), r"classes must be \[B, K\] int64 with B = 2; got \[2\]"),
        (torch.tensor([[0.0], [1.0]]), r"got \[2, 1\] torch.float32"),
    ],
)
def test_invalid_classes_are_refused(classes: torch.Tensor, message: str, model: Method) -> None:
    with pytest.raises(ValueError, match=message):
        model.localize(torch.zeros(2, 3, 64, 64), classes)
