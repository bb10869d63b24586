"""SAT against a dense implementation of the paper's equations, and its losses against loops."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tokenloc.backbones import ViT, create_backbone
from tokenloc.methods.sat import (
    SAT,
    Padding,
    area_loss,
    gaussian_filtered,
    normalization_loss,
    spatial_block_indices,
    weighted_entropy,
)

SMALL = {"embed_dim": 24, "num_heads": 2, "depth": 6}


def small_backbone(**options: Any) -> ViT:
    backbone, _ = create_backbone("vit_tiny_patch16_224", False, (64, 48), **{**SMALL, **options})
    assert isinstance(backbone, ViT)
    return backbone.eval()


def sat(**options: Any) -> SAT:
    """Return a model with large tokens and weights, so that its gates differ."""
    model = SAT(small_backbone(), 3, **options).eval()
    for name, parameter in model.backbone.named_parameters():
        if "qkv" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    for parameter in (model.loc_token, model.loc_embed, model.backbone.cls_token):
        if parameter is not None:
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 48)


@pytest.fixture
def maps() -> Tensor:
    return torch.rand(4, 5, 3, dtype=torch.float64)


def dense_attention(attention: Any, tokens: Tensor, asking: int | None, dot: str) -> tuple[Tensor, Tensor]:
    """Compute the full attention matrix, gated by the token with index ``asking``."""
    batch, count, width = tokens.shape
    heads = attention.num_heads
    fused = attention.qkv(tokens).reshape(batch, count, 3, heads, width // heads)
    queries, keys, values = fused.permute(2, 0, 3, 1, 4)
    scores = queries @ keys.transpose(-2, -1) / math.sqrt(width // heads)
    gate = torch.sigmoid(scores[:, :, 0 if asking is None else asking].mean(dim=1))
    column = gate[:, None, None, :]
    if asking is not None and dot == "before_softmax":
        weights = (scores * column).softmax(dim=-1)
    elif asking is not None:
        weights = scores.softmax(dim=-1) * column
    else:
        weights = scores.softmax(dim=-1)
    return attention.proj((weights @ values).transpose(1, 2).reshape(batch, count, width)), gate


def assert_dense(model: SAT, images: Tensor, blocks: tuple[int, ...], asking: int, dot: str) -> None:
    """Compare logits and map with the dense form; the token with index ``asking`` gates ``blocks``."""
    backbone: Any = model.backbone
    tokens = torch.cat([backbone.cls_token.expand(2, -1, -1), backbone.patch_embed(images).flatten(1, 2)], dim=1)
    tokens = tokens + backbone.pos_embed
    if model.loc_token is not None and model.loc_embed is not None:
        tokens = torch.cat([tokens, (model.loc_token + model.loc_embed).expand(2, -1, -1)], dim=1)
    gates = []
    for index, block in enumerate(backbone.blocks):
        attended, gate = dense_attention(block.attn, block.norm1(tokens), asking if index in blocks else None, dot)
        tokens = tokens + attended
        tokens = tokens + block.mlp(block.norm2(tokens))
        if index in blocks:
            gates.append(gate[:, 1:13].reshape(2, 4, 3))
    patches = backbone.norm(tokens)[:, 1:13].transpose(1, 2).reshape(2, -1, 4, 3)
    output = model(images)
    torch.testing.assert_close(output.logits, model.head(patches).mean(dim=(2, 3)))
    torch.testing.assert_close(output.auxiliary["map"], torch.stack(gates).mean(dim=0))


@pytest.mark.parametrize("dot", ["after_softmax", "before_softmax"])
@pytest.mark.parametrize(("count", "blocks"), [(1, (3,)), (2, (3, 4)), (3, (3, 4, 5)), (5, (1, 2, 3, 4, 5))])
def test_logits_and_map_equal_the_dense_form(images: Tensor, dot: Any, count: int, blocks: tuple[int, ...]) -> None:
    assert_dense(sat(spatial_blocks=count, dot=dot), images, blocks, asking=-1, dot=dot)


def test_the_shared_token_is_the_class_token(images: Tensor) -> None:
    model = sat(token="shared")
    assert (model.loc_token, model.loc_embed) == (None, None)
    assert_dense(model, images, (3, 4, 5), asking=0, dot="after_softmax")


def test_a_pretrained_token_starts_as_a_copy_of_the_class_token() -> None:
    backbone: Any = small_backbone()
    torch.nn.init.normal_(backbone.cls_token)
    model = SAT(backbone, 3, token="pretrained")
    torch.testing.assert_close(model.loc_token, backbone.cls_token)
    assert model.loc_token is not None
    assert model.loc_token.data_ptr() != backbone.cls_token.data_ptr()
    assert not torch.allclose(SAT(backbone, 3).loc_token, backbone.cls_token)


def test_the_attention_baseline_does_not_change_the_features(images: Tensor) -> None:
    model = sat(map="attention")
    output = model(images)
    backbone: Any = model.backbone
    plain = model.head(backbone(images).patch_map()).mean(dim=(2, 3))
    torch.testing.assert_close(output.logits, plain)
    tokens = backbone.embed(images, (4, 3))
    rows = []
    for block in backbone.blocks:
        _, row = dense_attention(block.attn, block.norm1(tokens), None, "after_softmax")
        rows.append(row[:, 1:].reshape(2, 4, 3))
        tokens = block(tokens)
    torch.testing.assert_close(output.auxiliary["map"], torch.stack(rows).mean(dim=0))
    assert {name for name in model.state_dict() if not name.startswith("backbone")} == {"head.weight", "head.bias"}


def test_the_initial_token_is_small_and_random() -> None:
    model = SAT(small_backbone(embed_dim=192), 3)
    assert model.loc_token is not None
    assert 0.01 < float(model.loc_token.detach().std()) < 0.03


def test_the_classification_loss_trains_the_token(images: Tensor) -> None:
    model = sat(area="none", certainty="none")
    model.loss(model(images), torch.tensor([0, 2]))["total"].backward()
    assert model.loc_token is not None
    assert model.loc_token.grad is not None
    assert float(model.loc_token.grad.abs().max()) > 0


def test_all_classes_share_one_map(images: Tensor) -> None:
    model = sat()
    logits, maps = model.localize(images, torch.tensor([[0, 1, 2], [2, 2, 0]]))
    output = model(images)
    torch.testing.assert_close(logits, output.logits)
    torch.testing.assert_close(maps, output.auxiliary["map"][:, None].expand(2, 3, 4, 3))
    gates = model.intermediate_maps(images, torch.tensor([0, 2]))
    assert list(gates) == ["gate of block 4", "gate of block 5", "gate of block 6"]
    torch.testing.assert_close(torch.stack(list(gates.values())).mean(dim=0), maps[:, 0])


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        ({}, {"area", "normalization"}),
        ({"area": "none", "certainty": "none"}, set()),
        ({"certainty": "none"}, {"area"}),
        ({"area": "none"}, {"normalization"}),
        ({"certainty": "entropy"}, {"area", "entropy"}),
    ],
)
def test_loss_terms(images: Tensor, options: dict[str, Any], terms: set[str]) -> None:
    model = sat(**options)
    output, labels = model(images), torch.tensor([1, 0])
    loss = model.loss(output, labels)
    assert set(loss) == terms | {"cross_entropy", "total"}
    torch.testing.assert_close(loss["cross_entropy"], torch.nn.functional.cross_entropy(output.logits, labels))
    total = sum(float(value.detach()) for name, value in loss.items() if name != "total")
    assert float(loss["total"].detach()) == pytest.approx(total)


def test_options_reach_the_losses(images: Tensor) -> None:
    for options in ({"area": "image"}, {"area": "minimal"}, {"area_target": 0.35}):
        model = sat(**options)
        output = model(images)
        expected = area_loss(output.auxiliary["map"], model.area_target, model.area)
        torch.testing.assert_close(model.loss(output, torch.tensor([1, 0]))["area"], expected)
    plain, filtered = (sat(gaussian_filter=wanted) for wanted in (False, True))
    filtered.load_state_dict(plain.state_dict())
    output = plain(images)
    terms = [model.loss(output, torch.tensor([1, 0]))["normalization"].item() for model in (plain, filtered)]
    location = output.auxiliary["map"].detach()
    assert terms == pytest.approx([normalization_loss(location, wanted).item() for wanted in (False, True)])
    assert terms[0] != pytest.approx(terms[1])


def test_area_losses(maps: Tensor) -> None:
    mean = sum(float(value) for value in maps.flatten()) / maps.numel()
    assert area_loss(maps, 0.25).item() == pytest.approx(abs(0.25 - mean))
    maps = torch.stack([torch.full((2, 2), 0.1), torch.full((2, 2), 0.5)])
    assert area_loss(maps, 0.3).item() == pytest.approx(0)
    assert area_loss(maps, 0.3, "image").item() == pytest.approx(0.2)
    assert area_loss(maps, 0.3, "minimal").item() == pytest.approx(0.3)


def test_the_gaussian_filter(maps: Tensor) -> None:
    cell = 49 / 9  # standard deviations; the mass of a standard normal in three such cells, its roots made to sum to 1
    inner = math.erf(cell / 2 / math.sqrt(2))
    outer = (math.erf(3 * cell / 2 / math.sqrt(2)) - inner) / 2
    taps = [math.sqrt(mass) for mass in (outer, inner, outer)]
    taps = [tap / sum(taps) for tap in taps]
    expected = torch.zeros_like(maps)
    for row in range(5):
        for column in range(3):
            for up in (-1, 0, 1):
                for left in (-1, 0, 1):
                    if 0 <= row + up < 5 and 0 <= column + left < 3:
                        weight = taps[up + 1] * taps[left + 1]
                        expected[:, row, column] += weight * maps[:, row + up, column + left]
    torch.testing.assert_close(gaussian_filtered(maps), expected, atol=1e-7, rtol=0)


def test_padding_of_the_gaussian_filter(maps: Tensor) -> None:
    bordered = torch.zeros(4, 9, 7, dtype=maps.dtype)
    bordered[:, 2:-2, 2:-2] = maps
    torch.testing.assert_close(gaussian_filtered(maps, "full"), gaussian_filtered(bordered)[:, 1:-1, 1:-1])
    ones = torch.ones(1, 4, 5, dtype=maps.dtype)
    torch.testing.assert_close(gaussian_filtered(ones, "replicate"), ones, atol=1e-7, rtol=0)
    torch.testing.assert_close(
        gaussian_filtered(maps, "replicate")[:, 1:-1, 1:-1], gaussian_filtered(maps)[:, 1:-1, 1:-1]
    )


@pytest.mark.parametrize(("padding", "cheaper"), [("zeros", True), ("replicate", True), ("full", False)])
def test_a_lit_corner_costs_less_than_a_lit_patch_inside(padding: Padding, cheaper: bool) -> None:
    corner, inside = torch.zeros(2, 1, 7, 7, dtype=torch.float64)
    corner[0, 0, 0] = inside[0, 3, 3] = 1
    costs = [normalization_loss(map_, padding=padding).item() for map_ in (corner, inside)]
    assert costs[0] < costs[1] if cheaper else costs[0] == pytest.approx(costs[1])


def test_normalization_is_equation_8(maps: Tensor) -> None:
    for wanted, m in ((False, maps), (True, gaussian_filtered(maps))):
        expected = sum(float(value) * (1 - float(value)) for value in m.flatten()) / m.numel()
        assert normalization_loss(maps, wanted).item() == pytest.approx(expected)
    assert normalization_loss(torch.ones(1, 4, 4), gaussian_filter=False).item() == 0


def test_the_filter_is_precise_under_autocast() -> None:
    maps = torch.rand(2, 14, 14)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(normalization_loss(maps), normalization_loss(maps.double()).float())


def test_weighted_entropy() -> None:
    """As in SAT's Figure 10: highest at 0.5, close to zero at 0.2 and 0.8; with finite gradients at 0 and 1."""
    at = {value: weighted_entropy(torch.full((1, 2, 2), value)).item() for value in (0.0, 0.2, 0.4, 0.5, 0.8, 1.0)}
    assert at[0.5] == pytest.approx(math.log(2))
    assert at[0.4] == pytest.approx(-(0.4 * math.log(0.4) + 0.6 * math.log(0.6)) * math.exp(-0.5))
    assert at[0.2] == pytest.approx(at[0.8])
    assert at[0.8] < 0.01
    assert at[0.0] == pytest.approx(0, abs=1e-9) == at[1.0]
    ends = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    weighted_entropy(ends).backward()
    assert ends.grad is not None
    assert bool(ends.grad.isfinite().all())


def losses_and_gradients(inputs: tuple[Tensor, ...], equal_parts: bool) -> dict[str, tuple[Tensor, Tensor]]:
    """Return each loss and its gradient: of functions of a weight, and of the total of a model."""
    images, labels, values = inputs
    weight = torch.ones(values.shape[1:], dtype=values.dtype, requires_grad=True)
    maps = (values * weight).sigmoid()
    losses = {"area": area_loss(maps, 0.9), "image": area_loss(maps, 0.9, "image")}
    losses |= {"normalization": normalization_loss(maps), "entropy": weighted_entropy(maps)}
    pairs = {name: (loss, torch.autograd.grad(loss, weight, retain_graph=True)[0]) for name, loss in losses.items()}
    if equal_parts:  # the cross-entropy is a mean over each process's own batch
        torch.manual_seed(0)
        model = sat()
        terms = model.loss(model(images), labels)
        pairs["model"] = (terms["area"], torch.autograd.grad(terms["total"], model.get_parameter("loc_token"))[0])
    return {name: (loss.detach(), gradient) for name, (loss, gradient) in pairs.items()}


def run_process(rank: int, folder: str) -> None:
    """Store averaged gradients of a split batch: a half or a quarter of it on the first process."""
    timeout = timedelta(seconds=120)  # if the other process fails
    dist.init_process_group("gloo", f"file://{folder}/store", timeout, world_size=2, rank=rank)
    inputs = torch.load(f"{folder}/inputs", weights_only=True)
    for first in (2, 1):
        part = tuple(tensor[:first] if rank == 0 else tensor[first:] for tensor in inputs)
        pairs = losses_and_gradients(part, equal_parts=first == 2)
        for _, gradient in pairs.values():
            dist.all_reduce(gradient)
            gradient /= 2  # as DistributedDataParallel averages
        torch.save(pairs, f"{folder}/pairs.{first}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    inputs = (torch.randn(4, 3, 64, 48), torch.tensor([0, 2, 1, 1]), torch.randn(4, 3, 2, dtype=torch.float64))
    torch.save(inputs, tmp_path / "inputs")
    command = [sys.executable, __file__, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(2)]
    for process in processes:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    expected = losses_and_gradients(inputs, equal_parts=True)
    assert float(expected["model"][1].abs().max()) > 1e-3
    for first in (2, 1):
        for rank in range(2):
            pairs = torch.load(tmp_path / f"pairs.{first}.{rank}", weights_only=True)
            assert len(pairs) == (5 if first == 2 else 4)
            torch.testing.assert_close(pairs, {name: expected[name] for name in pairs}, atol=1e-7, rtol=1e-4)


def test_too_few_blocks_are_refused() -> None:
    assert spatial_block_indices(1, 4) == (1,)
    with pytest.raises(ValueError, match="spatial_blocks must be at least 1; got 0"):
        spatial_block_indices(0, 12)
    with pytest.raises(ValueError, match=r"spatial_blocks=12 needs .* at least 13 blocks.*got one of 12.*at most 11"):
        spatial_block_indices(12, 12)
    with pytest.raises(ValueError, match=r"spatial_blocks=3 needs .* at least 4 blocks.*got one of 3\. Use a deeper"):
        SAT(small_backbone(depth=3), 3)


@pytest.mark.parametrize("target", [0.0, 1.0, 25.0, math.nan])
def test_an_invalid_area_target_is_refused(target: float) -> None:
    with pytest.raises(ValueError, match=f"area_target is a fraction.*got {target}"):
        sat(area_target=target)


@pytest.mark.parametrize("option", ["map", "token", "dot", "area", "certainty"])
def test_unknown_option_values_are_refused(option: str) -> None:
    with pytest.raises(ValueError, match=f"unknown {option} 'patch'.*Valid: "):
        sat(**{option: "patch"})


@pytest.mark.parametrize("option", [{"token": "shared"}, {"dot": "before_softmax"}, {"spatial_blocks": 2}])
def test_the_attention_baseline_takes_no_token_options(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"map='attention' has no spatial token.*leave them out"):
        sat(map="attention", **option)


@pytest.mark.parametrize("option", [{"token": "shared"}, {"token": "pretrained"}, {"map": "attention"}])
def test_a_missing_class_token_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"has no class token, which sat with map=.* needs; choose"):
        SAT(small_backbone(class_token=False, global_pool="avg"), 3, **option)


if __name__ == "__main__":
    run_process(rank=int(sys.argv[2]), folder=sys.argv[1])


@pytest.mark.parametrize("options", [{"spatial_blocks": 1}, {"dot": "before_softmax"}])
def test_test_options_have_the_same_weights_and_another_map(options: dict[str, Any], images: Tensor) -> None:
    assert set(options) <= set(SAT.test_options)
    trained, other = sat(), sat(**options)
    other.load_state_dict(trained.state_dict())
    with torch.no_grad():
        assert not torch.allclose(other(images).auxiliary["map"], trained(images).auxiliary["map"])
