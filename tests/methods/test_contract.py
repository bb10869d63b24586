"""The contract of every registered method, on every kind of backbone."""

from __future__ import annotations

import pytest
import torch

from tokenloc.methods import METHODS, Method
from tokenloc.models import create_model
from tokenloc.models.factory import method_options
from tokenloc.refinement import find_steps

CLASSES = 3
VIT = {"embed_dim": 48, "depth": 4, "num_heads": 3}
CNNS: dict[str, tuple[str, dict[str, object]]] = {
    "resnet": ("resnet10t", {"output_stride": 16}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1)}),
}
KINDS = {
    "plain": ("vit_tiny_patch16_224", VIT),
    "distilled": ("deit_tiny_distilled_patch16_224", VIT),
    "registers": ("vit_small_patch14_reg4_dinov2", VIT),
    "rotary": ("vit_small_patch16_dinov3", VIT),
    **CNNS,
    "conformer": ("conformer_small_patch16", {"channel_ratio": 1, "embed_dim": 48, "num_heads": 3, "depth": 12}),
}
every_method = pytest.mark.parametrize("method", METHODS.names())
pairs = [(m, k) for m in METHODS.names() for k in KINDS if k not in CNNS or not METHODS[m].needs_attention]
every_pair = pytest.mark.parametrize(("method", "kind"), pairs)


def make(method: str, kind: str) -> Method:
    name, options = KINDS[kind]
    return create_model(method, name, CLASSES, False, backbone_options=options)


def make_images(model: Method, batch: int = 2, rows: int = 3, columns: int = 5) -> torch.Tensor:
    height, width = model.backbone.patch_size
    return torch.randn(batch, 3, rows * height, columns * width)


@every_method
def test_class_attributes(method: str) -> None:
    model = make(method, "plain")
    assert 0 < model.default_threshold < 1
    assert len(find_steps(model.refinement)) == len(model.refinement)
    assert all(0 <= block < model.backbone.depth for block in model.spatial_blocks)
    assert set(model.test_options) <= method_options(method).keys()


@every_pair
def test_shapes_on_an_odd_rectangular_grid(method: str, kind: str) -> None:
    model = make(method, kind).eval()
    images = make_images(model)
    with torch.no_grad():
        logits, maps = model.localize(images)
        again, several = model.localize(images, torch.tensor([[0, 2], [1, 1]]))
    assert logits.shape == (2, CLASSES)
    assert maps.shape[:2] == (2, 1)
    assert several.shape == (2, 2, *maps.shape[2:])
    assert maps.isfinite().all()
    assert torch.equal(logits, again)  # evaluation is deterministic
    torch.testing.assert_close(several[1, 0], several[1, 1])


@every_pair
def test_intermediate_maps_have_the_shape_of_the_map(method: str, kind: str) -> None:
    model, classes = make(method, kind).eval(), torch.tensor([2, 0])
    images = make_images(model)
    with torch.no_grad():
        maps = model.localize(images, classes[:, None])[1]
        intermediate = model.intermediate_maps(images, classes)
    assert all(title.strip() == title != "" for title in intermediate)
    assert all(map_.shape == (2, *maps.shape[-2:]) and map_.isfinite().all() for map_ in intermediate.values())
    assert bool(intermediate) == (type(model).intermediate_maps is not Method.intermediate_maps)


@every_pair
def test_gradients_reach_every_trainable_parameter(method: str, kind: str) -> None:
    model = make(method, kind).train()
    terms = model.loss(model(make_images(model)), torch.tensor([0, 2]))
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    terms["total"].backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if model.backbone.conv_dim is not None and not model.uses_conv_branch:
        missing = [name for name in missing if not name.startswith("backbone.")]
    assert not missing


@every_method
def test_results_do_not_depend_on_the_batch(method: str) -> None:
    model = make(method, "plain").eval()
    images, classes = make_images(model, batch=3), torch.tensor([[0], [1], [2]])
    with torch.no_grad():
        logits, maps = model.localize(images, classes)
        alone = [model.localize(images[i : i + 1], classes[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat([logit for logit, _ in alone]), logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([map_ for _, map_ in alone]), maps, rtol=1e-3, atol=1e-4)


@every_pair
def test_a_loaded_state_dict_gives_the_same_results(method: str, kind: str) -> None:
    first, second = make(method, kind).eval(), make(method, kind).eval()
    second.load_state_dict(first.state_dict())
    images = make_images(first)
    with torch.no_grad():
        torch.testing.assert_close(first.localize(images), second.localize(images), rtol=0, atol=0)


@every_method
def test_a_missing_class_token_is_refused_if_required(method: str) -> None:
    options = {**VIT, "class_token": False, "global_pool": "avg"}
    error = ""
    try:
        model = create_model(method, "vit_tiny_patch16_224", CLASSES, False, backbone_options=options).eval()
        assert model.localize(make_images(model))[1].isfinite().all()
    except ValueError as raised:
        error = str(raised)
    assert not error or f"has no class token, which {method} needs; choose a backbone with one" in error


@every_method
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite(method: str, dtype: torch.dtype) -> None:
    model = make(method, "plain").train()
    with torch.autocast("cpu", dtype=dtype):
        terms = model.loss(model(make_images(model)), torch.tensor([0, 2]))
        logits, maps = model.eval().localize(make_images(model))
    terms["total"].backward()
    assert terms["total"].isfinite()
    assert logits.isfinite().all()
    assert maps.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_method
def test_no_attention_matrix_is_stored_for_the_backward_pass(method: str) -> None:
    model = make(method, "plain").train()
    images = make_images(model, rows=11, columns=11)
    tokens = range(122, 126)  # 121 patches, the class token and those of the method; unlike any width
    stored: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (stored.append(t.shape), t)[1], lambda t: t):
        model.loss(model(images), torch.tensor([0, 2]))["total"].backward()
    assert stored
    assert not [shape for shape in stored if len(shape) >= 2 and shape[-1] == shape[-2] and shape[-1] in tokens]


@every_method
def test_modes_and_hooks_are_unchanged_after_an_error(method: str) -> None:
    model = make(method, "plain").train()
    before = {name: module.training for name, module in model.named_modules()}
    with pytest.raises(ValueError, match="patches of vit_tiny_patch16_224"):
        model.localize(torch.zeros(1, 3, 50, 50))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
