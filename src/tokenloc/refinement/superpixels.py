"""Superpixels: regions of uniform colour, and means over them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from skimage.segmentation import felzenszwalb
from torch import Tensor


@dataclass(frozen=True)
class Superpixels:
    """The superpixels of M images."""

    ids: Tensor  # the superpixel of each pixel, [M, H, W] int64 in [0, S)
    sizes: Tensor  # pixels of each superpixel, [M, S] float32; 0 for ids that an image does not have

    @classmethod
    def of(cls, ids: Tensor) -> Superpixels:
        """Return the superpixels with the given ``ids``, [M, H, W] int64."""
        none = torch.zeros(len(ids), int(ids.max()) + 1, device=ids.device)
        return cls(ids, none.scatter_add(1, ids.flatten(1), torch.ones_like(ids, dtype=none.dtype).flatten(1)))

    def __getitem__(self, rows: Tensor) -> Superpixels:
        return Superpixels(self.ids[rows], self.sizes[rows])

    def sampled(self, stride: int) -> Superpixels:
        """Return the superpixels of every ``stride``-th row and column, as many as pooling by it gives."""
        rows, columns = (side // stride for side in self.ids.shape[1:])
        first = stride // 2
        return Superpixels.of(self.ids[:, first::stride, first::stride][:, :rows, :columns])

    def mean(self, values: Tensor) -> Tensor:
        """Return ``values`` [M, H, W] (float or bool), each replaced by the mean over its superpixel, float32.

        >>> Superpixels.of(torch.tensor([[[0, 0, 1]]])).mean(torch.tensor([[[1.0, 3.0, 5.0]]])).tolist()
        [[[2.0, 2.0, 5.0]]]
        """
        ids = self.ids.flatten(1)
        sums = torch.zeros_like(self.sizes).scatter_add(1, ids, values.flatten(1).to(self.sizes.dtype))
        return (sums / self.sizes.clamp_min(1)).gather(1, ids).view_as(values)


def felzenszwalb_superpixels(images: Tensor, scale: float, sigma: float, min_size: int) -> Superpixels:
    """Return the superpixels of Felzenszwalb and Huttenlocher (2004), computed on the CPU, image by image.

    ``images`` are [B, 3, H, W] float, RGB in [0, 1]. A larger ``scale`` gives fewer superpixels; ``sigma`` is the width
    of the Gaussian that smooths the image first; superpixels below ``min_size`` pixels are merged with a neighbour.
    """
    arrays = images.permute(0, 2, 3, 1).double().cpu().numpy()
    ids = [felzenszwalb(array, scale=scale, sigma=sigma, min_size=min_size) for array in arrays]
    return Superpixels.of(torch.from_numpy(np.stack(ids)).long().to(images.device))
