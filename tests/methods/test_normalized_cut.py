"""The normalized cut against scipy, one graph at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from scipy.ndimage import label
from torch import Tensor

from tokenloc.methods import _normalized_cut as cut


def clusters(batch: int, nodes: int, spread: float, seed: int = 0) -> Tensor:
    """Return keys [B, N, 16] of a large and a small group of patches."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(batch, 2, 16, generator=generator)
    member = (torch.rand(batch, nodes, generator=generator) < 0.3).long()
    noise = spread * torch.randn(batch, nodes, 16, generator=generator)
    return centres.gather(1, member[:, :, None].expand(-1, -1, 16)) + noise


def assert_as_scipy(vectors: Tensor, weights: Tensor, tolerance: float = 1e-6) -> None:
    """Compare with the second smallest eigenvector of (D - W) v = mu D v of each graph, up to its sign."""
    for graph, vector in zip(weights.numpy(), vectors.numpy(), strict=True):
        degrees = np.diag(graph.sum(axis=1))
        values, expected = eigh(degrees - graph, degrees)
        if values[2] - values[1] > 1e-4:  # otherwise every mixture of the two is a solution
            assert abs(abs(vector @ degrees @ expected[:, 1]) - 1) < tolerance
        assert vector @ degrees @ vector == pytest.approx(1)
        assert vector @ (degrees - graph) @ vector == pytest.approx(values[1], abs=tolerance)


@pytest.mark.parametrize("edges", ["binary", "cosine"])
@pytest.mark.parametrize("nodes", [4, 9, 70])
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_eigenvectors_equal_scipys(edges: cut.Edges, nodes: int, spread: float) -> None:
    weights = cut.patch_graph(clusters(5, nodes, spread), 0.2, edges)
    weights = weights[~cut._all_equal(weights)]
    assert len(weights) >= 3
    assert_as_scipy(cut.second_eigenvectors(weights), weights)


def test_the_weights_of_the_graph() -> None:
    keys = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(3))
    for edges in ("binary", "cosine"):
        weights = cut.patch_graph(keys, 0.1, edges)
        for image in range(2):
            for i in range(7):
                for j in range(7):
                    a, b = keys[image, i], keys[image, j]
                    cosine = float(a @ b / (a.norm() * b.norm()))
                    strong = 1.0 if edges == "binary" else cosine
                    assert weights[image, i, j].item() == pytest.approx(strong if cosine > 0.1 else 1e-5, abs=1e-6)


def test_weakly_connected_parts_are_separated() -> None:
    weights = torch.full((1, 40, 40), 1e-5, dtype=torch.float64)
    weights[:, :28, :28] = 1
    weights[:, 28:, 28:] = 1
    vectors = cut.oriented_to_peak(cut.second_eigenvectors(weights))
    assert_as_scipy(vectors, weights)
    assert (vectors[0, 28:] > 0).all()
    assert (vectors[0, :28] < 0).all()


def test_graphs_that_do_not_converge_get_a_full_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = cut.patch_graph(clusters(4, 50, 1.0), 0.2, "binary")
    solved: list[int] = []
    whole = cut._largest_dense
    monkeypatch.setattr(cut, "FLOAT32_STEPS", 1)
    monkeypatch.setattr(cut, "FLOAT64_STEPS", (1,))
    monkeypatch.setattr(cut, "_largest_dense", lambda w, roots: (solved.append(len(w)), whole(w, roots))[1])
    assert_as_scipy(cut.second_eigenvectors(weights), weights, tolerance=1e-9)
    assert solved == [4]


def test_most_graphs_need_no_full_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cut, "_largest_dense")
    weights = cut.patch_graph(clusters(16, 196, 1.0), 0.2, "cosine")
    assert_as_scipy(cut.second_eigenvectors(weights), weights, tolerance=1e-5)


@pytest.mark.parametrize("keys", [torch.ones(1, 12, 6), torch.eye(12)[None]], ids=["identical", "orthogonal"])
@pytest.mark.parametrize("edges", ["binary", "cosine"])
def test_the_map_of_an_image_without_a_best_cut_is_zero(keys: Tensor, edges: cut.Edges) -> None:
    others = clusters(2, 12, 0.5)[:, :, : keys.shape[2]]
    maps = cut.eigenvector_maps(torch.cat([others[:1], keys, others[1:]]), (3, 4), 0.2, edges)
    assert maps[1].eq(0).all()
    torch.testing.assert_close(maps[[0, 2]], cut.eigenvector_maps(others, (3, 4), 0.2, edges), rtol=0, atol=1e-6)
    assert maps[[0, 2]].abs().amax(dim=(1, 2)).gt(0).all()


def test_the_map_of_a_single_patch_is_zero() -> None:
    assert cut.eigenvector_maps(torch.randn(2, 1, 6), (1, 1)).tolist() == [[[0.0]], [[0.0]]]


def test_maps_are_deterministic_and_hardly_depend_on_the_batch() -> None:
    keys = clusters(6, 49, 1.0)
    maps = cut.eigenvector_maps(keys, (7, 7))
    assert torch.equal(maps, cut.eigenvector_maps(keys, (7, 7)))
    alone = torch.cat([cut.eigenvector_maps(key[None], (7, 7)) for key in keys])
    torch.testing.assert_close(maps, alone, rtol=0, atol=1e-6)


def test_maps_are_equivariant_to_the_order_of_patches() -> None:
    keys, order = clusters(3, 30, 1.0), torch.randperm(30, generator=torch.Generator().manual_seed(5))
    maps, shuffled = (cut.eigenvector_maps(x, (1, 30))[:, 0] for x in (keys, keys[:, order]))
    torch.testing.assert_close(shuffled, maps[:, order], rtol=0, atol=1e-6)


def test_keys_that_are_not_finite_are_refused() -> None:
    keys = torch.randn(4, 9, 6)
    keys[1, 3, 2], keys[3, 0, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"keys of images \[1, 3\] of the batch \(of 4\).*not finite.*half precision"):
        cut.eigenvector_maps(keys, (3, 3))


def test_autocast_does_not_change_the_graph() -> None:
    keys = clusters(2, 20, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = cut.eigenvector_maps(keys, (4, 5), 0.0, "cosine")
    torch.testing.assert_close(cast, cut.eigenvector_maps(keys, (4, 5), 0.0, "cosine"), rtol=0, atol=0)


def test_object_masks_equal_scipys_components() -> None:
    maps = torch.randn(40, 9, 7, generator=torch.Generator().manual_seed(1))
    masks = cut.object_masks(maps)
    for map_, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        parts, _ = label(map_ > map_.mean())
        assert np.array_equal(mask, parts == parts.flat[map_.argmax()])
    assert not cut.object_masks(torch.ones(1, 3, 3)).any()


def test_maps_are_oriented_to_the_region() -> None:
    generator = torch.Generator().manual_seed(2)
    maps, regions = torch.randn(60, 1, 5, 4, generator=generator), torch.rand(60, 3, 5, 4, generator=generator) < 0.4
    chosen = cut.oriented(maps, regions)
    unchanged = 0
    for image in range(60):
        values = maps[image, 0].numpy()
        high = (values > values.mean()).astype(float)
        for index in range(3):
            seed = regions[image, index].numpy()
            ratio_high, ratio_low = (high * seed).sum() / high.sum(), ((1 - high) * seed).sum() / (1 - high).sum()
            expected = -values if ratio_high < ratio_low else values
            assert np.array_equal(chosen[image, index].numpy(), expected)
            unchanged += ratio_high > ratio_low
    assert 60 < unchanged < 120
    assert torch.equal(cut.oriented(maps[0], torch.zeros(5, 4, dtype=torch.bool)), maps[0])  # no region: same sign
