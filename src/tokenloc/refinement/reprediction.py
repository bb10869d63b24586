"""Self-guided re-prediction (LCAR, Eqs. 12 to 16): a small network for each map turns it into a mask."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc.refinement.superpixels import Superpixels, felzenszwalb_superpixels

# Channels are padded with zeros to multiples of this: groups of whole vectors convolve twice as fast on a CPU.
LANES = 8


@dataclass(frozen=True)
class Reprediction:
    """Self-guided re-prediction (SGRM).

    What a map is sure of teaches a small network, which sees the image and the map, to tell object from background;
    superpixels make it say the same of alike neighbours. The networks of many maps are fitted at once, as the
    groups of one convolution, and each leaves when it agrees with its map.

    The paper leaves open what the network sees, how large it is, the parameters of the superpixels, and over which
    pixels the two parts of Eq. 15 are averaged: here each over its own. Its networks see every pixel, and their
    prediction is the mask. Here they see the image at half its size (``stride=1``: as it is), and the superpixels of
    the whole image vote on what they predict (``vote=False``: they do not): faster, and free of specks.

    Attributes:
        background_level: gamma_l1 in Eq. 12: what lies below it on the map is background.
        object_level: gamma_h1: what lies above it is object.
        superpixel_background_level: gamma_l2, on the map averaged over superpixels.
        superpixel_object_level: gamma_h2: 0.4 on CUB, 0.6 on ILSVRC.
        object_weight: w_1 in Eq. 15.
        background_weight: w_2 in Eq. 15.
        consistency_weight: w_3 in Eq. 16.
        disagreement: a fit ends when the prediction misses less than this share of the reliable pixels.
        max_steps: a fit ends after so many steps in any case.
        lr: of SGD.
        momentum: of SGD.
        channels: of the hidden layers.
        layers: convolutions of 3 x 3, each normalised over the image; the last gives two channels.
        superpixel_scale: of Felzenszwalb and Huttenlocher's segmentation: larger means fewer superpixels.
        superpixel_sigma: pixels; the image is smoothed before it.
        superpixel_min_size: pixels.
        stride: the networks see the image and the map pooled by this factor.
        vote: whether the superpixels vote on the result.
        seed: of the first weights, which are the same for all maps: a result depends on its own map and image alone.
        at_once: how many maps are fitted together; memory grows with it.
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
    at_once: int = 16

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        for kind in ("", "superpixel_"):
            low, high = getattr(self, f"{kind}background_level"), getattr(self, f"{kind}object_level")
            if not 0 <= low <= high <= 1:
                raise ValueError(f"0 <= {kind}background_level <= {kind}object_level <= 1 must hold; got {low}, {high}")
        for name in ("channels", "layers", "stride", "at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.max_steps < 0:
            raise ValueError(f"max_steps must be at least 0; got {self.max_steps}")

    @classmethod
    def at(cls, threshold: float) -> Reprediction:
        """Return settings for maps that are known to give good boxes at ``threshold``.

        The paper's levels suit the eigenvectors of DINO. Here what lies below the threshold is background, what lies
        0.2 above it is object, both count alike, and a fit goes on until less than 2 % disagree.

        Args:
            threshold: in [0, 0.8]; such as the one that was calibrated for the maps.

        Raises:
            ValueError: for another threshold.
        """
        if not 0 <= threshold <= 0.8:
            raise ValueError(f"re-prediction needs a threshold in [0, 0.8]; got {threshold:g}")
        return cls(
            background_level=threshold,
            object_level=threshold + 0.2,
            superpixel_background_level=threshold,
            superpixel_object_level=threshold + 0.1,
            object_weight=1.0,
            background_weight=1.0,
            consistency_weight=1.0,
            disagreement=0.02,
        )

    def __call__(self, maps: Tensor, images: Tensor) -> Tensor:
        """Return a mask for each map.

        Args:
            maps: [B, K, H, W] float32 in [0, 1].
            images: [B, 3, H, W] float32, RGB in [0, 1].

        Returns:
            [B, K, H, W] float32, 0 or 1; 0 everywhere for a constant map.
        """
        pixels = felzenszwalb_superpixels(
            images, self.superpixel_scale, self.superpixel_sigma, self.superpixel_min_size
        )
        flat = maps.flatten(0, 1)
        masks = torch.zeros_like(flat)
        telling = (flat.amax(dim=(1, 2)) > flat.amin(dim=(1, 2))).nonzero()[:, 0]
        for first in range(0, len(telling), self.at_once):
            jobs = telling[first : first + self.at_once]
            owners = jobs // maps.shape[1]
            masks[jobs] = self._masks(flat[jobs], images[owners], pixels[owners])
        return masks.view_as(maps)

    def _masks(self, maps: Tensor, images: Tensor, pixels: Superpixels) -> Tensor:
        """Return the masks [M, H, W] of M maps, each with an image and superpixels of its own."""
        stride = self.stride if min(maps.shape[1:]) >= 2 * self.stride else 1
        seen = F.avg_pool2d(torch.cat([images, maps[:, None]], dim=1), stride)
        scores = self.fit(standardised(seen), Guide.of(seen[:, -1], pixels.sampled(stride), self))
        scores = F.interpolate(scores[:, None], size=maps.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        return (pixels.mean(scores > 0) > 0.5 if self.vote else scores > 0).float()

    def fit(self, inputs: Tensor, guide: Guide) -> Tensor:
        """Fit a network to each of M maps.

        Args:
            inputs: what the networks see, [M, C, h, w].
            guide: what they learn.

        Returns:
            the networks' log-odds of object, [M, h, w] float32.
        """
        result = torch.zeros_like(inputs[:, 0])
        open_ = torch.arange(len(inputs), device=inputs.device)
        widths = (inputs.shape[1], *[self.channels] * (self.layers - 1), 2)
        nets = Networks(len(inputs), widths, self.seed, inputs.device)
        inputs = padded(inputs)
        for step in range(self.max_steps + 1):
            scores = nets(inputs)
            predicted = scores.detach() > 0
            result[open_] = scores.detach()
            closed = guide.missed(predicted) < self.disagreement
            if closed.all() or step == self.max_steps:
                break
            votes = guide.pixels.mean(predicted) > 0.5
            nets.descend(scores, guide.slopes(scores.detach(), votes, self), self.lr, self.momentum)
            if closed.any():
                open_, inputs, guide = open_[~closed], inputs[~closed], guide[~closed]
                nets.keep(~closed)
        return result


@dataclass(frozen=True)
class Guide:
    """What M maps are sure of (Eq. 12); all but the last are [M, h, w] bool.

    Attributes:
        object: reliable object pixels, y_cls = 1.
        background: reliable background pixels, y_cls = 0.
        object_pixels: pixels of sure object superpixels, y_s* = 1.
        background_pixels: pixels of sure background superpixels, y_s* = 0.
        pixels: the superpixels.
    """

    object: Tensor
    background: Tensor
    object_pixels: Tensor
    background_pixels: Tensor
    pixels: Superpixels

    @classmethod
    def of(cls, maps: Tensor, pixels: Superpixels, settings: Reprediction) -> Guide:
        """Read the labels off ``maps`` [M, h, w] in [0, 1] (Eq. 12)."""
        means = pixels.mean(maps)
        return cls(
            object=maps > settings.object_level,
            background=maps < settings.background_level,
            object_pixels=means > settings.superpixel_object_level,
            background_pixels=means < settings.superpixel_background_level,
            pixels=pixels,
        )

    def __getitem__(self, rows: Tensor) -> Guide:
        """Return the guide of the maps ``rows``, a mask [M]."""
        return Guide(
            self.object[rows],
            self.background[rows],
            self.object_pixels[rows],
            self.background_pixels[rows],
            self.pixels[rows],
        )

    def missed(self, predicted: Tensor) -> Tensor:
        """Return the share of the reliable pixels on which ``predicted`` [M, h, w] bool is wrong, [M]."""
        wrong = (self.object & ~predicted) | (self.background & predicted)
        return wrong.sum(dim=(1, 2)) / (self.object | self.background).sum(dim=(1, 2)).clamp_min(1)

    def slopes(self, scores: Tensor, votes: Tensor, settings: Reprediction) -> Tensor:
        """Return the derivative of each map's joint loss (Eqs. 13 to 16) by its scores, [M, h, w].

        With the object's probability O = sigmoid(score), that of -log O is O - 1 and that of -log(1 - O) is O.

        Args:
            scores: log-odds of object, [M, h, w].
            votes: what most pixels of a pixel's superpixel are predicted to be, [M, h, w] bool.
            settings: the weights.
        """
        every = settings.consistency_weight / scores[0].numel()
        reliable_object = settings.object_weight * _shares(self.object)
        reliable_background = settings.background_weight * _shares(self.background)
        consistent = self.object_pixels | (votes & ~self.background_pixels)
        return scores.sigmoid() * (every + reliable_object + reliable_background) - every * consistent - reliable_object


class Networks:
    """M networks of one shape, run as the groups of one convolution: 3 x 3, normalised over the image, ReLU between.

    Args:
        count: M.
        widths: channels of the input and after each layer; the last are two.
        seed: of the weights, drawn once after He et al.; all networks start alike.
        device: where they run.
    """

    def __init__(self, count: int, widths: tuple[int, ...], seed: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        parts: list[Tensor] = []
        for before, after in pairwise(widths):
            weight = torch.randn(after, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
            weight = F.pad(weight, (0, 0, 0, 0, 0, -before % LANES, 0, -after % LANES))
            normed = 2 if len(parts) == 3 * (len(widths) - 2) else len(weight)
            parts += [weight, torch.ones(normed), torch.zeros(normed)]
        self.parameters = [part.to(device).repeat(count, *[1] * part.ndim).requires_grad_() for part in parts]
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

    def descend(self, scores: Tensor, slopes: Tensor, lr: float, momentum: float) -> None:
        """Take one step of SGD with momentum down the losses whose derivatives by ``scores`` are ``slopes``."""
        gradients = torch.autograd.grad(scores, self.parameters, slopes)
        for parameter, velocity, gradient in zip(self.parameters, self.velocities, gradients, strict=True):
            velocity.mul_(momentum).add_(gradient)
            parameter.data.sub_(velocity, alpha=lr)

    def keep(self, rows: Tensor) -> None:
        """Drop the networks that are not in ``rows``, a mask [M]."""
        self.parameters = [parameter.detach()[rows].requires_grad_() for parameter in self.parameters]
        self.velocities = [velocity[rows] for velocity in self.velocities]


def padded(images: Tensor) -> Tensor:
    """Return ``images`` [M, C, H, W] with channels of 0 behind, up to a multiple of LANES."""
    return F.pad(images, (0, 0, 0, 0, 0, -images.shape[1] % LANES))


def standardised(images: Tensor) -> Tensor:
    """Return ``images`` [B, C, H, W], each channel with mean 0 and standard deviation 1; 0 where it is constant."""
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    return centred / centred.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp_min(1e-6)


def _shares(region: Tensor) -> Tensor:
    """Return the weight of each pixel in a mean over ``region`` [M, h, w] bool; 0 where a region is empty."""
    return region / region.sum(dim=(1, 2), keepdim=True).clamp_min(1)
