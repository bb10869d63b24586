"""Normalized cuts of a batch of images, against scipy image by image.

    python benchmarks/normalized_cut.py [--images 64] [--side 14] [--repeats 5] [--device cpu]

Eigenvectors only, and from keys to maps. The reference, like TokenCut, builds each image's graph with numpy and
computes only its second smallest generalised eigenvector, with scipy.linalg.eigh. scipy always runs on the CPU.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from _timing import best_time, setting
from numpy.typing import NDArray
from scipy.linalg import eigh
from torch import Tensor

from tokenloc.methods._normalized_cut import Edges, eigenvector_maps, oriented_to_peak, patch_graph, second_eigenvectors

CASES: list[tuple[Edges, float]] = [("binary", 0.2), ("cosine", 0.0)]


def make_keys(images: int, side: int, width: int = 384) -> Tensor:
    """Return keys [B, N, D] of an object on a background; neighbours are similar, as in images."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(images, width, 4, 4, generator=generator)
    scene = F.interpolate(coarse, size=(side, side), mode="bilinear")
    parts = torch.randn(images, width, 2, generator=generator)
    inside = torch.zeros(images, 1, side, side)
    inside[:, :, side // 4 : side // 2, side // 3 : side - side // 4] = 1
    scene = scene + inside * parts[:, :, :1, None] + (1 - inside) * parts[:, :, 1:, None]
    return (scene + 0.5 * torch.randn(scene.shape, generator=generator)).flatten(2).mT.contiguous()


def scipy_eigenvectors(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the second smallest eigenvector of each of the graphs [B, N, N]."""
    vectors = []
    for graph in weights:
        degrees = np.diag(graph.sum(axis=1))
        vectors.append(eigh(degrees - graph, degrees, subset_by_index=[1, 1])[1][:, 0])
    return np.stack(vectors)


def scipy_maps(keys: NDArray[np.float32], tau: float, edges: Edges) -> NDArray[np.float64]:
    """Return the map of each image, from keys [B, N, D], one by one."""
    maps = []
    for rows in keys:
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        cosine = unit @ unit.T
        graph = np.where(cosine > tau, 1.0 if edges == "binary" else cosine, 1e-5)
        vector = scipy_eigenvectors(graph[None])[0]
        maps.append(vector * np.sign(vector[np.abs(vector).argmax()]))
    return np.stack(maps)


def compare(keys: Tensor, side: int, edges: Edges, tau: float, repeats: int, device: str) -> None:
    """Print the rows of one kind of graph: both times, their ratio, and the difference of the maps."""
    on_device = keys.to(device)
    graphs = patch_graph(on_device, tau, edges)
    plain_graphs, plain_keys = graphs.cpu().numpy(), keys.numpy()
    plain_vectors, vectors = torch.from_numpy(scipy_eigenvectors(plain_graphs)), second_eigenvectors(graphs).cpu()
    difference = (oriented_to_peak(plain_vectors) - oriented_to_peak(vectors)).abs().max() / plain_vectors.abs().max()
    rows = {
        "eigenvectors": (lambda: scipy_eigenvectors(plain_graphs), lambda: second_eigenvectors(graphs)),
        "keys to maps": (
            lambda: scipy_maps(plain_keys, tau, edges),
            lambda: eigenvector_maps(on_device, (side, side), tau, edges),
        ),
    }
    for name, (plain, ours) in rows.items():
        slow, fast = best_time(plain, repeats), best_time(ours, repeats, device)
        print(f"| {name} | {edges}, tau {tau} | {slow:.1f} | {fast:.1f} | {slow / fast:.1f} | {difference:.0e} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = f"{arguments.images} images of {arguments.side} x {arguments.side} patches"
    print(f"Normalized cut, {size}, D = 384; {setting(arguments.device)}\n")
    print("| what | edges | scipy, one by one (ms) | tokenloc, at once (ms) | ratio | difference |")
    print("|---|---|---|---|---|---|")
    keys = make_keys(arguments.images, arguments.side)
    for edges, tau in CASES:
        compare(keys, arguments.side, edges, tau, arguments.repeats, arguments.device)


if __name__ == "__main__":
    main()
