"""SCM's activation diffusion: stencils against the dense form of the released code, forward and backward.

    python benchmarks/scm_block.py [--classes 200] [--steps 4] [--repeats 5] [--sides 14 28] [--device cuda]

One block: maps S, F in, S + S * F~ and F + F~ out, and the gradients to S, F, lambda and beta. The module: four blocks
and the logits, p = 16, 4, 4, 4. The dense form keeps N x N matrices (N = h * w patches): cosine similarities by one
matrix product, Eq. 4 with a constant D - A, and p steps of Eq. 6, each with two matrix products.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from _timing import best_time, setting
from torch import Tensor

from tokenloc.methods._diffusion import (
    dense,
    diffuse,
    grid_laplacian,
    neighbour_similarity,
    semantic_laplacian,
    soft_filter,
)
from tokenloc.methods._scaling import min_max

SCALE, RATIO = 0.002, 0.5
PATCHES = 3136  # of all images: 16 of 14 x 14, 4 of 28 x 28, one of 56 x 56
Calibrate = Callable[[Tensor, Tensor, Tensor, Tensor, Sequence[int]], Tensor]


def dense_block(
    semantic: Tensor, activation: Tensor, weight: Tensor, ratio: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """One block with matrices: Eqs. 3 to 7 literally, combined as in the released code."""
    rows, columns = semantic.shape[-2:]
    vectors = F.normalize(semantic.flatten(2), dim=1)
    similarity = vectors.mT @ vectors
    laplacian = dense(grid_laplacian(rows, columns, semantic)[None]) * (weight * similarity - 1)
    inverse, twice = SCALE * laplacian.detach().mT, 2 * torch.eye(rows * columns, device=semantic.device)
    for _ in range(steps):
        inverse = inverse @ (twice - laplacian @ inverse)
    diffused = (inverse @ activation.flatten(1)[:, :, None]).view_as(activation)
    filtered = min_max(F.tanhshrink(diffused / (ratio * activation.amax(dim=(1, 2), keepdim=True))))
    return semantic + semantic * filtered[:, None], activation + filtered


def stencil_block(
    semantic: Tensor, activation: Tensor, weight: Tensor, ratio: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """One block with tokenloc's functions."""
    laplacian = semantic_laplacian(neighbour_similarity(semantic), weight)
    diffused = diffuse(laplacian, activation, steps, SCALE)
    filtered = soft_filter(diffused, ratio * activation.amax(dim=(1, 2), keepdim=True))
    return semantic + semantic * filtered[:, None], activation + filtered


def dense_module(semantic: Tensor, activation: Tensor, weight: Tensor, ratio: Tensor, steps: Sequence[int]) -> Tensor:
    """All blocks with matrices, each with its own similarities, and the logits."""
    for p in steps:
        semantic, activation = dense_block(semantic, activation, weight, ratio, p)
    return semantic.mean(dim=(2, 3))


def stencil_module(semantic: Tensor, activation: Tensor, weight: Tensor, ratio: Tensor, steps: Sequence[int]) -> Tensor:
    """All blocks as in SCM: similarities are computed once, semantic maps scaled once."""
    similarity, gain = neighbour_similarity(semantic), torch.ones_like(activation)
    for p in steps:
        diffused = diffuse(semantic_laplacian(similarity, weight), activation, p, SCALE)
        filtered = soft_filter(diffused, ratio * activation.amax(dim=(1, 2), keepdim=True))
        gain, activation = gain * (1 + filtered), activation + filtered
    return (semantic * gain[:, None]).mean(dim=(2, 3))


def make_maps(side: int, images: int, classes: int, device: str) -> list[Tensor]:
    """Return S, F, lambda and beta; the patches of S have a common component, as real ones have."""
    generator = torch.Generator().manual_seed(0)
    semantic = torch.randn(images, classes, side, side, generator=generator)
    semantic += 2 * torch.randn(classes, 1, 1, generator=generator)
    activation = min_max(torch.rand(images, side, side, generator=generator))
    return [each.to(device) for each in (semantic, activation, torch.tensor(0.9), torch.tensor(RATIO))]


def forward_and_backward(calibrate: Callable[..., object], inputs: list[Tensor], *rest: object) -> list[Tensor]:
    """Return the outputs of ``calibrate``, and the gradients of their mean square to all inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = calibrate(*leaves, *rest)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    loss = torch.stack([x.square().mean() for x in outputs]).sum()
    return [*(x.detach() for x in outputs), *torch.autograd.grad(loss, leaves)]


def compare(name: str, plain: Calibrate, ours: Calibrate, inputs: list[Tensor], steps: object, repeats: int) -> None:
    """Print one row: both times, their ratio, and the difference of the results (relative to the largest value)."""
    pairs = zip(forward_and_backward(ours, inputs, steps), forward_and_backward(plain, inputs, steps), strict=True)
    errors = [float((a - b).abs().max() / b.abs().max()) for a, b in pairs][:-1]  # beta's gradient cancels in float32
    calls = (partial(forward_and_backward, calibrate, inputs, steps) for calibrate in (plain, ours))
    slow, fast = (best_time(call, repeats, str(inputs[0].device)) for call in calls)
    side, images = inputs[1].shape[-1], len(inputs[1])
    print(f"| {name} | {side}x{side} | {images} | {slow:.1f} | {fast:.1f} | {slow / fast:.1f} | {max(errors):.0e} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[14, 28], help="of the grid, in patches")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"SCM, {arguments.classes} classes, float32, forward and backward; {setting(arguments.device)}\n")
    print("| what | grid | images | dense (ms) | tokenloc (ms) | ratio | difference |")
    print("|---|---|---|---|---|---|---|")
    for side in arguments.sides:
        inputs = make_maps(side, max(1, PATCHES // side**2), arguments.classes, arguments.device)
        block = f"block, p = {arguments.steps}"
        compare(block, dense_block, stencil_block, inputs, arguments.steps, arguments.repeats)
        compare("module, p = 16, 4, 4, 4", dense_module, stencil_module, inputs, (16, 4, 4, 4), 1)


if __name__ == "__main__":
    main()
