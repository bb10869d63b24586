"""What a run is made of: plain values, as in a recipe's YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Schedule = Literal["constant", "cosine", "step"]
Select = Literal["top1_cls", "max_box_acc_v1", "max_box_acc_v2"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Freeze = Literal["none", "attention", "mlp", "blocks", "most"]


@dataclass
class DataConfig:
    """Which images to use, and how they are brought to the network's size.

    Attributes:
        name: a name of ``tokenloc list datasets``.
        root: the dataset's own folder or the one above it; relative to the working folder.
        classes: the classes to use, by name; None for all.
        per_class: images of each class to train with, drawn at random; None for all.
        draw: seed of that draw; the images of a draw with fewer are among those with more.
        resize: pixels; the image is resized to a square of this side before the crop.
        crop: pixels; side of the network's input.
        val_split: the split that chooses the best epoch, by its labels alone; None to keep the last epoch.
        select: by what of val_split instead: ``max_box_acc_v1``, GT-known at its best threshold, or ``max_box_acc_v2``,
            both by its boxes.
        calibration_split: the split whose boxes choose the map threshold after training; None for no calibration.
        test_split: the split to measure on after training; None for no measurement.
        cached_views: for methods on a frozen backbone: so many crops of each image, drawn once, whose features are
            kept on disk; epochs show them in turn. 0 draws new ones in every epoch, through the backbone.
        cached_images: decode and resize each image once and keep it on disk, resize x resize x 3 bytes, so that
            an epoch only crops; the training is the same, bit by bit. For sets of some ten thousand images.
        cache: the folder of these features or images, which runs may share; None for OUT/features or OUT/images.
        options: of the dataset.
    """

    name: str = "folder"
    root: Path | None = None
    classes: list[str] | None = None
    per_class: int | None = None
    draw: int = 0
    resize: int = 256
    crop: int = 224
    val_split: str | None = None
    select: Select = "top1_cls"
    calibration_split: str | None = None
    test_split: str | None = None
    cached_views: int = 0
    cached_images: bool = False
    cache: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataSource:
    """TrainingData to measure a finished model on; whatever is None is taken from the checkpoint.

    Attributes:
        name: a name of ``tokenloc list datasets``.
        root: the dataset's own folder or the one above it; relative to the working folder.
        options: of the dataset, one by one in place of those of the training.
    """

    name: str | None = None
    root: Path | None = None
    options: dict[str, Any] | None = None


@dataclass
class ModelChoice:
    """Which method on which backbone.

    Attributes:
        method: a name of ``tokenloc list methods``.
        backbone: a name of ``tokenloc list backbones``.
        pretrained: true for timm's weights, false for random ones, or a .safetensors or .pth file.
        options: of the method.
        backbone_options: of the timm model.
    """

    method: str = "tscam"
    backbone: str = "deit_small_patch16_224"
    pretrained: bool | Path = True
    options: dict[str, Any] = field(default_factory=dict)
    backbone_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Optimisation:
    """AdamW and its schedule. The defaults are those of the TS-CAM paper on CUB-200-2011 (its section 4.1).

    Attributes:
        epochs: passes over the training images.
        batch_size: images that the network sees at once, those of all processes together.
        lr: learning rate at the start.
        weight_decay: on weight matrices; biases, norms, tokens and position embeddings have none.
        betas: of AdamW.
        schedule: ``constant``; ``cosine`` from lr to min_lr, step by step; ``step``: times 0.1 in every epoch that is
            divisible by step_epochs.
        min_lr: where the cosine ends.
        warmup_epochs: the learning rate rises linearly over so many epochs; for networks that start from nothing.
        step_epochs: of the step schedule.
        freeze: what of the backbone stays as it is, (a) to (e) of SAT's Table 8: ``none``; ``attention`` or ``mlp`` of
            the plain blocks; ``blocks``, the plain ones whole; ``most``: with them position embedding, projections, and
            the MLPs of the spatial blocks.
        gradient_clip: gradients are scaled down to this norm; None leaves them, as the papers do.
        accumulate: so many batches make one step, of batch_size times accumulate images in the memory of one.
            SAT's area is then the mean over each batch, not over the step.
    """

    epochs: int = 60
    batch_size: int = 128
    lr: float = 5e-5
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Schedule = "constant"
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    step_epochs: int = 30
    freeze: Freeze = "none"
    gradient_clip: float | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        """Refuse values with which nothing could be learned."""
        for name in ("epochs", "batch_size", "accumulate", "step_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"optimisation.{name} must be at least 1; got {getattr(self, name)}")
        if self.lr <= 0:
            raise ValueError(f"optimisation.lr must be positive; got {self.lr}")
