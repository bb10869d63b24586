"""Self-guided re-prediction of many maps at once and one by one.

    python benchmarks/reprediction.py [--images 16] [--size 224] [--steps 20] [--repeats 3] [--device cpu]

All networks take the same number of steps, so that the time does not depend on the images. One by one is measured with
the same code, and with torch.nn, autograd and torch.optim. Superpixels are computed beforehand.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import torch
import torch.nn.functional as F
from _timing import best_time, setting
from torch import Tensor, nn

from tokenloc.refinement import Reprediction
from tokenloc.refinement.reprediction import Networks, PseudoLabels, standardised
from tokenloc.refinement.superpixels import Superpixels, felzenszwalb_superpixels


def make_scenes(images: int, size: int) -> tuple[Tensor, Tensor]:
    """Return images [B, 3, H, W] of a disc on a textured background, and blurred maps [B, H, W] of it in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    centres = 0.3 + 0.4 * torch.rand(2, images, 1, 1, generator=generator)
    far = ((y - centres[0]) ** 2 + (x - centres[1]) ** 2).sqrt()
    colours = torch.rand(2, images, 3, 1, 1, generator=generator)
    texture = F.interpolate(torch.rand(images, 3, 16, 16, generator=generator), size=(size, size), mode="bilinear")
    return (0.6 * torch.where(far[:, None] < 0.2, *colours) + 0.4 * texture).clamp(0, 1), torch.exp(
        -((far / 0.15) ** 2)
    )


def plain_network(settings: Reprediction, inputs: Tensor) -> nn.Sequential:
    """Return a network of torch.nn layers for ``inputs`` [C, h, w], with the initial weights of tokenloc's."""
    widths = (len(inputs), *[settings.channels] * (settings.layers - 1), 2)
    weights = Networks(1, widths, settings.seed, inputs.device).parameters[::3]
    layers: list[nn.Module] = []
    for (before, after), weight in zip(pairwise(widths), weights, strict=True):
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        convolution.weight.data = weight[0, :after, :before].detach().clone()
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(inputs.device).train()


def plain_fit(inputs: Tensor, map_: Tensor, pixels: Superpixels, settings: Reprediction) -> Tensor:
    """Train one network [C, h, w] for one map [h, w] with PyTorch's layers, losses and optimiser."""
    s = settings
    network = plain_network(s, inputs)
    optimiser = torch.optim.SGD(network.parameters(), s.lr, s.momentum)
    mean = pixels.mean(map_[None])[0]
    target = torch.where(map_ > s.object_level, 1, torch.where(map_ < s.background_level, 0, 255))
    sure = torch.where(mean > s.superpixel_object_level, 1, torch.where(mean < s.superpixel_background_level, 0, 255))
    only_object, only_background = torch.where(target == 1, 1, 255), torch.where(target == 0, 0, 255)
    for step in range(s.max_steps + 1):
        scores = network(inputs[None])
        predicted = scores.argmax(dim=1)
        wrong = ((predicted[0] != target) & (target != 255)).sum() / (target != 255).sum()
        if wrong < s.disagreement or step == s.max_steps:
            break
        votes = (pixels.mean(predicted)[0] > 0.5).long()
        loss = s.consistency_weight * F.cross_entropy(scores, torch.where(sure == 255, votes, sure)[None])
        loss = loss + s.object_weight * F.cross_entropy(scores, only_object[None], ignore_index=255)
        loss = loss + s.background_weight * F.cross_entropy(scores, only_background[None], ignore_index=255)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (scores[0, 1] - scores[0, 0]).detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images, maps = make_scenes(arguments.images, arguments.size)
    pixels = felzenszwalb_superpixels(images, 100.0, 0.5, 50)
    what = f"{arguments.images} maps of {arguments.size} x {arguments.size}, {arguments.steps} steps"
    print(f"Re-prediction, {what}, forward and backward; {setting(arguments.device)}\n")
    print("| stride | torch.nn, one by one (ms) | tokenloc, one by one (ms) | at once (ms) | ratios | difference |")
    print("|---|---|---|---|---|---|")
    for stride in (2, 1):
        settings = Reprediction(stride=stride, disagreement=-1.0, max_steps=arguments.steps)
        pooled = F.avg_pool2d(torch.cat([images, maps[:, None]], dim=1), stride).to(arguments.device)
        inputs, few = standardised(pooled), pixels.sampled(stride)
        few = Superpixels.of(few.ids.to(arguments.device))
        compare(settings, inputs, pooled[:, -1], few, arguments.repeats, arguments.device)


def compare(
    settings: Reprediction, inputs: Tensor, maps: Tensor, pixels: Superpixels, repeats: int, device: str
) -> None:
    """Print the row of one stride: three times, two ratios, and the difference of the log-odds."""
    rows = torch.arange(len(inputs), device=device)[:, None]

    def plain() -> Tensor:
        return torch.stack([plain_fit(inputs[i], maps[i], pixels[i[None]], settings) for i in rows[:, 0]])

    def alone() -> Tensor:
        return torch.cat([settings.fit(inputs[i], PseudoLabels.of(maps[i], pixels[i], settings)) for i in rows])

    def together() -> Tensor:
        parts = rows[:, 0].split(settings.batch_size)
        return torch.cat(
            [settings.fit(inputs[part], PseudoLabels.of(maps[part], pixels[part], settings)) for part in parts]
        )

    difference = float((plain() - together()).abs().max() / together().abs().max())
    slow, single, fast = (best_time(call, repeats, device) for call in (plain, alone, together))
    ratios = f"{slow / fast:.1f}, {single / fast:.1f}"
    print(f"| {settings.stride} | {slow:.0f} | {single:.0f} | {fast:.0f} | {ratios} | {difference:.0e} |")


if __name__ == "__main__":
    main()
