"""Self-guided re-prediction against Eqs. 12 to 16, one map at a time with torch.nn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.segmentation import felzenszwalb
from torch import Tensor, nn

from tokenloc.methods._scaling import min_max
from tokenloc.refinement import Reprediction
from tokenloc.refinement.reprediction import Networks, PseudoLabels, standardised
from tokenloc.refinement.superpixels import Superpixels, felzenszwalb_superpixels

QUICK = {"superpixel_min_size": 10, "max_steps": 40}


def scene(seed: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Return an image [3, H, W] with a bright disc on darker noise, and a blurred, shifted map [H, W] of it."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centre = size * (0.35 + 0.3 * torch.rand(2, generator=generator))
    far = ((y - centre[0]) ** 2 + (x - centre[1]) ** 2).sqrt()
    disc = (far < size / 4).float()
    image = 0.2 + 0.5 * disc + 0.1 * torch.rand(3, size, size, generator=generator)
    return image, torch.exp(-(((far - 1) / (size / 4)) ** 2))


def scenes(count: int = 5) -> tuple[Tensor, Tensor]:
    """Return maps [B, 1, H, W] and images [B, 3, H, W]."""
    images, maps = zip(*(scene(seed) for seed in range(count)), strict=True)
    return min_max(torch.stack(maps)[:, None]), torch.stack(images)


def plain_network(settings: Reprediction, inputs: int) -> nn.Sequential:
    """Return one network of torch.nn layers with the initial weights of ``Networks``."""
    widths = [inputs, *[settings.channels] * (settings.layers - 1), 2]
    ours = Networks(1, tuple(widths), settings.seed, torch.device("cpu")).parameters[::3]
    layers: list[nn.Module] = []
    for (before, after), weight in zip(pairwise(widths), ours, strict=True):
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        convolution.weight.data = weight[0, :after, :before].detach().clone()
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).train()


def slow_fit(inputs: Tensor, map_: Tensor, segments: Tensor, settings: Reprediction) -> tuple[Tensor, int]:
    """Train one network for one map [h, w] literally by the equations; return its log-odds and number of steps."""
    s = settings
    average = torch.zeros_like(map_)
    for segment in segments.unique():
        average[segments == segment] = map_[segments == segment].mean()
    labels = torch.full(map_.shape, 255)
    labels[map_ < s.background_level], labels[map_ > s.object_level] = 0, 1
    sure = torch.full(map_.shape, 255)
    sure[average < s.superpixel_background_level], sure[average > s.superpixel_object_level] = 0, 1
    network = plain_network(s, len(inputs))
    optimiser = torch.optim.SGD(network.parameters(), s.lr, s.momentum)
    for step in range(s.max_steps + 1):
        scores = network(inputs[None])[0]
        predicted = scores.argmax(dim=0)
        wrong = ((predicted != labels) & (labels != 255)).sum() / (labels != 255).sum()
        if wrong < s.disagreement or step == s.max_steps:
            break
        vote = torch.zeros_like(predicted)
        for segment in segments.unique():
            vote[segments == segment] = int(predicted[segments == segment].float().mean() > 0.5)
        consistent = torch.where(sure == 255, vote, sure)
        likely = scores.log_softmax(dim=0)
        loss = s.consistency_weight * F.nll_loss(likely[None], consistent[None])
        for label, weight in ((1, s.object_weight), (0, s.background_weight)):
            if (labels == label).any():
                loss = loss - weight * likely[label][labels == label].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (scores[1] - scores[0]).detach(), step


def test_the_loss_gradient_equals_autograds() -> None:
    maps, images = scenes(3)
    pixels = felzenszwalb_superpixels(images, 100.0, 0.5, 10)
    settings = Reprediction(object_weight=2.0, background_weight=0.3, consistency_weight=0.7)
    pseudo = PseudoLabels.of(maps[:, 0], pixels, settings)
    scores = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    votes = pixels.mean(scores.detach() > 0) > 0.5
    total = torch.zeros(())
    for m in range(3):
        odds, map_, mean = scores[m].sigmoid(), maps[m, 0], pixels.mean(maps[:, 0])[m]
        target = torch.where(mean > 0.4, 1.0, torch.where(mean < 0.1, 0.0, votes[m].float()))
        total = total + 0.7 * F.binary_cross_entropy(odds, target)
        total = total - 2.0 * odds[map_ > 0.6].log().mean() - 0.3 * (1 - odds[map_ < 0.1]).log().mean()
    (expected,) = torch.autograd.grad(total, scores)
    torch.testing.assert_close(pseudo.loss_gradient(scores.detach(), votes, settings), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("channels", "disagreement"), [(8, 0.05), (5, 0.2)])
def test_training_in_parallel_equals_one_by_one(channels: int, disagreement: float) -> None:
    maps, images = scenes()
    settings = Reprediction(channels=channels, layers=3, max_steps=12, disagreement=disagreement)
    pixels = felzenszwalb_superpixels(images, 100.0, 0.5, 10)
    inputs = standardised(torch.cat([images, maps], dim=1))
    scores = settings.fit(inputs, PseudoLabels.of(maps[:, 0], pixels, settings))
    step_counts = []
    for m in range(len(maps)):
        expected, taken = slow_fit(inputs[m], maps[m, 0], pixels.ids[m], settings)
        torch.testing.assert_close(scores[m], expected, rtol=0, atol=5e-3)
        step_counts.append(taken)
    assert len(set(step_counts)) > 1  # networks stop at different steps
    assert max(step_counts) > 1


def test_the_mask_is_better_than_the_map() -> None:
    maps, images = scenes()
    objects = images.mean(dim=1) > 0.5
    masks = Reprediction.at(0.3)(maps, images)[:, 0] > 0
    halves = maps[:, 0] > 0.5

    def iou(predicted: Tensor) -> Tensor:
        return (predicted & objects).sum(dim=(1, 2)) / (predicted | objects).sum(dim=(1, 2))

    assert (iou(masks) > iou(halves)).all()
    assert iou(masks).min() > 0.9


def test_masks_are_deterministic_and_independent_of_the_batch() -> None:
    maps, images = scenes()
    step = Reprediction(**QUICK)
    masks = step(maps, images)
    assert masks.unique().tolist() == [0.0, 1.0]
    assert torch.equal(masks, step(maps, images))
    torch.manual_seed(5)
    alone = torch.cat([step(maps[i : i + 1], images[i : i + 1]) for i in range(len(maps))])
    assert (alone != masks).float().mean() < 0.005  # rounding may change a vote
    few = Reprediction(**QUICK, batch_size=2)(maps, images)
    assert (few != masks).float().mean() < 0.005


def test_the_seed_determines_the_initial_weights() -> None:
    first, second = (Networks(2, (4, 8, 2), seed, torch.device("cpu")) for seed in (0, 1))
    assert not torch.equal(first.parameters[0], second.parameters[0])
    assert torch.equal(first.parameters[0][0], first.parameters[0][1])


def test_several_maps_of_one_image() -> None:
    maps, images = scenes(2)
    both = torch.cat([maps, 1 - maps], dim=1)
    masks = Reprediction(**QUICK)(both, images)
    assert masks.shape == both.shape
    torch.testing.assert_close(masks[:, :1], Reprediction(**QUICK)(maps, images))
    assert (masks[:, 0] == 1 - masks[:, 1]).float().mean() > 0.8


def test_the_mask_of_a_constant_map_is_zero() -> None:
    maps, images = scenes(3)
    step = Reprediction(**QUICK)
    expected = step(maps, images)
    maps[1] = 1.0
    masks = step(maps, images)
    assert masks[1].eq(0).all()
    assert (masks[[0, 2]] != expected[[0, 2]]).float().mean() < 0.005


def test_a_uniform_image_is_one_superpixel() -> None:
    maps, images = scenes(2)
    expected = Reprediction(**QUICK)(maps, images)
    images[1] = 0.5
    assert felzenszwalb_superpixels(images, 100.0, 0.5, 10)[torch.tensor([1])].ids.unique().tolist() == [0]
    masks = Reprediction(**QUICK)(maps, images)
    assert masks[1].unique().numel() == 1  # the one superpixel votes as a whole
    assert (masks[0] != expected[0]).float().mean() < 0.005
    unvoted = Reprediction(**QUICK, vote=False)(maps, images)[1, 0]
    assert unvoted[maps[1, 0] > 0.6].mean() > 0.9


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (5, 3), (33, 47)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_any_size(size: tuple[int, int], stride: int) -> None:
    maps = torch.linspace(0, 1, size[0] * size[1]).view(1, 1, *size)
    masks = Reprediction(stride=stride, max_steps=2)(maps, torch.rand(1, 3, *size))
    assert masks.shape == (1, 1, *size)
    assert masks.isfinite().all()


def test_superpixel_means_equal_loops() -> None:
    ids, values = torch.randint(0, 6, (3, 4, 5)), torch.rand(3, 4, 5)
    means = Superpixels.of(ids).mean(values)
    for image in range(3):
        for row in range(4):
            for column in range(5):
                same = ids[image] == ids[image, row, column]
                torch.testing.assert_close(means[image, row, column], values[image][same].mean())


def test_superpixels_equal_scikit_images() -> None:
    _, images = scenes(2)
    pixels = felzenszwalb_superpixels(images, 50.0, 0.8, 12)
    for image, ids, sizes in zip(images, pixels.ids, pixels.sizes, strict=True):
        expected = felzenszwalb(image.permute(1, 2, 0).double().numpy(), scale=50.0, sigma=0.8, min_size=12)
        assert np.array_equal(ids.numpy(), expected)
        assert sizes.tolist()[: ids.max() + 1] == np.bincount(expected.ravel()).tolist()


def test_sampled_superpixels() -> None:
    ids = torch.arange(35).view(1, 7, 5)
    assert Superpixels.of(ids).sampled(2).ids.tolist() == [[[6, 8], [16, 18], [26, 28]]]
    assert torch.equal(Superpixels.of(ids).sampled(1).ids, ids)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"object_level": 0.05}, "0 <= background_level <= object_level <= 1 must hold; got 0.1, 0.05"),
        ({"superpixel_object_level": 1.2}, "superpixel_object_level <= 1 must hold; got 0.1, 1.2"),
        ({"channels": 0}, "channels must be at least 1; got 0"),
        ({"stride": 0}, "stride must be at least 1; got 0"),
        ({"max_steps": -1}, "max_steps must be at least 0; got -1"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reprediction(**settings)
