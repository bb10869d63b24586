"""Affinity refinement (LCAR, Eqs. 7 to 9): diffusion of a map between neighbouring pixels of similar colour."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenloc.methods._scaling import min_max

EPSILON = 1e-8


@dataclass(frozen=True)
class AffinityRefinement:
    """Affinity refinement (ARM).

    In each iteration a pixel takes a weighted mean of its neighbours, with the largest weights on those of similar
    colour, so that the map gets edges where colours change. Refining the negated map gives the negated result.

    Attributes:
        iterations: k.
        keep: eta in Eq. 9: the weight of a pixel's own value in an iteration.
        position_weight: w_p in Eq. 8.
        distances: the neighbours are the pixels at these distances in eight directions; the paper's are the adjacent.
        spread: factor on both standard deviations in Eq. 7; smaller values require more similar colours.
        batch_size: images refined at a time; memory grows with it.
    """

    iterations: int = 50
    keep: float = 0.1
    position_weight: float = 0.01
    distances: tuple[int, ...] = (1,)
    spread: float = 1.0
    batch_size: int = 8

    def __post_init__(self) -> None:
        if not self.distances or min(self.distances) < 1:
            raise ValueError(f"distances must be at least one, each at least 1 pixel; got {self.distances}")
        if not 0 <= self.keep <= 1:
            raise ValueError(f"keep must lie in [0, 1]; got {self.keep}")
        if self.iterations < 0 or self.position_weight < 0 or self.spread <= 0 or self.batch_size < 1:
            raise ValueError(
                "iterations and position_weight must be at least 0, spread above 0, batch_size at least 1; got "
                f"{self.iterations}, {self.position_weight}, {self.spread}, {self.batch_size}"
            )

    @classmethod
    def wide(cls) -> AffinityRefinement:
        """Return the neighbourhood of Ru et al. (2022), from whom the paper has its kernels."""
        return cls(iterations=10, distances=(1, 2, 4, 8, 12, 24), spread=0.3)

    def __call__(self, maps: Tensor, images: Tensor) -> Tensor:
        """Return the refined maps, each scaled to [0, 1]; see ``Step``. A constant map becomes 0."""
        batches = zip(maps.split(self.batch_size), images.split(self.batch_size), strict=True)
        return torch.cat([self._refine(*batch) for batch in batches])

    def _refine(self, maps: Tensor, images: Tensor) -> Tensor:
        weights = (1 - self.keep) * affinity(images, self.distances, self.position_weight, self.spread)
        refined = maps - 0.5
        for _ in range(self.iterations):
            mixed = self.keep * refined
            for weight, neighbour in zip(weights.unbind(1), neighbours(refined, self.distances), strict=True):
                mixed.addcmul_(weight[:, None], neighbour)
            refined = mixed
        varying = maps.amax(dim=(2, 3), keepdim=True) > maps.amin(dim=(2, 3), keepdim=True)
        return torch.where(varying, min_max(refined), 0.0)  # of a constant map only rounding errors remain


def affinity(images: Tensor, distances: tuple[int, ...], position_weight: float, spread: float = 1.0) -> Tensor:
    """Return the weight of each of the M neighbours of each pixel, [B, M, H, W] with sum 1 + w_p (Eqs. 7, 8).

    The standard deviation of colour is that of the neighbours, per channel, and the colour kernel the mean over the
    channels, as in Ru et al. (2022), on which the paper builds; that of position is over the distances.
    """
    around = list(neighbours(images, distances))
    mean = torch.stack(around).mean(dim=0)
    variance = torch.stack([(colour - mean).square() for colour in around]).sum(dim=0) / (len(around) - 1)
    unit = spread * variance.sqrt() + EPSILON
    colour = torch.stack([-((images - other) / unit).square().mean(dim=1) for other in around], dim=1)
    offsets = torch.tensor([offset for distance in distances for offset in directions(distance)], dtype=images.dtype)
    lengths = offsets.norm(dim=1)
    position = -(lengths / (spread * lengths.std() + EPSILON)).square()
    by_position: Tensor = position.softmax(dim=0).to(images.device)[:, None, None]
    return colour.softmax(dim=1) + position_weight * by_position


def neighbours(values: Tensor, distances: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield ``values`` [..., H, W] shifted to each neighbour; the border is replicated."""
    height, width = values.shape[-2:]
    margin = max(distances)
    padded = F.pad(values, (margin, margin, margin, margin), mode="replicate")
    for distance in distances:
        for down, right in directions(distance):
            yield padded[..., margin + down : margin + down + height, margin + right : margin + right + width]


def directions(distance: int) -> list[tuple[int, int]]:
    """Return the offsets (down, right) of the eight neighbours at ``distance`` pixels."""
    along = (-distance, 0, distance)
    return [(down, right) for down in along for right in along if down or right]
