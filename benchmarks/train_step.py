"""TS-CAM's training step against a plain one that materialises attention in every block, as released code does.

    python benchmarks/train_step.py [--backbone vit_tiny_patch16_224] [--batch 32] [--classes 10]

Both do the same arithmetic on the same weights; the plain one computes softmax(Q K^T) V in three steps and returns
every block's attention matrix. Prints images a second, the ratio, and the peak of resident memory over the idle one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import torch
from _timing import setting
from torch import Tensor, nn

from tokenloc.methods import create_model
from tokenloc.training.config import Optimisation
from tokenloc.training.optimisation import make_optimiser


class PlainAttention(nn.Module):
    """timm's attention with the matrix written out and kept."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.inner = attention

    def forward(self, x: Tensor, **_: object) -> Tensor:
        batch, tokens, width = x.shape
        heads = self.inner.num_heads
        q, k, v = self.inner.qkv(x).reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        self.matrix = ((q @ k.transpose(-2, -1)) * self.inner.scale).softmax(dim=-1)
        return self.inner.proj((self.matrix @ v).transpose(1, 2).reshape(batch, tokens, width))


class Plain(nn.Module):
    """TS-CAM as released: all attention matrices come back from every pass."""

    def __init__(self, backbone: str, classes: int) -> None:
        super().__init__()
        import timm

        self.trunk = timm.create_model(backbone, num_classes=0)
        for block in self.trunk.blocks:
            block.attn = PlainAttention(block.attn)
        self.head = nn.Conv2d(self.trunk.embed_dim, classes, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens = self.trunk.forward_features(images)[:, 1:]
        side = int(tokens.shape[1] ** 0.5)
        maps = self.head(tokens.transpose(1, 2).reshape(len(images), -1, side, side))
        return maps.mean(dim=(2, 3)), [block.attn.matrix for block in self.trunk.blocks]


def measure(kind: str, arguments: argparse.Namespace, results: multiprocessing.Queue) -> None:
    """Time steps in a process of its own, whose peak of memory is then this model's."""
    torch.set_num_threads(arguments.threads)
    ours = create_model("tscam", arguments.backbone, arguments.classes, pretrained=False)
    model = ours if kind == "tokenloc" else Plain(arguments.backbone, arguments.classes)
    optimiser = make_optimiser(model, Optimisation())
    images = torch.randn(arguments.batch, 3, 224, 224)
    labels = torch.randint(arguments.classes, (arguments.batch,))
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(arguments.steps + 1):
        start = time.perf_counter()
        output = model(images)
        logits = output.logits if kind == "tokenloc" else output[0]
        nn.functional.cross_entropy(logits, labels).backward()
        optimiser.step()
        optimiser.zero_grad()
        times.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put((arguments.batch / min(times[1:]), (peak - idle) / 1024**2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    print(f"{arguments.backbone}, batch {arguments.batch}, {arguments.classes} classes, {arguments.threads} threads")
    torch.set_num_threads(arguments.threads)
    print(setting())
    found = {}
    for kind in ("plain", "tokenloc"):
        results = context.Queue()
        process = context.Process(target=measure, args=(kind, arguments, results))
        process.start()
        found[kind] = results.get()
        process.join()
        print(f"{kind:9} {found[kind][0]:6.1f} images/s, {found[kind][1]:.2f} GiB over idle")
    speed, memory = (a / b for a, b in zip(found["tokenloc"], found["plain"], strict=True))
    print(f"tokenloc / plain: speed {speed:.2f}, memory {memory:.2f}")


if __name__ == "__main__":
    main()
