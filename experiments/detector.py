"""A small detector trained on boxes of tokenloc, or on true ones: docs/results/detector.md.

    python experiments/detector.py TRAIN … --test TEST [--weights vit_tiny_patch16_224.safetensors]

TRAIN and TEST are files of `tokenloc export-dataset`, such as DATASET/train.json with its images in
DATASET/images/train, or splits of datasets with boxes: cub:../shared/data/cub10:train. Trains torchvision's Faster
R-CNN on a frozen ViT-Ti, in minutes on a CPU, and prints the average precision of pycocotools on TEST.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign
from torchvision.transforms.v2.functional import horizontal_flip, pil_to_tensor, to_dtype

from tokenloc._files import atomic_write
from tokenloc.data import create_dataset, read_image
from tokenloc.data.annotations import read_json

SIZE, BATCH, RATE, DECAY = 224, 4, 1e-3, 0.05
ANCHORS = {"16": (64, 96), "32": (128, 192)}  # sides in pixels, by the stride of a level
Target = dict[str, Tensor]
Prepared = tuple[Tensor, Target]  # the ViT's map and the boxes in the network's input


class Example(NamedTuple):
    path: Path
    labels: list[str]
    boxes: NDArray[np.float64]  # [N, 4] xyxy, original pixels


def read_examples(source: str) -> list[Example]:
    """Read a COCO file, whose images are in images/NAME beside it, or a split of a dataset, NAME:ROOT:SPLIT."""
    if source.endswith(".json"):
        file = Path(source)
        folder = file.parent / "images" / file.stem
        annotations = read_json(file)
        return [
            Example(
                folder / one.file_name, [name for name, _ in one.objects], np.array([box for _, box in one.objects])
            )
            for one in annotations
        ]
    name, _, rest = source.partition(":")
    root, _, split = rest.rpartition(":")
    dataset = create_dataset(name, root, split)
    samples = (sample for sample in dataset if sample.path is not None)
    return [Example(one.path, [dataset.classes[one.label]] * len(one.boxes), one.boxes) for one in samples]


class Pyramid(nn.Module):
    """The last map of a frozen ViT at strides 16 and 32: ViTDet's simple pyramid without 4 and 8 (Li et al. 2022)."""

    out_channels = 96

    def __init__(self, weights: Path | None) -> None:
        super().__init__()
        known: dict[str, Any] = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights)}}
        self.vit = timm.create_model("vit_tiny_patch16_224", pretrained=True, num_classes=0, **known)
        self.vit.requires_grad_(False)
        self.levels = nn.ModuleDict({stride: self._level(int(stride) // 16) for stride in ANCHORS})

    def _level(self, scale: int) -> nn.Sequential:
        width, channels = self.vit.embed_dim, self.out_channels
        layers = [nn.Conv2d(width, channels, 1), nn.GroupNorm(1, channels), nn.Conv2d(channels, channels, 3, padding=1)]
        return nn.Sequential(nn.MaxPool2d(scale), *layers, nn.GroupNorm(1, channels))

    @torch.no_grad()
    def last_map(self, images: Tensor) -> Tensor:
        """Return the ViT's last map [B, D, h, w] of normalized images."""
        with torch.autocast(images.device.type, torch.bfloat16):
            (last,) = self.vit.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        return last.float()

    def pyramid(self, last: Tensor) -> dict[str, Tensor]:
        return {stride: level(last) for stride, level in self.levels.items()}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.pyramid(self.last_map(images))


def build_detector(classes: int, weights: Path | None) -> FasterRCNN:
    """Return a detector of ``classes`` classes, counted from 1; images are resized to ``SIZE`` x ``SIZE``."""
    backbone = Pyramid(weights)
    anchors = AnchorGenerator(tuple(ANCHORS.values()), ((0.5, 1.0, 2.0),) * len(ANCHORS))
    settings: dict[str, Any] = {
        "fixed_size": (SIZE, SIZE),
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "rpn_pre_nms_top_n_train": 300,
        "rpn_post_nms_top_n_train": 100,
        "rpn_pre_nms_top_n_test": 300,
        "rpn_post_nms_top_n_test": 100,
        "box_batch_size_per_image": 32,
        "box_roi_pool": MultiScaleRoIAlign(list(ANCHORS), output_size=7, sampling_ratio=1),
        "box_head": TwoMLPHead(backbone.out_channels * 49, 256),
        "box_predictor": FastRCNNPredictor(256, classes + 1),
    }
    return FasterRCNN(backbone, rpn_anchor_generator=anchors, **settings)


def load(example: Example, classes: Sequence[str], flip: bool = False) -> tuple[Tensor, Target]:
    """Return an image [3, H, W] float32 in [0, 1] and its boxes and labels; mirrored if ``flip``."""
    image = to_dtype(pil_to_tensor(read_image(example.path)), torch.float32, scale=True)
    boxes = torch.from_numpy(example.boxes.copy()).float()
    if flip:
        image, width = horizontal_flip(image), image.shape[-1]
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return image, {"boxes": boxes, "labels": torch.tensor([classes.index(label) + 1 for label in example.labels])}


def prepare(
    model: FasterRCNN, examples: Sequence[Example], classes: Sequence[str]
) -> list[list[tuple[Tensor, Target]]]:
    """Return each image and its mirror image as the trained layers see them."""
    prepared = []
    for example in examples:
        loaded = [load(example, classes, flip) for flip in (False, True)]
        images, targets = model.transform([image for image, _ in loaded], [target for _, target in loaded])
        prepared.append(list(zip(model.backbone.last_map(images.tensors), targets, strict=True)))
    return prepared


def losses(model: FasterRCNN, maps: Tensor, targets: list[Target]) -> Tensor:
    """Return the sum of the losses of ``model`` from maps of the ViT, which ``model`` itself would compute again."""
    sizes = [(SIZE, SIZE)] * len(maps)
    features = model.backbone.pyramid(maps)
    proposals, first = model.rpn(ImageList(maps.new_empty(len(maps), 3, SIZE, SIZE), sizes), features, targets)
    _, second = model.roi_heads(features, proposals, sizes, targets)
    return torch.stack([*first.values(), *second.values()]).sum()


def train(examples: Sequence[Example], classes: Sequence[str], weights: Path | None, epochs: int) -> FasterRCNN:
    """Return a detector trained with AdamW, flips, a warm-up and a cosine."""
    model = build_detector(len(classes), weights).train()
    prepared = prepare(model, examples, classes)
    optimizer = torch.optim.AdamW(
        [weight for weight in model.parameters() if weight.requires_grad], weight_decay=DECAY, fused=True
    )
    steps = epochs * -(-len(examples) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(epochs):
        start, total = time.monotonic(), 0.0
        for indices in torch.randperm(len(examples)).split(BATCH):
            mirrored = torch.randint(2, indices.shape).tolist()
            drawn = [prepared[i][mirror] for i, mirror in zip(indices.tolist(), mirrored, strict=True)]
            maps, targets = zip(*drawn, strict=True)
            loss = losses(model, torch.stack(maps), list(targets))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(indices) / len(examples)
        print(f"epoch {epoch + 1} of {epochs}: loss {total:.3f}, {time.monotonic() - start:.0f} s", flush=True)
    return model.eval()


@torch.inference_mode()
def detections(model: FasterRCNN, examples: Sequence[Example], classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the detections in COCO's form; images count from 1."""
    for number, example in enumerate(examples, start=1):
        (found,) = model([load(example, classes)[0]])
        for box, label, score in zip(found["boxes"], found["labels"], found["scores"], strict=True):
            about = {"image_id": number, "category_id": int(label), "score": float(score)}
            yield {**about, "bbox": as_coco(box.numpy())}


def as_coco(box: NDArray[Any]) -> list[float]:
    x0, y0, x1, y1 = box.tolist()
    return [x0, y0, x1 - x0, y1 - y0]


def evaluate(found: list[dict[str, Any]], examples: Sequence[Example], classes: Sequence[str]) -> dict[str, float]:
    """Return the average precision of COCO, in percent, of the classes and of all as one class."""
    if not found:
        raise SystemExit("nothing was detected; train longer")
    truth = COCO()
    boxes = [
        {"image_id": number, "category_id": classes.index(label) + 1, "bbox": as_coco(box), "iscrowd": 0}
        for number, example in enumerate(examples, start=1)
        for label, box in zip(example.labels, example.boxes, strict=True)
    ]
    truth.dataset = {
        "images": [{"id": number + 1} for number in range(len(examples))],
        "categories": [{"id": index + 1, "name": name} for index, name in enumerate(classes)],
        "annotations": [{**box, "id": i + 1, "area": box["bbox"][2] * box["bbox"][3]} for i, box in enumerate(boxes)],
    }
    results = {}
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        for use, suffix in ((1, ""), (0, ", one class")):
            evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
            evaluation.params.useCats = use
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            precisions = zip(("AP", "AP50", "AP75"), evaluation.stats, strict=False)
            results |= {name + suffix: 100 * float(value) for name, value in precisions}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", nargs="+", metavar="TRAIN")
    parser.add_argument("--test", required=True)
    parser.add_argument("--weights", type=Path, help="of vit_tiny_patch16_224; by default timm downloads them")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a .safetensors file for the weights")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    examples = [example for source in options.train for example in read_examples(source)]
    unseen = read_examples(options.test)
    classes = sorted({label for example in (*examples, *unseen) for label in example.labels})
    print(f"{len(examples)} images to train on, {len(unseen)} to test on, {len(classes)} classes")
    model = train(examples, classes, options.weights, options.epochs)
    if options.out is not None:
        with atomic_write(options.out) as temporary:
            save_file(model.state_dict(), temporary, {"classes": "\n".join(classes)})
    results = evaluate(list(detections(model, unseen, classes)), unseen, classes)
    print("\n".join(f"{name}: {value:.1f}" for name, value in results.items()))


if __name__ == "__main__":
    main()
