"""Implementations of LCTR's convolution with a kernel per image, forward and backward.

    python benchmarks/lctr_head.py [--images 8] [--repeats 3] [--device cuda]

Training needs the average of the C maps over the grid, inference the maps of a few classes. D = 384, G = 4, 14 x 14.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from _timing import best_time, setting
from torch import Tensor

from tokenloc.methods.lctr import CueDigging

WIDTH, KERNELS, SIDE = 384, 4, 14
Implementation = Callable[[CueDigging, Tensor, Tensor], Tensor]


def loop_over_images(head: CueDigging, tokens: Tensor, scores: Tensor) -> Tensor:
    """Equation 6 literally."""
    mixed = [torch.einsum("g,gcdij->cdij", score, head.weight) for score in scores]
    return torch.stack([F.conv2d(x, kernel, padding=1) for x, kernel in zip(tokens, mixed, strict=True)])


def grouped(head: CueDigging, tokens: Tensor, scores: Tensor) -> Tensor:
    """One convolution with a group per image."""
    mixed = torch.einsum("bg,gcdij->bcdij", scores, head.weight).flatten(0, 1)
    return F.conv2d(tokens.flatten(0, 1)[None], mixed, padding=1, groups=len(tokens)).unflatten(1, (len(tokens), -1))[0]


def all_kernels(head: CueDigging, tokens: Tensor, scores: Tensor) -> Tensor:
    """One convolution to G * C maps, then their weighted sum."""
    maps = F.conv2d(tokens, head.weight.flatten(0, 1), padding=1).unflatten(1, (KERNELS, -1))
    return torch.einsum("bg,bgchw->bchw", scores, maps)


def average_of(maps: Implementation) -> Implementation:
    return lambda head, tokens, scores: maps(head, tokens, scores).mean(dim=(2, 3))


def one_map(head: CueDigging, tokens: Tensor, scores: Tensor) -> Tensor:
    return head.maps(tokens, scores, torch.zeros(len(tokens), 1, dtype=torch.int64, device=tokens.device))


IMPLEMENTATIONS: dict[str, tuple[Implementation, Implementation]] = {  # for training, for inference
    "a loop over images": (average_of(loop_over_images), loop_over_images),
    "a grouped convolution": (average_of(grouped), grouped),
    "all kernels, then weighted": (average_of(all_kernels), all_kernels),
    "tokenloc": (CueDigging.pooled, one_map),
}


def forward_and_backward(pooled: Implementation, head: CueDigging, tokens: Tensor, scores: Tensor) -> None:
    leaves = [x.detach().requires_grad_() for x in (tokens, scores)]
    torch.autograd.grad(pooled(head, *leaves).square().sum(), [*leaves, head.weight])


def report(classes: int, images: int, repeats: int, device: str) -> None:
    """Print a row for each implementation."""
    head = CueDigging(WIDTH, classes, KERNELS, 3, "separate").to(device)
    inputs = (head, torch.randn(images, WIDTH, SIDE, SIDE).to(device), torch.rand(images, KERNELS).to(device))
    for name, (train, test) in IMPLEMENTATIONS.items():
        training = best_time(partial(forward_and_backward, train, *inputs), repeats, device)
        with torch.no_grad():
            testing = best_time(partial(test, *inputs), repeats, device)
        print(f"| {classes} | {name} | {training:.1f} | {testing:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"LCTR's head, {arguments.images} images, float32; {setting(arguments.device)}\n")
    print("| classes | implementation | training (ms) | one map per image (ms) |\n|---|---|---|---|")
    for classes in (200, 1000):
        report(classes, arguments.images, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
