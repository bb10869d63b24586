"""Normalized cuts (Shi and Malik 2000) of patch graphs as in TokenCut (Wang et al., CVPR 2022), batched."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc.backbones import as_map

Edges = Literal["binary", "cosine"]

WEAK_EDGE = 1e-5  # the weight between patches that are not connected
TOLERANCE = 1e-9  # residual below which an eigenvector of unit length is accepted
# Dimensions of the Krylov space: in float32, then in rounds of float64, each for the graphs that have not converged.
FLOAT32_STEPS, FLOAT64_STEPS = 12, (5, 10, 40)


def eigenvector_maps(keys: Tensor, grid: tuple[int, int], tau: float = 0.2, edges: Edges = "binary") -> Tensor:
    """Return ``second_eigenvectors`` of each ``patch_graph`` [B, h, w] float32, the largest absolute value positive."""
    graph = patch_graph(keys.cpu() if keys.device.type == "mps" else keys, tau, edges)  # Apple's GPUs lack float64
    return as_map(oriented_to_peak(second_eigenvectors(graph)), grid).to(keys.device, torch.float32)


def patch_graph(keys: Tensor, tau: float, edges: Edges) -> Tensor:
    """Return the weights W [B, N, N] float64 of the graph whose nodes are the patches, from their ``keys`` [B, N, D].

    Patches whose keys have a cosine above ``tau`` are connected, with weight 1 (``binary``) or the cosine. Raises
    ValueError if keys are not finite.
    """
    with torch.autocast(keys.device.type, enabled=False):
        unit = F.normalize(keys.float(), dim=-1)
        bad = ~unit.sum(dim=(1, 2)).isfinite()  # a sum of unit vectors cannot overflow
        if bad.any():
            raise ValueError(
                f"the keys of images {bad.nonzero()[:, 0].tolist()} of the batch (of {len(unit)}) have values that are "
                "not finite; check the backbone for an overflow (half precision, a diverged training)"
            )
        cosine = unit @ unit.mT
    weights = cosine.double() if edges == "cosine" else torch.ones_like(cosine, dtype=torch.float64)
    return weights.masked_fill_(cosine <= tau, WEAK_EDGE)


@torch.no_grad()
def second_eigenvectors(weights: Tensor) -> Tensor:
    """Return the second smallest eigenvector of (D - W) v = mu D v of each graph; D is the diagonal of W's row sums.

    With u = D^(1/2) v it is the largest eigenvector of D^(-1/2) W D^(-1/2) orthogonal to the known one, D^(1/2) 1. Only
    this vector is computed: by Rayleigh-Ritz on Krylov bases of all graphs at once, first in float32, then in float64
    until the residual is below 1e-9. Graphs that do not converge get a full eigendecomposition.

    W is [B, N, N] float64, symmetric and positive. The result is [B, N] float64 with v' D v = 1, of arbitrary but
    deterministic sign; 0 if all weights between different nodes are equal, so that no second vector is unique.
    """
    roots = weights.sum(dim=-1).sqrt()
    generator = torch.Generator().manual_seed(0)  # the same start on every call and device
    start = torch.randn(roots.shape[1], generator=generator, dtype=torch.float64).to(roots).expand_as(roots)
    vectors, _ = _largest(weights.float(), roots.float(), start.float(), FLOAT32_STEPS)
    vectors, pending = vectors.double(), torch.arange(len(weights), device=weights.device)
    for steps in FLOAT64_STEPS:
        graphs = (weights, roots, vectors)
        if len(pending) < len(weights):
            graphs = (weights[pending], roots[pending], vectors[pending])
        vectors[pending], residuals = _largest(*graphs, steps)
        pending = pending[residuals > TOLERANCE]
        if not len(pending):
            break
    else:
        vectors[pending] = _largest_dense(weights[pending], roots[pending])
    return torch.where(_all_equal(weights)[:, None], 0.0, vectors / roots)


def oriented_to_peak(vectors: Tensor) -> Tensor:
    """Return ``vectors`` [B, N], each with the sign that makes its largest absolute value positive (TokenCut).

    >>> oriented_to_peak(torch.tensor([[1.0, -3.0, 2.0]])).tolist()
    [[-1.0, 3.0, -2.0]]
    """
    peaks = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    return torch.where(peaks < 0, -vectors, vectors)


def oriented(maps: Tensor, region: Tensor) -> Tensor:
    """Return ``maps``, each with the sign for which ``region`` covers more of its high side (LCAR, Eqs. 10, 11).

    The high side of a map [..., h, w] is where it exceeds its mean. ``region`` [..., h, w] bool broadcasts with the
    maps. The sign is unchanged if both sides are covered equally.
    """
    high = maps > maps.mean(dim=(-2, -1), keepdim=True)
    on_high, on_low = (
        (side & region).sum(dim=(-2, -1), keepdim=True) / side.sum(dim=(-2, -1), keepdim=True).clamp_min(1)
        for side in (high, ~high)
    )
    return torch.where(on_high < on_low, -maps, maps)


def object_masks(maps: Tensor) -> Tensor:
    """Return TokenCut's objects [B, h, w] bool: what is above a map's mean and 4-connected to its maximum."""
    above = (maps > maps.mean(dim=(1, 2), keepdim=True)).float()[:, None]
    seeds = F.one_hot(maps.flatten(1).argmax(dim=1), maps[0].numel()).view_as(above)
    grown, reached = seeds * above, torch.zeros_like(above)
    while not torch.equal(grown, reached):
        reached = grown
        vertical, horizontal = F.max_pool2d(grown, (3, 1), 1, (1, 0)), F.max_pool2d(grown, (1, 3), 1, (0, 1))
        grown = torch.maximum(vertical, horizontal) * above
    return reached[:, 0] > 0


def _largest(weights: Tensor, roots: Tensor, start: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return the largest eigenvector u [B, N] of D^(-1/2) W D^(-1/2) orthogonal to D^(1/2) 1, and its residual [B].

    It is sought in the Krylov space of dimension ``steps`` from ``start`` [B, N]; ``roots`` is D^(1/2) 1, [B, N].
    """
    batch, nodes = roots.shape
    noise = 100 * torch.finfo(roots.dtype).eps  # shorter vectors are rounding errors
    basis = roots.new_zeros(batch, steps + 1, nodes)
    images = roots.new_zeros(batch, steps, nodes)
    basis[:, 0] = F.normalize(roots, dim=1)
    added, nonzero = start, []
    for step in range(steps):
        known = basis[:, : step + 1]
        for _ in range(2):  # the second pass removes the rounding errors of the first
            added = added - (added[:, None] @ known.mT @ known)[:, 0]
        length = added.norm(dim=1, keepdim=True)
        nonzero.append(length > noise)
        basis[:, step + 1] = torch.where(nonzero[-1], added / length.clamp_min(noise), 0.0)
        images[:, step] = ((basis[:, step + 1] / roots)[:, None] @ weights)[:, 0] / roots
        added = images[:, step]
    return _ritz(basis[:, 1:], images, torch.cat(nonzero, dim=1))


def _ritz(basis: Tensor, images: Tensor, nonzero: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest Ritz vectors [B, N] and residuals [B]; ``images`` are the matrix times each row of a basis."""
    projected = basis @ images.mT
    projected = (projected + projected.mT) / 2 - 2 * torch.diag_embed((~nonzero).to(basis.dtype))
    values, vectors = torch.linalg.eigh(projected)
    largest = vectors[:, :, -1:].mT
    vector = (largest @ basis)[:, 0]
    return vector, ((largest @ images)[:, 0] - values[:, -1:] * vector).norm(dim=1)


def _largest_dense(weights: Tensor, roots: Tensor) -> Tensor:
    """Return u [B, N] by full eigendecompositions, with the known eigenvalue shifted from 1 to -1."""
    known = F.normalize(roots, dim=1)
    matrix = weights / (roots[:, :, None] * roots[:, None]) - 2 * known[:, :, None] * known[:, None]
    vectors: Tensor = torch.linalg.eigh(matrix)[1]
    return vectors[:, :, -1]


def _all_equal(weights: Tensor) -> Tensor:
    """Return for each graph whether all weights between different nodes are equal, [B]."""
    nodes = weights.shape[-1]
    between = weights.sum(dim=(1, 2)) - weights.diagonal(dim1=1, dim2=2).sum(dim=1)
    return between <= nodes * (nodes - 1) * weights.amin(dim=(1, 2)) * (1 + 1e-6)
