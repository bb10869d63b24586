"""The configuration of a run: plain values, as in a recipe's YAML."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tokenloc._plain import plain

Schedule = Literal["constant", "cosine", "step"]
Select = Literal["top1_cls", "evidence", "max_box_acc_v1", "max_box_acc_v2", "gt_known_plus_top1_loc"]
Calibration = Literal["boxes", "evidence"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Freeze = Literal["none", "attention", "mlp", "blocks", "most", "backbone", "all"]


@dataclass
class DataConfig:
    """The dataset, its splits and the preprocessing.

    Attributes:
        name: dataset name, see ``tokenloc list datasets``.
        root: the dataset's own folder or the one above it; relative to the working directory.
        classes: names of the classes to use; None for all.
        per_class: number of training images of each class, drawn at random; None for all.
        draw: seed of that draw; a draw of fewer images is a subset of a draw of more.
        resize: pixels; images are resized to a square of this side before the crop.
        crop: pixels; side of the network's input.
        train_split: split to train on, such as ``trainval`` of FGVC-Aircraft.
        val_split: split whose labels choose the best epoch; None to take the last epoch.
        select: metric on val_split that chooses the best epoch: ``top1_cls`` and ``evidence`` use the labels alone,
            ``max_box_acc_v1`` (GT-known at the best threshold) and ``max_box_acc_v2`` use the boxes, as does
            ``gt_known_plus_top1_loc``, with which SAT's release chooses the epoch, and the map threshold if the
            protocol chooses the best one.
        calibration_split: split that chooses the map threshold after training; None for no calibration.
        calibrate_by: how it does: by its ``boxes``, or by ``evidence``, which needs the labels alone.
        test_split: split to evaluate after training; None for no evaluation.
        cached_views: for methods on a frozen backbone: number of random crops of each image whose features are computed
            once and cached on disk; epochs cycle through them. 0 runs the backbone on new crops in every epoch.
        cache: folder for the cached features, which several runs may share; None for OUT/features.
        maps: a folder of maps that the method ``student`` learns, an ID.npy for each image; see ``tokenloc distill``.
        options: options of the dataset.
        cached_pictures: removed; only false is accepted, so that the config.yaml of an older run can be resumed.
    """

    name: str = "folder"
    root: Path | None = None
    classes: list[str] | None = None
    per_class: int | None = None
    draw: int = 0
    resize: int = 256
    crop: int = 224
    train_split: str = "train"
    val_split: str | None = None
    select: Select = "top1_cls"
    calibration_split: str | None = None
    calibrate_by: Calibration = "boxes"
    test_split: str | None = None
    cached_views: int = 0
    cache: Path | None = None
    maps: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    cached_pictures: InitVar[bool] = False

    def __post_init__(self, cached_pictures: bool) -> None:
        lowest = {"cached_views": 0, "resize": 1, "crop": 1, **({} if self.per_class is None else {"per_class": 1})}
        _require_at_least(self, "data", lowest)
        if self.crop > self.resize:
            raise ValueError(f"data.crop {self.crop} must be at most data.resize {self.resize}, out of which it is cut")
        self.options = _dataset_options(self.options)
        if cached_pictures:
            message = "data.cached_pictures was removed; delete it from the configuration (results do not change)"
            raise ValueError(message)


@dataclass
class DataSource:
    """The dataset on which a trained model is evaluated; values that are None come from the checkpoint.

    Attributes:
        name: dataset name, see ``tokenloc list datasets``.
        root: the dataset's own folder or the one above it; relative to the working directory.
        classes: names of the classes to evaluate, some of the model's; None for all of the model's.
        options: options of the dataset; each replaces the training's option of the same name.
    """

    name: str | None = None
    root: Path | None = None
    classes: list[str] | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        self.options = _dataset_options(self.options)


@dataclass
class ModelChoice:
    """The method and its backbone.

    Attributes:
        method: see ``tokenloc list methods``; ``auto`` trains several briefly, and chooses one without boxes.
        backbone: see ``tokenloc list backbones``.
        pretrained: true for timm's weights, false for random weights, or a .safetensors or .pth file.
        options: options of the method.
        backbone_options: options of the timm model, and ``smooth_outliers``; see ``create_backbone``.
        keep_classifier: the classifier, and all else that the method shares with that of ``pretrained``, start with its
            weights, too; ``pretrained`` is then a checkpoint of ``tokenloc train`` for the same classes.
    """

    method: str = "tscam"
    backbone: str = "deit_small_patch16_224"
    pretrained: bool | Path = True
    options: dict[str, Any] = field(default_factory=dict)
    backbone_options: dict[str, Any] = field(default_factory=dict)
    keep_classifier: bool = False

    def __post_init__(self) -> None:
        self.options = plain(self.options, "model.options")
        self.backbone_options = plain(self.backbone_options, "model.backbone_options")


@dataclass
class Optimisation:
    """AdamW and its schedule. The defaults are those of the TS-CAM paper on CUB-200-2011 (section 4.1).

    Attributes:
        epochs: passes over the training images.
        batch_size: images in a batch, over all processes together.
        lr: initial learning rate.
        weight_decay: of weight matrices; biases, norms, tokens and position embeddings do not decay.
        betas: of AdamW.
        schedule: ``constant``; ``cosine`` from lr to min_lr, updated in every step; ``step``: multiplied by 0.1 in
            every epoch, counted from 1, that step_epochs divides.
        min_lr: final learning rate of the cosine.
        warmup_epochs: the learning rate rises linearly over this many epochs; for training from scratch.
        step_epochs: of the step schedule: one number of epochs, or several, such as [10, 12].
        freeze: the part of the backbone that is frozen, (a) to (e) of SAT's Table 8: ``none``; ``attention`` or ``mlp``
            of the plain blocks; ``blocks``, all of the plain blocks; ``most``, also the position embedding, the
            projections and the MLPs of the spatial blocks. ``backbone``: all of it. ``all``: everything but SAT's token
            (Table 13 (b)).
        decay_tokens: tokens and position embeddings decay, too, as in SAT's released code.
        gradient_clip: maximum norm of the gradients; None for no clipping, as in the papers.
        accumulate: number of batches in one optimiser step, so that a step sees batch_size * accumulate images in the
            memory of one batch. SAT's area loss then uses the mean area of each batch, not of the step.
    """

    epochs: int = 60
    batch_size: int = 128
    lr: float = 5e-5
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.99)
    schedule: Schedule = "constant"
    min_lr: float = 0.0
    warmup_epochs: float = 0.0
    step_epochs: int | list[int] = 30
    freeze: Freeze = "none"
    decay_tokens: bool = False
    gradient_clip: float | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        counts = dict.fromkeys(("epochs", "batch_size", "accumulate"), 1)
        _require_at_least(self, "optimisation", counts | dict.fromkeys(("weight_decay", "min_lr", "warmup_epochs"), 0))
        periods = self.step_epochs if isinstance(self.step_epochs, list) else [self.step_epochs]
        if min(periods, default=0) < 1:
            raise ValueError(f"optimisation.step_epochs must be at least 1; got {self.step_epochs}")
        for name in ("lr", "gradient_clip"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"optimisation.{name} must be positive; got {value}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optimisation.betas must be at least 0 and below 1; got {self.betas}")


def _dataset_options(options: Any) -> Any:
    """Return the options of a dataset if they are plain values; raise ValueError if one has another flag."""
    flags = {"name": "--data.name", "root": "--data.root", "classes": "--data.classes", "split": "--split"}
    for name, flag in flags.items():
        if isinstance(options, dict) and name in options:
            raise ValueError(f"data.options.{name} is not an option of a dataset; give {flag} instead")
    return plain(options, "data.options")


def _require_at_least(options: Any, group: str, lowest: dict[str, int]) -> None:
    for name, bound in lowest.items():
        if getattr(options, name) < bound:
            raise ValueError(f"{group}.{name} must be at least {bound}; got {getattr(options, name)}")
