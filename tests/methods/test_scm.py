"""SCM: stencils and blocks against the paper's equations with dense matrices, combined as in the released code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.methods.small import IMAGES, small_model
from tokenloc.backbones import FeatureRequest
from tokenloc.methods._diffusion import (
    dense,
    diffuse,
    grid_laplacian,
    neighbour_similarity,
    semantic_laplacian,
    soft_filter,
    tanhshrink,
)
from tokenloc.methods._scaling import min_max
from tokenloc.methods.scm import SCM
from tokenloc.methods.tscam import TSCAM

GRIDS = [(3, 4), (4, 3), (1, 6), (6, 1), (2, 1), (5, 5)]


def maps_on(grid: tuple[int, int], channels: int = 5) -> tuple[Tensor, Tensor]:
    """Return semantic maps [2, C, h, w] with a common component, as real ones have, and activation [2, h, w]."""
    semantic = torch.randn(2, channels, *grid, dtype=torch.float64) + torch.randn(channels, 1, 1, dtype=torch.float64)
    return semantic, min_max(torch.rand(2, *grid, dtype=torch.float64))


def has_finite_gradient(x: Tensor) -> bool:
    return x.grad is not None and bool(x.grad.isfinite().all())


def plain_laplacian(rows: int, columns: int) -> Tensor:
    count = rows * columns
    adjacency = torch.zeros(count, count, dtype=torch.float64)
    for i in range(count):
        for j in range(count):
            apart = abs(i // columns - j // columns) + abs(i % columns - j % columns)
            adjacency[i, j] = float(apart == 1)
    return torch.diag(adjacency.sum(dim=1)) - adjacency


def plain_block(
    semantic: Tensor, activation: Tensor, weight: Tensor, ratio: Tensor, steps: int, through_start: bool = False
) -> tuple[Tensor, Tensor]:
    vectors = semantic.flatten(2).transpose(1, 2)
    similarity = F.cosine_similarity(vectors[:, :, None], vectors[:, None], dim=-1)
    laplacian = plain_laplacian(*semantic.shape[-2:]) * (weight * similarity - 1)
    inverse = 0.002 * (laplacian if through_start else laplacian.detach()).mT
    for _ in range(steps):
        inverse = inverse @ (2 * torch.eye(laplacian.shape[-1]) - laplacian @ inverse)
    flat = activation.flatten(1)
    diffused = (inverse @ flat[:, :, None])[:, :, 0]
    shrunk = F.tanhshrink(diffused / (ratio * flat.amax(dim=1, keepdim=True)))
    low, high = shrunk.amin(dim=1, keepdim=True), shrunk.amax(dim=1, keepdim=True)
    filtered = ((shrunk - low) / (high - low)).view_as(activation)
    return semantic + semantic * filtered[:, None], activation + filtered


def stencil_block(
    semantic: Tensor, activation: Tensor, weight: Tensor, ratio: Tensor, steps: int, through_start: bool = False
) -> tuple[Tensor, Tensor]:
    laplacian = semantic_laplacian(neighbour_similarity(semantic), weight)
    diffused = diffuse(laplacian, activation, steps, 0.002, through_start)
    filtered = soft_filter(diffused, ratio * activation.amax(dim=(1, 2), keepdim=True))
    return semantic + semantic * filtered[:, None], activation + filtered


def values_and_gradients(block: Any, semantic: Tensor, activation: Tensor, *rest: Any) -> list[Tensor]:
    """Return both outputs of a block, and the gradients of a fixed mixture of them to all inputs."""
    inputs = [semantic, activation, torch.tensor(0.9).double(), torch.tensor(0.4).double()]
    inputs = [x.clone().requires_grad_() for x in inputs]
    outputs = block(*inputs, *rest)
    mixture = sum((x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).cos().view_as(x)).sum() for x in outputs)
    return [*(x.detach() for x in outputs), *torch.autograd.grad(mixture, inputs)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("through_start", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 9])
def test_a_block_and_its_gradients_equal_the_dense_form(grid: tuple[int, int], steps: int, through_start: bool) -> None:
    semantic, activation = maps_on(grid)
    expected = values_and_gradients(plain_block, semantic, activation, steps, through_start)
    actual = values_and_gradients(stencil_block, semantic, activation, steps, through_start)
    for mine, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7 * float(theirs.abs().max()) + 1e-9)


@pytest.mark.parametrize("steps", [4, 12])
def test_float32_is_close_to_float64(steps: int) -> None:
    semantic, activation = maps_on((14, 14))
    exact = stencil_block(semantic, activation, torch.tensor(1.0), torch.tensor(0.5), steps)
    rough = stencil_block(semantic.float(), activation.float(), torch.tensor(1.0), torch.tensor(0.5), steps)
    torch.testing.assert_close(rough[1].double(), exact[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_grid_laplacian_is_degree_minus_adjacency(grid: tuple[int, int]) -> None:
    stencil = grid_laplacian(*grid, torch.zeros((), dtype=torch.float64))[None]
    assert torch.equal(dense(stencil)[0], plain_laplacian(*grid))


@pytest.mark.parametrize("grid", GRIDS)
def test_similarities_of_neighbours_are_cosines(grid: tuple[int, int]) -> None:
    semantic, _ = maps_on(grid)
    vectors = semantic.flatten(2).transpose(1, 2)
    cosines = F.cosine_similarity(vectors[:, :, None], vectors[:, None], dim=-1)
    neighbours = plain_laplacian(*grid) != 0
    torch.testing.assert_close(dense(neighbour_similarity(semantic)), cosines * neighbours)


def test_a_zero_patch_vector_has_similarity_zero_and_a_finite_gradient() -> None:
    semantic, _ = maps_on((3, 3))
    semantic[:, :, 1, 1] = 0
    semantic.requires_grad_()
    similarity = neighbour_similarity(semantic)
    similarity.square().sum().backward()
    assert similarity[:, 0, 1, 1].eq(0).all()
    assert similarity[:, 0, 0, 0].eq(1).all()
    assert similarity[:, 1, 1, :2].eq(0).all()
    assert similarity[:, 2, :2, 1].eq(0).all()
    assert has_finite_gradient(semantic)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanhshrink_is_accurate_near_zero(dtype: torch.dtype) -> None:
    x = torch.logspace(-4, 1.5, 200, dtype=torch.float64).to(dtype).requires_grad_()
    exact = x.detach().double()
    series = exact**3 / 3 - 2 * exact**5 / 15 + 17 * exact**7 / 315 - 62 * exact**9 / 2835
    expected = torch.where(exact < 0.05, series, exact - exact.tanh())
    shrunk = tanhshrink(x)
    tolerance = 5e-7 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(shrunk.detach().double(), expected, rtol=tolerance, atol=0)
    assert torch.equal(tanhshrink(-x), -shrunk)
    (slope,) = torch.autograd.grad(shrunk.sum(), x)
    torch.testing.assert_close(slope.double(), exact.tanh().square(), rtol=1e-6, atol=0)


def test_min_max_of_a_constant_map_is_zero_with_a_finite_gradient() -> None:
    constant = torch.full((1, 2, 3), 0.7, requires_grad=True)
    scaled = min_max(constant)
    scaled.sum().backward()
    assert scaled.eq(0).all()
    assert has_finite_gradient(constant)


def test_second_derivatives_are_refused() -> None:
    semantic, activation = maps_on((3, 3))
    weight = torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    diffused = diffuse(semantic_laplacian(neighbour_similarity(semantic), weight), activation, 2, 0.002)
    (slope,) = torch.autograd.grad(diffused.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.backward()


def test_diffusion_on_a_single_patch_is_refused() -> None:
    semantic, _ = maps_on((1, 1))
    with pytest.raises(ValueError, match=r"at least two neighbouring patches; got a grid of 1 x 1"):
        semantic_laplacian(neighbour_similarity(semantic), torch.tensor(1.0))


def plain_training_pass(scm: SCM, images: Tensor, steps: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Return S^l and F^l of every block, each with its own similarities."""
    features = scm.backbone(images, FeatureRequest(class_attention=True))
    semantic = scm.head(features.patch_map())
    semantics, attentions = [semantic], [scm.attention_map(features).to(semantic.dtype)]
    for weight, ratio, p in zip(scm.similarity_weight, scm.threshold, steps, strict=True):
        semantic, attention = plain_block(semantics[-1], attentions[-1], weight, ratio, p)
        semantics.append(semantic)
        attentions.append(attention)
    return semantics, attentions


@pytest.fixture
def unequal() -> SCM:
    """Return a model in float64 with different parameters in each block."""
    scm = small_model("scm", blocks=3, steps=[7, 4, 2]).double()
    with torch.no_grad():
        scm.similarity_weight.copy_(torch.tensor([1.0, 0.9, 1.1]))
        scm.threshold.copy_(torch.tensor([0.5, 0.4, 0.6]))
    return scm


def test_the_training_pass_equals_dense_blocks_in_sequence(unequal: SCM) -> None:
    parameters = [unequal.similarity_weight, unequal.threshold, unequal.head.weight, unequal.backbone.pos_embed]
    results = []
    for logits in (
        unequal(IMAGES.double()).logits,
        plain_training_pass(unequal, IMAGES.double(), [7, 4, 2])[0][-1].mean(dim=(2, 3)),
    ):
        loss = F.cross_entropy(logits, torch.tensor([3, 0]))
        results.append([logits, *torch.autograd.grad(loss, parameters)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
        assert theirs.abs().min() > 0 or theirs.ndim > 1


def test_diffusion_maps_of_each_block(unequal: SCM) -> None:
    classes = torch.tensor([[4, 0], [1, 1]])
    semantics, attentions = plain_training_pass(unequal, IMAGES.double(), [7, 4, 2])
    semantic, attention = unequal.diffusion_maps(IMAGES.double(), classes)
    assert semantic.shape == (2, 4, 2, 4, 3)
    assert attention.shape == (2, 4, 4, 3)
    for level in range(4):
        torch.testing.assert_close(attention[:, level], attentions[level])
        for image in range(2):
            torch.testing.assert_close(semantic[image, level], semantics[level][image, classes[image]])
    intermediate = unequal.intermediate_maps(IMAGES.double(), classes[:, 0])
    assert list(intermediate) == ["F0", "S0", "F1", "S1", "F2", "S2", "F3", "S3"]
    torch.testing.assert_close(intermediate["F2"], attention[:, 2])
    torch.testing.assert_close(intermediate["S3"], semantic[:, 3, 0])


def test_inference_runs_no_block_and_uses_tscams_code(monkeypatch: pytest.MonkeyPatch) -> None:
    scm = small_model("scm")
    assert SCM.class_maps is TSCAM.class_maps
    monkeypatch.setattr(SCM, "_calibrate", None)
    classes = torch.arange(5).repeat(2, 1)
    logits, maps = scm.localize(IMAGES, classes)
    features = scm.backbone(IMAGES, FeatureRequest(class_attention=True))
    semantic = scm.head(features.patch_map())
    attention = features.class_attention.mean(dim=1).reshape(2, 4, 3)
    low, high = attention.amin(dim=(1, 2), keepdim=True), attention.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(maps, ((attention - low) / (high - low))[:, None] * semantic)
    torch.testing.assert_close(logits, semantic.mean(dim=(2, 3)))


def test_learned_scalars_are_logged_by_name() -> None:
    scm = small_model("scm", blocks=2)
    with torch.no_grad():
        scm.similarity_weight[1] = 0.75
    expected = {"similarity_weight/block_1": 1.0, "similarity_weight/block_2": 0.75}
    assert scm.scalars() == {**expected, "threshold/block_1": 0.5, "threshold/block_2": 0.5}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_blocks_run_in_float32(dtype: torch.dtype) -> None:
    scm = small_model("scm")
    with torch.autocast("cpu", dtype):
        logits = scm(IMAGES).logits
        features = scm.backbone(IMAGES, FeatureRequest(class_attention=True))
        semantic = scm.head(features.patch_map())
    assert semantic.dtype == dtype
    gains, _ = scm._calibrate(semantic.float(), scm.attention_map(features))
    assert gains[-1].dtype == logits.dtype == torch.float32
    torch.testing.assert_close(logits, (semantic.float() * gains[-1][:, None]).mean(dim=(2, 3)))
    logits.square().sum().backward()
    assert has_finite_gradient(scm.similarity_weight)


def test_a_model_in_half_precision_trains() -> None:
    scm = small_model("scm").to(torch.bfloat16)
    logits = scm(IMAGES.to(torch.bfloat16)).logits
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert has_finite_gradient(scm.threshold)


def test_zero_attention_changes_nothing() -> None:
    scm = small_model("scm", blocks=2, steps=3)
    semantic, _ = maps_on((3, 4))
    semantic = semantic.float().requires_grad_()
    gains, attentions = scm._calibrate(semantic, torch.zeros(2, 3, 4))
    assert gains[-1].eq(1).all()
    assert attentions[-1].eq(0).all()
    gains[-1].sum().backward()
    assert has_finite_gradient(semantic)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, r"blocks, the number of diffusion blocks, must be at least 1; got 0 \(use tscam for 0\)"),
        ({"steps": 0}, r"steps \(of Newton-Schulz\) must be whole numbers from 1 to 24; got 0"),
        ({"steps": [4, 4, 4, 25]}, r"from 1 to 24; got 25"),
        ({"steps": [4, 4, 4, 2.5]}, r"from 1 to 24; got 2\.5"),
        ({"steps": True}, r"from 1 to 24; got True"),
        ({"steps": [4, 4]}, r"one for each of the 4 diffusion blocks .*; got \[4, 4\], 2 numbers"),
        ({"start_scale": 0.0}, r"start_scale \(alpha in X_0 = alpha L\^T\) must be positive; got 0\.0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_model("scm", **options)


def test_the_maps_of_figures_8_and_9() -> None:
    scm = small_model("scm")
    classes = torch.tensor([3, 1])
    semantic, attention = scm.diffusion_maps(IMAGES, classes[:, None])
    maps = scm.figure_maps(IMAGES, classes)
    assert len(maps) == 5 + 25
    for k, level in ((0, 0), (1, 3), (4, 2)):
        torch.testing.assert_close(maps[f"F{k} S{level}"], attention[:, k] * semantic[:, level, 0])
    laplacian = dense(semantic_laplacian(neighbour_similarity(scm._run_blocks(IMAGES)[1]), scm.similarity_weight[0]))
    inverse = scm.start_scale * laplacian.mT
    for p in range(1, 6):
        inverse = 2 * inverse - inverse @ laplacian @ inverse
        expected = (inverse @ attention[:, 0].flatten(1)[:, :, None]).reshape(attention[:, 0].shape)
        torch.testing.assert_close(maps[f"p = {p}"], expected)
