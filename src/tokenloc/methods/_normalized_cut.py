"""Normalized cut of patch graphs (Shi and Malik 2000), as TokenCut makes them (Wang et al., CVPR 2022); batched."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc.backbones import as_map

Edges = Literal["binary", "cosine"]

WEAK_EDGE = 1e-5
# An eigenvector of unit length is taken where its residual is below TOLERANCE.
TOLERANCE = 1e-9
# Dimension of the Krylov space: in float32, and in each round in float64, after which the images that converged leave.
START, ROUNDS = 12, (5, 10, 40)


def eigenvector_maps(keys: Tensor, grid: tuple[int, int], tau: float = 0.2, edges: Edges = "binary") -> Tensor:
    """Return the map in which each image's patch graph is cut best.

    Args:
        keys: of the patches, [B, N, D] float; N = h * w, row by row.
        grid: (h, w).
        tau: see ``patch_graph``.
        edges: see ``patch_graph``.

    Returns:
        [B, h, w] float32: the second smallest eigenvector of (D - W) v = mu D v with v' D v = 1, its largest absolute
        value positive; 0 everywhere where all edges of the graph are equal, so that no cut is better than another.

    Raises:
        ValueError: keys that are not finite, naming their images.
    """
    graph = patch_graph(keys.cpu() if keys.device.type == "mps" else keys, tau, edges)  # Apple's GPUs lack float64
    return as_map(toward_peak(second_eigenvectors(graph)), grid).to(keys.device, torch.float32)


def patch_graph(keys: Tensor, tau: float, edges: Edges) -> Tensor:
    """Return the weights W [B, N, N] float64 of the graph whose nodes are patches.

    Args:
        keys: [B, N, D] float.
        tau: patches whose keys have a cosine above tau, in [0, 1), are joined; all others are by 1e-5.
        edges: the weight of a join: ``binary`` 1 (TokenCut), or ``cosine`` the cosine itself.

    Raises:
        ValueError: keys that are not finite, naming their images.
    """
    with torch.autocast(keys.device.type, enabled=False):
        unit = F.normalize(keys.float(), dim=-1)
        _require_finite(unit)
        cosine = unit @ unit.mT
    weights = cosine.double() if edges == "cosine" else torch.ones_like(cosine, dtype=torch.float64)
    return weights.masked_fill_(cosine <= tau, WEAK_EDGE)


@torch.no_grad()
def second_eigenvectors(weights: Tensor) -> Tensor:
    """Return the second smallest eigenvector of (D - W) v = mu D v of each graph; D is the diagonal of W's row sums.

    With u = D^(1/2) v it is the largest eigenvector of D^(-1/2) W D^(-1/2) beside the known one, D^(1/2) 1. It alone is
    computed: by Rayleigh-Ritz on Krylov bases for all graphs at once, first in float32, then in float64 until
    the residual is below 1e-9. A graph that takes too long is solved by a full eigendecomposition.

    Args:
        weights: W [B, N, N] float64, symmetric, positive.

    Returns:
        [B, N] float64, v' D v = 1, of either sign; the same on every call. 0 where all weights between different nodes
        are equal (or there is one node only): then no vector is second.
    """
    roots = weights.sum(dim=-1).sqrt()
    vectors = _start(roots)
    vectors, _ = _largest(weights.float(), roots.float(), vectors.float(), START)
    vectors, open_ = vectors.double(), torch.arange(len(weights), device=weights.device)
    for steps in ROUNDS:
        now = (
            (weights, roots, vectors) if len(open_) == len(weights) else (weights[open_], roots[open_], vectors[open_])
        )
        vectors[open_], residuals = _largest(*now, steps)
        open_ = open_[residuals > TOLERANCE]
        if not len(open_):
            break
    else:
        vectors[open_] = _largest_dense(weights[open_], roots[open_])
    return torch.where(_all_equal(weights)[:, None], 0.0, vectors / roots)


def toward_peak(vectors: Tensor) -> Tensor:
    """Return ``vectors`` [B, N], each with the sign that makes its largest absolute value positive (TokenCut).

    >>> toward_peak(torch.tensor([[1.0, -3.0, 2.0]])).tolist()
    [[-1.0, 3.0, -2.0]]
    """
    peaks = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return torch.where(peaks < 0, -vectors, vectors)


def facing(maps: Tensor, region: Tensor) -> Tensor:
    """Return ``maps``, each with the sign whose high side ``region`` fills better than the low (LCAR, Eqs. 10, 11).

    Args:
        maps: [..., h, w]; its high side is what exceeds its mean.
        region: [..., h, w] bool, where the object is thought to be; broadcasts with ``maps``.

    Returns:
        maps or -maps, one by one, of the common shape; where both sides are filled alike the sign stays.
    """
    high = maps > maps.mean(dim=(-2, -1), keepdim=True)
    on_high, on_low = (_filled(side, region) for side in (high, ~high))
    return torch.where(on_high < on_low, -maps, maps)


def _filled(side: Tensor, region: Tensor) -> Tensor:
    """Return the share of ``side`` that ``region`` fills, [..., 1, 1]; 0 of an empty side."""
    area = side.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
    return (side & region).sum(dim=(-2, -1), keepdim=True) / area


def object_masks(maps: Tensor) -> Tensor:
    """Return TokenCut's object of each map [B, h, w]: what exceeds the mean and is connected to the largest value.

    Patches connect over their four sides.

    Returns:
        [B, h, w] bool; all False where the map is constant.
    """
    above = (maps > maps.mean(dim=(1, 2), keepdim=True)).float()[:, None]
    seeds = F.one_hot(maps.flatten(1).argmax(dim=1), maps[0].numel()).view_as(above)
    grown, reached = seeds * above, torch.zeros_like(above)
    while not torch.equal(grown, reached):
        reached = grown
        upright, across = F.max_pool2d(grown, (3, 1), 1, (1, 0)), F.max_pool2d(grown, (1, 3), 1, (0, 1))
        grown = torch.maximum(upright, across) * above
    return reached[:, 0] > 0


def _largest(weights: Tensor, roots: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvector u of D^(-1/2) W D^(-1/2) beside D^(1/2) 1 in a Krylov space.

    Args:
        weights: [B, N, N].
        roots: D^(1/2) 1, [B, N].
        start: where the space begins, [B, N].
        steps: its dimension.

    Returns:
        u [B, N] of unit length, and the lengths [B] of what its eigen-equation lacks.
    """
    batch, nodes = roots.shape
    noise = 100 * torch.finfo(roots.dtype).eps  # what is shorter is of rounding
    basis = roots.new_zeros(batch, steps + 1, nodes)
    images = roots.new_zeros(batch, steps, nodes)
    basis[:, 0] = F.normalize(roots, dim=1)
    added, alive = start, []
    for step in range(steps):
        known = basis[:, : step + 1]
        for _ in range(2):  # a second pass removes what rounding left
            added = added - (added[:, None] @ known.mT @ known)[:, 0]
        length = added.norm(dim=1, keepdim=True)
        alive.append(length > noise)
        basis[:, step + 1] = torch.where(alive[-1], added / length.clamp_min(noise), 0.0)
        images[:, step] = ((basis[:, step + 1] / roots)[:, None] @ weights)[:, 0] / roots
        added = images[:, step]
    return _ritz(basis[:, 1:], images, torch.cat(alive, dim=1))


def _ritz(basis: Tensor, images: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest Ritz vectors [B, N] and their residuals [B].

    Args:
        basis: [B, M, N], orthonormal rows, or 0 where ``alive`` [B, M] is False.
        images: the matrix times each of them, [B, M, N].
        alive: which rows span the space.
    """
    projected = basis @ images.mT
    projected = (projected + projected.mT) / 2 - 2 * torch.diag_embed((~alive).to(basis.dtype))
    values, vectors = torch.linalg.eigh(projected)
    largest = vectors[:, :, -1:].mT
    vector = (largest @ basis)[:, 0]
    return vector, ((largest @ images)[:, 0] - values[:, -1:] * vector).norm(dim=1)


def _largest_dense(weights: Tensor, roots: Tensor) -> Tensor:
    """Return u [B, N] by full eigendecompositions; the known eigenvector is moved from 1 to -1."""
    known = F.normalize(roots, dim=1)
    matrix = weights / (roots[:, :, None] * roots[:, None]) - 2 * known[:, :, None] * known[:, None]
    vectors: Tensor = torch.linalg.eigh(matrix)[1]
    return vectors[:, :, -1]


def _start(roots: Tensor) -> Tensor:
    """Return the same random vectors on every call and device, [B, N]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(roots.shape[1], generator=generator, dtype=torch.float64).to(roots.device).expand_as(roots)


def _all_equal(weights: Tensor) -> Tensor:
    """Tell for each graph if all weights between different nodes are equal, [B]."""
    nodes = weights.shape[-1]
    between = weights.sum(dim=(1, 2)) - weights.diagonal(dim1=1, dim2=2).sum(dim=1)
    return between <= nodes * (nodes - 1) * weights.amin(dim=(1, 2)) * (1 + 1e-6)


def _require_finite(unit: Tensor) -> None:
    bad = ~unit.sum(dim=(1, 2)).isfinite()  # of unit vectors: one pass, without overflow
    if bad.any():
        raise ValueError(
            f"the keys of images {bad.nonzero()[:, 0].tolist()} of the batch (of {len(unit)}) have values that are not "
            "finite; look for an overflow in the backbone (half precision, a diverged training)"
        )
