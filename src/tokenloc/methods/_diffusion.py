"""Activation diffusion on the patch grid by local stencils: SCM's equations as functions of tensors.

A symmetric matrix over the h x w patches that is nonzero only on the diagonal and between grid neighbours is stored as
a *stencil* [..., 3, h, w]: for each patch its diagonal entry, the entry to its right neighbour, and the entry to the
neighbour below. Entries without a neighbour are 0.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tokenloc.methods._scaling import min_max

STENCIL_STEPS = 6  # the largest p for which stencils are used: their number of products is 2^p
VECTOR_STEPS = 4  # the last steps of the dense form, applied to the vector: less work on large grids, and less memory
NORM_FLOOR = 1e-8  # a patch vector with a smaller norm has similarity 0 to all patches, itself included


def neighbour_similarity(semantic: Tensor) -> Tensor:
    """Return the cosine similarity E (Eq. 3) of neighbours in ``semantic`` [B, C, h, w] as a stencil [B, 3, h, w]."""
    squares = semantic.square().sum(dim=1)
    nonzero = squares > NORM_FLOOR**2
    scale = torch.where(nonzero, squares, 1.0).rsqrt() * nonzero
    right = (semantic[..., :-1] * semantic[..., 1:]).sum(dim=1) * scale[..., :-1] * scale[..., 1:]
    below = (semantic[..., :-1, :] * semantic[..., 1:, :]).sum(dim=1) * scale[:, :-1] * scale[:, 1:]
    return torch.stack([nonzero.to(squares.dtype), F.pad(right, (0, 1)), F.pad(below, (0, 0, 0, 1))], dim=1)


def grid_laplacian(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return D - A of the 4-neighbour grid as a stencil [3, h, w]: the neighbour counts, and -1 between neighbours.

    >>> grid_laplacian(1, 3, torch.zeros(())).tolist()
    [[[1.0, 2.0, 1.0]], [[-1.0, -1.0, -0.0]], [[-0.0, -0.0, -0.0]]]
    """
    right, below = like.new_ones(rows, columns), like.new_ones(rows, columns)
    right[:, -1] = below[-1] = 0
    degree = right + below
    degree[:, 1:] += right[:, :-1]
    degree[1:] += below[:-1]
    return torch.stack([degree, -right, -below])


def semantic_laplacian(similarity: Tensor, weight: Tensor) -> Tensor:
    """Return L = (D - A) * (lambda E - 1), element by element (SCM, Eq. 4); raises ValueError for a single patch."""
    rows, columns = similarity.shape[-2:]
    if rows * columns < 2:
        raise ValueError(f"diffusion needs at least two neighbouring patches; got a grid of {rows} x {columns}")
    return grid_laplacian(rows, columns, similarity) * (weight * similarity - 1)


def diffuse(laplacian: Tensor, activation: Tensor, steps: int, scale: float, start_gradient: bool = False) -> Tensor:
    """Return X_p f: ``steps`` Newton-Schulz steps towards the inverse of L, applied to f (SCM, Eqs. 5, 6).

    X_0 = scale L^T and X_{p+1} = X_p (2I - L X_p) imply X_p f = y_n with n = 2^p, y_0 = 0 and
    y_{k+1} = y_k + X_0 (f - L y_k), so the matrix X_p is not needed. Above ``STENCIL_STEPS`` it is built, since 2^p
    products would cost more. L is a stencil [B, 3, h, w], f and the result are [B, h, w]. With ``start_gradient``, L
    also gets a gradient through X_0.
    """
    start = scale * (laplacian if start_gradient else laplacian.detach())
    if steps > STENCIL_STEPS:
        return _diffuse_dense(dense(laplacian), dense(start), activation, steps)
    diffused: Tensor = _Diffusion.apply(laplacian, start, activation, steps)
    return diffused


def soft_filter(diffused: Tensor, threshold: Tensor) -> Tensor:
    """Return minmax(tanhshrink(F' / threshold)) per image, [B, h, w] in [0, 1]; tanhshrink(x) = x - tanh(x) (Eq. 7)."""
    return min_max(tanhshrink(diffused / threshold))


def tanhshrink(x: Tensor) -> Tensor:
    """Return x - tanh(x); for |x| < 1 by Lambert's continued fraction of tanh, which avoids cancellation.

    >>> x = torch.tensor(1e-3)  # here x - tanh(x) is x^3 / 3
    >>> round(3e9 * float(tanhshrink(x)), 5), round(3e9 * float(x - x.tanh()), 5) == 1
    (1.0, False)
    """
    square = x.clamp(-1, 1).square()
    ratio = square / (3 + square / (5 + square / (7 + square / (9 + square / (11 + square / 13)))))
    return torch.where(x.abs() < 1, x * ratio / (1 + ratio), x - x.tanh())


def dense(stencil: Tensor) -> Tensor:
    """Return the matrix [B, N, N] of a stencil [B, 3, h, w], patches in row-major order."""
    columns = stencil.shape[-1]
    diagonal, right, below = _entries(stencil)
    upper = torch.diag_embed(right[:, :-1], 1) + torch.diag_embed(below[:, :-columns], columns)
    return torch.diag_embed(diagonal) + upper + upper.mT


def _diffuse_dense(laplacian: Tensor, start: Tensor, activation: Tensor, steps: int) -> Tensor:
    """Return X_p f from the matrices L and X_0 [B, N, N]; the last ``VECTOR_STEPS`` steps act on the vector."""
    inverse = start
    for _ in range(steps - VECTOR_STEPS):
        inverse = torch.baddbmm(inverse, inverse, laplacian @ inverse, beta=2, alpha=-1)
    vector = activation.flatten(1)[:, :, None]
    result = inverse @ vector
    for _ in range(2**VECTOR_STEPS - 1):
        result = result + inverse @ (vector - laplacian @ result)
    return result.reshape(activation.shape)


class _Diffusion(torch.autograd.Function):
    """X_p f from the stencils of L and X_0 and from f, with gradients to all three at a third of autograd's cost."""

    @staticmethod
    def forward(ctx: Any, laplacian: Tensor, start: Tensor, activation: Tensor, steps: int) -> Tensor:
        columns, vector = activation.shape[-1], activation.flatten(1)
        of_laplacian, of_start = _entries(laplacian), _entries(start)
        results, residuals = [torch.zeros_like(vector)], []
        for _ in range(2**steps):
            residuals.append(vector - _product(of_laplacian, results[-1], columns))
            results.append(results[-1] + _product(of_start, residuals[-1], columns))
        saved = torch.stack(residuals) if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(laplacian, start, torch.stack(results[:-1]), saved)
        return results[-1].reshape(activation.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        """Run the transposed steps from last to first; each adds an outer product to the gradients of L and X_0."""
        laplacian, start, results, residuals = ctx.saved_tensors
        of_laplacian, of_start, columns = _entries(laplacian), _entries(start), gradient.shape[-1]
        to_results, to_residuals = [gradient.flatten(1)], []
        for _ in range(len(results)):
            to_residuals.append(_product(of_start, to_results[-1], columns))
            to_results.append(to_results[-1] - _product(of_laplacian, to_residuals[-1], columns))
        pulled = torch.stack(to_residuals[::-1])
        to_laplacian, to_start = -_outer_products(pulled, results, columns), None
        if residuals is not None:
            to_start = _outer_products(torch.stack(to_results[-2::-1]), residuals, columns)
        return to_laplacian, to_start, pulled.sum(dim=0).reshape(gradient.shape), None


def _entries(stencil: Tensor) -> tuple[Tensor, ...]:
    return stencil.flatten(2).unbind(dim=1)


def _product(entries: tuple[Tensor, ...], vector: Tensor, columns: int) -> Tensor:
    """Return the product of a stencil, given by its entries, with a vector [B, N]."""
    product = entries[0] * vector
    for entry, shift in zip(entries[1:], (1, columns), strict=True):
        product[:, :-shift].addcmul_(entry[:, :-shift], vector[:, shift:])
        product[:, shift:].addcmul_(entry[:, :-shift], vector[:, :-shift])
    return product


def _outer_products(left: Tensor, right: Tensor, columns: int) -> Tensor:
    """Return the sum over n of left_n right_n^T plus its transpose, as a stencil; the diagonal is counted once."""
    entries = [(left * right).sum(dim=0)]
    for shift in (1, columns):
        pairs = left[..., :-shift] * right[..., shift:] + left[..., shift:] * right[..., :-shift]
        entries.append(F.pad(pairs.sum(dim=0), (0, shift)))
    return torch.stack(entries, dim=1).reshape(left.shape[1], 3, -1, columns)
