"""Target maps: written for the training images by a trained model, read with the images by a student.

A target is a file ID.npy of a map [h, w] over the whole image, scaled to [0, 1]; negative values are no target.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torchvision import tv_tensors

from tokenloc._files import atomic_write, require_inside
from tokenloc.boxes import largest_boxes, prepare_map
from tokenloc.data import ImageDataset, Preprocessing, Unreadable, evaluation_loader, train_transform
from tokenloc.data.loading import LabelledDataset, TrainingImages
from tokenloc.inference.evaluation import Progress, evaluation_mode
from tokenloc.inference.evidence import box_mask
from tokenloc.inference.predictor import Predictor
from tokenloc.methods._scaling import min_max
from tokenloc.methods.base import Method
from tokenloc.metrics.stored_maps import StoredMaps, open_maps
from tokenloc.training.data import TrainingData, epoch_seed

EVIDENT = 0.5  # the least probability of the class with everything but the box blurred
BATCH = 16  # images that pass the teacher together


def write_target_maps(
    predictor: Predictor,
    dataset: ImageDataset,
    folder: Path,
    threshold: float,
    workers: int = 0,
    progress: Progress | None = None,
) -> list[Unreadable]:
    """Write the map of each image's class, for images without a file in ``folder``; return the unreadable ones.

    An image has no target, but a file of -1, if its class is not recognised inside the box at the ``threshold`` alone:
    the map misses the object. Only labels are used, no boxes. ``predictor`` sees whole images (protocol ``standard``).
    """
    require_inside((sample.id for sample in dataset.samples), f"{dataset.split} of {dataset.name}")
    files = [folder / f"{sample.id}.npy" for sample in dataset.samples]
    missing = [index for index, file in enumerate(files) if not file.is_file()]
    if not missing:
        return []
    loader = evaluation_loader(dataset.subset(missing), predictor.transform, BATCH, workers=workers)
    total, unreadable = math.ceil(len(missing) / BATCH), []
    with evaluation_mode(predictor.model):
        for batch in progress(loader, "maps", total) if progress else loader:
            unreadable += batch.unreadable
            if not len(batch):
                continue
            maps = min_max(predictor.class_maps(batch.images, batch.labels[:, None]).maps[:, 0].cpu())
            masks = []
            for map_, frame in zip(maps.numpy(), batch.frames, strict=True):
                prepared = prepare_map(map_, frame.input_size, predictor.protocol)
                boxes = largest_boxes(prepared, [threshold], predictor.protocol)
                masks.append(box_mask(boxes, frame.input_size))
            evident = predictor.recognised(batch.images, torch.stack(masks), batch.labels) >= EVIDENT
            for row, index in enumerate(batch.indices):
                with atomic_write(files[missing[index]]) as file:
                    np.save(file, (maps[row] if evident[row] else -torch.ones(1, 1)).numpy().astype(np.float16))
    return unreadable


class MappedImages(TrainingImages):
    """Training images [4, H, W]: RGB and the target map of the same crop and flip, -1 where an image has none."""

    def __init__(self, dataset: ImageDataset, preprocessing: Preprocessing, maps: StoredMaps, seed: int, report: bool):
        super().__init__(dataset, train_transform(preprocessing), seed, report)
        self.maps, self.known = maps, set(maps.ids)
        self.size = preprocessing.resize[::-1]

    def transformed(self, image: Image.Image, index: int) -> torch.Tensor:
        """Return the image and its target after one random transform."""
        id_ = self.dataset.samples[index].id
        map_: NDArray[Any] = self.maps.load(id_).map_ if id_ in self.known else -np.ones((1, 1))
        target = F.interpolate(torch.from_numpy(map_.astype(np.float32))[None, None], self.size, mode="bilinear")[0]
        moved = cast(Any, self.transform)(image, tv_tensors.Mask(target))  # a mask is cropped and mirrored alike
        return torch.cat([moved[0], moved[1].as_subclass(torch.Tensor)])


class MappedData(TrainingData):
    """Training batches with the target ``maps``."""

    def __init__(self, data: TrainingData, maps: StoredMaps) -> None:
        super().__init__(data.train, data.val, data.preprocessing, data.batch_size, data.workers, data.seed)
        self.maps = maps

    def examples(self, epoch: int) -> LabelledDataset:
        """Return the images of an epoch with their maps."""
        images = cast(TrainingImages, super().examples(epoch))
        return MappedImages(self.train, self.preprocessing, self.maps, epoch_seed(self.seed, epoch), images.report)


def add_maps(data: TrainingData, model: Method, folder: Path) -> MappedData:
    """Return ``data`` with the maps in a folder; raises ValueError if the method cannot learn them, or none matches."""
    if not model.learns_maps:
        raise ValueError(f"data.maps needs a method that learns maps, such as student; {model.config.method} does not")
    maps, first = open_maps(folder), data.train[0].id
    if {sample.id for sample in data.train.samples}.isdisjoint(maps.ids):
        raise ValueError(f"no map in {folder} is named after a training image, such as {first}.npy")
    return MappedData(data, maps)
