"""Self-guided re-prediction (LCAR, Eqs. 12 to 16): a small network, trained on each map, predicts its mask."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc.refinement.superpixels import Superpixels, felzenszwalb_superpixels

CHANNEL_MULTIPLE = 8  # channels are zero-padded to multiples of this, which makes convolutions twice as fast on a CPU


@dataclass(frozen=True)
class Reprediction:
    """Self-guided re-prediction (SGRM).

    The confident pixels of a map train a small network, whose inputs are the image and the map, to separate object from
    background; superpixels make its predictions consistent. The networks of many maps are trained at once, as the
    groups of one convolution, and each stops when it agrees with its map.

    The paper does not specify the network's inputs, its size, the parameters of the superpixels, or the pixels over
    which the two parts of Eq. 15 are averaged: here each over its own. The paper's networks see every pixel, and their
    prediction is the mask. Here they see the image at half its size (``stride=1``: full size), and the superpixels of
    the full image vote on the prediction (``vote=False``: no vote), which is faster and removes specks.

    Attributes:
        background_level, object_level: gamma_l1, gamma_h1 in Eq. 12: lower values are background, higher ones object.
        superpixel_background_level: gamma_l2, on the map averaged over superpixels.
        superpixel_object_level: gamma_h2: 0.4 on CUB, 0.6 on ILSVRC.
        object_weight, background_weight, consistency_weight: w_1, w_2 in Eq. 15, w_3 in Eq. 16.
        disagreement: training stops when the prediction is wrong on less than this fraction of the confident pixels.
        max_steps: limit on the steps of training.
        lr, momentum: of SGD.
        channels, layers: hidden channels, and number of 3 x 3 convolutions, each normalised over the image.
        superpixel_scale, superpixel_sigma, superpixel_min_size: see ``felzenszwalb_superpixels``.
        stride: the network's inputs are pooled by this factor.
        vote: whether the superpixels vote on the result.
        seed: of the initial weights, the same for all maps: a result depends only on its own map and image.
        batch_size: maps refined at a time; memory grows with it.
    """

    background_level: float = 0.1
    object_level: float = 0.6
    superpixel_background_level: float = 0.1
    superpixel_object_level: float = 0.4
    object_weight: float = 2.0
    background_weight: float = 0.1
    consistency_weight: float = 0.1
    disagreement: float = 0.1
    max_steps: int = 200
    lr: float = 0.05
    momentum: float = 0.9
    channels: int = 8
    layers: int = 4
    superpixel_scale: float = 100.0
    superpixel_sigma: float = 0.5
    superpixel_min_size: int = 50
    stride: int = 2
    vote: bool = True
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
        for kind in ("", "superpixel_"):
            low, high = getattr(self, f"{kind}background_level"), getattr(self, f"{kind}object_level")
            if not 0 <= low <= high <= 1:
                raise ValueError(f"0 <= {kind}background_level <= {kind}object_level <= 1 must hold; got {low}, {high}")
        for name, least in {"channels": 1, "layers": 1, "stride": 1, "batch_size": 1, "max_steps": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}; got {getattr(self, name)}")

    @classmethod
    def at(cls, threshold: float) -> Reprediction:
        """Return settings for maps whose best box threshold is ``threshold``.

        The paper's levels suit the eigenvectors of DINO. Here values below the threshold are background and values 0.2
        above it object, both have equal weight, and training continues until less than 2 % disagree.
        """
        if not 0 <= threshold <= 0.8:
            raise ValueError(f"re-prediction needs a threshold in [0, 0.8]; got {threshold:g}")
        levels = (threshold, threshold + 0.2, threshold, threshold + 0.1)
        return cls(*levels, object_weight=1.0, background_weight=1.0, consistency_weight=1.0, disagreement=0.02)

    def __call__(self, maps: Tensor, images: Tensor) -> Tensor:
        """Return a mask for each map, 0 or 1; see ``Step``. That of a constant map is 0."""
        settings = (self.superpixel_scale, self.superpixel_sigma, self.superpixel_min_size)
        pixels = felzenszwalb_superpixels(images, *settings)
        flat = maps.flatten(0, 1)
        masks = torch.zeros_like(flat)
        varying = (flat.amax(dim=(1, 2)) > flat.amin(dim=(1, 2))).nonzero()[:, 0]
        for batch in varying.split(self.batch_size) if len(varying) else ():
            owners = batch // maps.shape[1]
            masks[batch] = self._masks(flat[batch], images[owners], pixels[owners])
        return masks.view_as(maps)

    def _masks(self, maps: Tensor, images: Tensor, pixels: Superpixels) -> Tensor:
        """Return the masks [M, H, W] of M maps, each with its own image and superpixels."""
        stride = self.stride if min(maps.shape[1:]) >= 2 * self.stride else 1
        inputs = F.avg_pool2d(torch.cat([images, maps[:, None]], dim=1), stride)
        labels = PseudoLabels.of(inputs[:, -1], pixels.sampled(stride), self)
        scores = self.fit(standardised(inputs), labels)
        scores = F.interpolate(scores[:, None], size=maps.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        return (pixels.mean(scores > 0) > 0.5 if self.vote else scores > 0).float()

    def fit(self, inputs: Tensor, labels: PseudoLabels) -> Tensor:
        """Train a network for each of M ``inputs`` [M, C, h, w]; return the log-odds of object, [M, h, w] float32."""
        result = torch.zeros_like(inputs[:, 0])
        pending = torch.arange(len(inputs), device=inputs.device)
        widths = (inputs.shape[1], *[self.channels] * (self.layers - 1), 2)
        nets = Networks(len(inputs), widths, self.seed, inputs.device)
        inputs = padded(inputs)
        for step in range(self.max_steps + 1):
            scores = nets(inputs)
            predicted = scores.detach() > 0
            result[pending] = scores.detach()
            finished = labels.error_rate(predicted) < self.disagreement
            if finished.all() or step == self.max_steps:
                break
            votes = labels.pixels.mean(predicted) > 0.5
            nets.step(scores, labels.loss_gradient(scores.detach(), votes, self), self.lr, self.momentum)
            if finished.any():
                pending, inputs, labels = pending[~finished], inputs[~finished], labels[~finished]
                nets.select(~finished)
        return result


@dataclass(frozen=True)
class PseudoLabels:
    """The confident pixels and superpixels of M maps (Eq. 12); all but ``pixels`` are [M, h, w] bool."""

    object: Tensor  # confident pixels, y_cls = 1
    background: Tensor  # y_cls = 0
    object_pixels: Tensor  # pixels of confident superpixels, y_s* = 1
    background_pixels: Tensor  # y_s* = 0
    pixels: Superpixels

    @classmethod
    def of(cls, maps: Tensor, pixels: Superpixels, settings: Reprediction) -> PseudoLabels:
        """Return the labels of ``maps`` [M, h, w] in [0, 1]."""
        means = pixels.mean(maps)
        sure = maps > settings.object_level, maps < settings.background_level
        sure_pixels = means > settings.superpixel_object_level, means < settings.superpixel_background_level
        return cls(*sure, *sure_pixels, pixels)

    def __getitem__(self, rows: Tensor) -> PseudoLabels:
        return PseudoLabels(*(getattr(self, field.name)[rows] for field in fields(self)))

    def error_rate(self, predicted: Tensor) -> Tensor:
        """Return the fraction of the confident pixels for which ``predicted`` [M, h, w] bool is wrong, [M]."""
        wrong = (self.object & ~predicted) | (self.background & predicted)
        return wrong.sum(dim=(1, 2)) / (self.object | self.background).sum(dim=(1, 2)).clamp_min(1)

    def loss_gradient(self, scores: Tensor, votes: Tensor, settings: Reprediction) -> Tensor:
        """Return the gradient of each map's joint loss (Eqs. 13 to 16) with respect to its scores, [M, h, w].

        With the object's probability O = sigmoid(score), that of -log O is O - 1 and that of -log(1 - O) is O.
        ``votes`` [M, h, w] bool is the majority prediction in each pixel's superpixel.
        """
        every = settings.consistency_weight / scores[0].numel()
        of_object = settings.object_weight * _mean_weights(self.object)
        of_background = settings.background_weight * _mean_weights(self.background)
        consistent = self.object_pixels | (votes & ~self.background_pixels)
        return scores.sigmoid() * (every + of_object + of_background) - every * consistent - of_object


class Networks:
    """M networks of one shape, run as the groups of one convolution: 3 x 3, normalised over the image, ReLU between.

    ``widths`` are the channels of the input and after each layer. All networks start with the same (He) weights.
    """

    def __init__(self, count: int, widths: tuple[int, ...], seed: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        initial: list[Tensor] = []
        for before, after in pairwise(widths):
            weight = torch.randn(after, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
            weight = F.pad(weight, (0, 0, 0, 0, 0, -before % CHANNEL_MULTIPLE, 0, -after % CHANNEL_MULTIPLE))
            normed = 2 if len(initial) == 3 * (len(widths) - 2) else len(weight)
            initial += [weight, torch.ones(normed), torch.zeros(normed)]
        self.parameters = [x.to(device).repeat(count, *[1] * x.ndim).requires_grad_() for x in initial]
        self.velocities = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.enable_grad()
    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the log-odds of the second channel to the first, [M, h, w]; inputs are ``padded`` [M, C, h, w]."""
        count = len(inputs)
        hidden = inputs.flatten(0, 1)[None]
        for first in range(0, len(self.parameters), 3):
            weight, scale, shift = (parameter.flatten(0, 1) for parameter in self.parameters[first : first + 3])
            hidden = F.conv2d(F.relu(hidden) if first else hidden, weight, padding=1, groups=count)
            hidden = hidden.unflatten(1, (count, -1))[:, :, : len(scale) // count].flatten(1, 2)
            hidden = F.batch_norm(hidden, None, None, scale, shift, training=True)
        background, object_ = hidden.view(count, 2, *inputs.shape[-2:]).unbind(1)
        return object_ - background

    def step(self, scores: Tensor, gradient: Tensor, lr: float, momentum: float) -> None:
        """Take one step of SGD with momentum; ``gradient`` is that of the losses with respect to ``scores``."""
        gradients = torch.autograd.grad(scores, self.parameters, gradient)
        for parameter, velocity, change in zip(self.parameters, self.velocities, gradients, strict=True):
            velocity.mul_(momentum).add_(change)
            parameter.data.sub_(velocity, alpha=lr)

    def select(self, rows: Tensor) -> None:
        """Keep only the networks ``rows``, a mask [M]."""
        self.parameters = [parameter.detach()[rows].requires_grad_() for parameter in self.parameters]
        self.velocities = [velocity[rows] for velocity in self.velocities]


def padded(images: Tensor) -> Tensor:
    """Return ``images`` [M, C, H, W] with zero channels appended, up to a multiple of ``CHANNEL_MULTIPLE``."""
    return F.pad(images, (0, 0, 0, 0, 0, -images.shape[1] % CHANNEL_MULTIPLE))


def standardised(images: Tensor) -> Tensor:
    """Return ``images`` [B, C, H, W], each channel with mean 0 and standard deviation 1; 0 where it is constant."""
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    return centred / centred.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-6)


def _mean_weights(region: Tensor) -> Tensor:
    """Return the weight of each pixel in a mean over ``region`` [M, h, w] bool; 0 where a region is empty."""
    return region / region.sum(dim=(1, 2), keepdim=True).clamp_min(1)
