"""The path from an image to boxes: preprocessing, class maps, merging of views, refinement, boxes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as T

from tokenloc.boxes import DetectedBoxes, Frame, Protocol, detect_boxes, get_protocol, scaled_map
from tokenloc.boxes.extraction import SMALLEST
from tokenloc.data import Preprocessing, evaluation_transform
from tokenloc.data.transforms import FramedTransform
from tokenloc.inference.evidence import only_visible
from tokenloc.inference.options import PredictionOptions
from tokenloc.inference.views import mean, merge_maps, resized, views_of
from tokenloc.methods import Method, top_classes
from tokenloc.refinement import find_steps, refine
from tokenloc.refinement.progress import progress_maps

DECODING_MARGIN = 2  # a reduced decoding of twice the input size changes the input by 0.4 % of its spread


class NetworkInput(NamedTuple):
    """What a network sees of an image: ``tensor`` [3, H, W]."""

    name: str
    tensor: Tensor
    frame: Frame
    image: Image.Image | None  # to draw on
    class_index: int | None  # of the known class


class ClassMapPrediction(NamedTuple):
    """Predictions for B images.

    The maps of a single view are on the patch grid in no fixed range, of several views on the finest grid in [0, 1],
    and after refinement on input pixels in [0, 1].
    """

    logits: Tensor  # [B, C] float32
    classes: Tensor  # [B, K] int64, of the maps
    scores: Tensor  # [B, K] float32 in [0, 1], softmax probabilities of the classes
    maps: Tensor  # [B, K, h, w] float32


class Predictor:
    """Predicts classes, class maps and boxes with a trained model; everything that predicts uses it.

    Args:
        model: in evaluation mode, on the device to use.
        protocol: determines the part of the image that the network sees; None for ``standard``.

    Attributes:
        steps: of refinement, those of the options or the method's.
        transform: from an RGB PIL image to the network input [3, H, W] and its frame; picklable.
        sufficient_size: (width, height) of a decoding that gives nearly the same input; None if only the full one does.
    """

    def __init__(
        self,
        model: Method,
        preprocessing: Preprocessing,
        options: PredictionOptions | None = None,
        protocol: Protocol | None = None,
    ) -> None:
        self.model, self.preprocessing = model, preprocessing
        self.options = options or PredictionOptions()
        self.protocol = protocol or get_protocol("standard")
        self.steps = model.refinement if self.options.refine is None else self.options.refine
        find_steps(self.steps)  # an invalid one is an error now
        self._augmentation = self.options.augmentation
        self._scales = self._augmentation.scales or (min(preprocessing.size),)
        width, height = preprocessing.at(max(self._scales)).resize
        sizes = [preprocessing.at(side).size for side in self._scales]
        self._views = views_of(self._augmentation, sizes, model.backbone.patch_size)
        self.sufficient_size = (DECODING_MARGIN * width, DECODING_MARGIN * height) if self.options.fast else None
        self.transform: FramedTransform = evaluation_transform(
            preprocessing, self.protocol.input_frame, max(self._scales), margin=self._augmentation.ten_crop
        )

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @torch.inference_mode()
    def class_maps(self, images: Tensor, classes: Tensor | int = 1) -> ClassMapPrediction:
        """Predict classes and maps; raise ValueError for invalid ``classes``.

        Args:
            images: [B, 3, height, width] of ``transform``, on any device.
            classes: the classes to map, [B, K] int64 in [0, C) on any device, or K for the K most probable classes.
        """
        device = self.device
        if isinstance(classes, Tensor):
            self.model.check_classes(classes, len(images))  # before the copy: a GPU would have to be waited for
            classes = classes.to(device, non_blocking=device.type == "cuda")
        images = images.to(device, non_blocking=device.type == "cuda")
        region = self._region(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.options.fast):
            logits, classes, maps = self._merged_views(images, region, classes)
        logits, maps = logits.float(), maps.float()
        if steps := find_steps(self.steps):
            maps = refine(maps, self._pixels(region), steps)
        return ClassMapPrediction(logits, classes, logits.softmax(dim=1).gather(1, classes), maps)

    def refinement_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Return maps [B, 1, h, w] of the most probable class before and in the course of refinement, by title.

        See ``progress_maps``; ``images`` as for ``class_maps``.
        """
        plain = Predictor(self.model, self.preprocessing, replace(self.options, refine=()), self.protocol)
        maps, region = plain.class_maps(images).maps, self._region(images.to(self.device))
        return {"map": maps, **progress_maps(maps, self._pixels(region), self.steps)}

    @torch.inference_mode()
    def recognised(self, images: Tensor, masks: Tensor, classes: Tensor) -> Tensor:
        """Return the probability of a class with everything but a mask blurred, [B] float32; see ``evidence``.

        ``images`` as for ``class_maps``; ``masks`` [B, 1, h, w] bool in input pixels; ``classes`` [B] int64. It takes
        one forward pass, without refinement and test-time augmentation.
        """
        width, height = self.preprocessing.size
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.fast):
            region = resized(self._region(images.to(self.device)), height, width)
            logits, _ = self.model.class_maps(only_visible(region, masks.to(self.device)))
        return logits.float().softmax(dim=1).gather(1, classes.to(self.device)[:, None])[:, 0]

    def boxes(
        self,
        map_: NDArray[np.float32],
        score: float,
        frame: Frame,
        threshold: float,
        count: int | None = None,
        smallest: float = SMALLEST,
    ) -> tuple[NDArray[np.float32], DetectedBoxes]:
        """Return one map of ``class_maps`` in [0, 1] in input pixels, [h, w], and its boxes in original pixels.

        ``count`` and ``smallest`` are those of ``detect_boxes``.
        """
        scaled = scaled_map(map_, frame.input_size, self.protocol)
        return scaled, detect_boxes(scaled, score, frame, self.protocol, threshold, count, smallest)

    def _region(self, images: Tensor) -> Tensor:
        """Return the part of ``images`` that the maps show, at the largest scale."""
        width, height = self.preprocessing.at(max(self._scales)).size
        cropped = self._augmentation.ten_crop and self.protocol.input_frame != "resize"
        return resized(T.center_crop(images, [height, width]) if cropped else images, height, width)

    def _pixels(self, region: Tensor) -> Tensor:
        """Return normalised images as RGB in [0, 1], float32."""
        mean, std = (region.new_tensor(v)[:, None, None] for v in (self.preprocessing.mean, self.preprocessing.std))
        return (region * std + mean).float().clamp(0, 1)

    def _merged_views(self, images: Tensor, region: Tensor, classes: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, classes and unrefined maps, averaged over the views of ``region``."""
        views = self._views
        if len(views) == 1 and not self._augmentation.ten_crop:
            logits, maps = self.model.localize(region, classes)
            return logits, classes if isinstance(classes, Tensor) else top_classes(logits, classes), maps
        scaled = {size: resized(region, *reversed(size)) for size in {view.size for view in views}}
        predictions = [self.model.class_maps(view.of(scaled[view.size])) for view in views]
        ten_crop = self._augmentation.ten_crop
        logits = self._ten_crop_logits(images) if ten_crop else mean([each for each, _ in predictions])
        if isinstance(classes, int):
            classes = top_classes(logits, classes)
        maps = merge_maps([maps(classes) for _, maps in predictions], views, self._augmentation.shifts)
        return logits, classes, maps

    def _ten_crop_logits(self, images: Tensor) -> Tensor:
        """Return the logarithms of the mean of the crops' softmaxes, [B, C], whose own softmax is that mean."""
        width, height = self.preprocessing.size
        full = resized(images, *reversed(self.preprocessing.resize))
        crops = [self.model.class_maps(crop)[0].float() for crop in T.ten_crop(full, [height, width])]
        return torch.stack(crops).log_softmax(dim=2).logsumexp(dim=0) - math.log(len(crops))
