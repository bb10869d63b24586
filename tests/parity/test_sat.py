"""SAT against the authors' released code: values and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tokenloc.methods import Method, Output
from tokenloc.methods.sat import area_loss, gaussian_filtered, normalization_loss

Arrays = dict[str, Tensor]


@pytest.fixture
def model(released_model: Callable[..., Method], released: Arrays) -> Method:
    sat = released_model("sat")
    tokens = {key: released[key] for key in ("loc_token", "loc_embed")}
    assert not sat.load_state_dict(tokens, strict=False).unexpected_keys
    return sat


@pytest.fixture
def output(model: Method, inputs: Arrays) -> Output:
    return model(inputs["images"])


def test_logits_and_map(output: Output, released: Arrays) -> None:
    torch.testing.assert_close(output.logits, released["logits"], atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(output.auxiliary["map"], released["map"], atol=2e-6, rtol=1e-5)


def test_localize_gives_the_same_map_for_each_class(model: Method, inputs: Arrays, released: Arrays) -> None:
    logits, maps = model.localize(inputs["images"], torch.tensor([[0, 9], [3, 3]]))
    torch.testing.assert_close(logits, released["logits"], atol=3e-5, rtol=1e-5)
    torch.testing.assert_close(maps, released["map"][:, None].expand(-1, 2, -1, -1), atol=2e-6, rtol=1e-5)


def test_the_filter_is_the_released_one(released: Arrays) -> None:
    point = torch.zeros(1, 5, 5)
    point[0, 2, 2] = 1
    torch.testing.assert_close(gaussian_filtered(point)[0, 1:4, 1:4], released["gaussian_kernel"][0, 0])


def test_losses_of_each_image(released: Arrays) -> None:
    maps = released["map"]
    for image in range(2):
        area = area_loss(maps[image : image + 1], 0.0)
        torch.testing.assert_close(area, released["area"][image], atol=1e-6, rtol=1e-5)
        normalization = normalization_loss(maps[image : image + 1])
        torch.testing.assert_close(normalization, released["normalization_loss"][image], atol=1e-6, rtol=1e-5)


def test_total_loss_and_gradients(model: Method, output: Output, inputs: Arrays, released: Arrays) -> None:
    total = model.loss(output, inputs["labels"])["total"]
    torch.testing.assert_close(total.detach(), released["loss"], atol=1e-5, rtol=1e-5)
    total.backward()
    parameters = {"loc_token": "loc_token", "loc_embed": "loc_embed", "head.bias": "head_bias"}
    for name, key in {**parameters, "backbone.pos_embed": "pos_embed"}.items():
        gradient = model.get_parameter(name).grad
        torch.testing.assert_close(gradient, released[f"grad_{key}"], atol=1e-5, rtol=1e-4)


def test_the_default_area_target_is_the_released_one(model: Method, released: Arrays) -> None:
    assert model.area_target == released["area_target"].item()
