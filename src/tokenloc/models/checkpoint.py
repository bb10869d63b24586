"""A checkpoint carries all that its weights need: the model's make-up, classes, preprocessing and threshold.

It is a Lightning checkpoint with one more entry, ``tokenloc``, of plain values. It is only ever read with
``weights_only=True``: code in it is refused, never run. A folder for sharing (``training.folder``), on this disk or in
a hub repository, holds the same and serves wherever a checkpoint is read.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch

import tokenloc
from tokenloc._files import durable_write, write_json
from tokenloc.backbones import Normalisation
from tokenloc.backbones.weights import read_torch_file
from tokenloc.data.transforms import Preprocessing
from tokenloc.methods import Method, ModelConfig
from tokenloc.models.factory import create_model
from tokenloc.models.folder import CONFIG, read_config, read_folder
from tokenloc.models.hub import local_copy, own_file
from tokenloc.models.validation import check_metadata, renamed

ENTRY = "tokenloc"
FORMAT = 1
MODEL_PREFIX = "model."


@dataclass(frozen=True)
class Threshold:
    """The map threshold that a model is used with.

    Attributes:
        value: in [0, 1], on maps scaled to [0, 1].
        source: where it comes from, for people: ``calibrated on train of cub (300 images), protocol standard``.
        options: how the model looked at images when it was chosen; see ``PredictionOptions``.
        images: on which it was chosen: ``train of cub``; empty where that is not known.
    """

    value: float
    source: str
    options: str = "plain"
    images: str = ""


@dataclass(frozen=True)
class ModelMetadata:
    """What a checkpoint says of its weights.

    Attributes:
        model: how the model is made.
        classes: class names, in the order of the logits.
        preprocessing: how an image becomes the network's input.
        threshold: None until it is calibrated.
        data: the dataset that the model was trained on: its name, root and options.
    """

    model: ModelConfig
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    threshold: Threshold | None = None
    data: dict[str, Any] | None = None

    def entry(self) -> dict[str, Any]:
        """Return plain values for the checkpoint's ``tokenloc`` entry."""
        return {"format": FORMAT, "versions": versions(), **asdict(self)}

    @classmethod
    def from_entry(cls, entry: dict[str, Any]) -> ModelMetadata:
        """Read what ``entry`` wrote."""
        model, threshold = dict(entry["model"]), entry["threshold"]
        if model["image_size"] is not None:
            model["image_size"] = tuple(model["image_size"])
        return cls(
            model=ModelConfig(**model),
            classes=tuple(entry["classes"]),
            preprocessing=Preprocessing.from_dict(entry["preprocessing"]),
            threshold=Threshold(**renamed(threshold)) if threshold else None,
            data=entry["data"],
        )


def versions() -> dict[str, str]:
    """Return the versions of tokenloc and of what its numbers depend on."""
    return {
        "tokenloc": tokenloc.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": str(timm.__version__),
        "lightning": version("lightning"),
    }


def load_checkpoint(path: str | Path) -> tuple[Method, ModelMetadata]:
    """Load a model from a checkpoint of ``tokenloc train``, in evaluation mode, on the CPU.

    Args:
        path: the file, a folder of ``Localizer.save_pretrained``, or ``hf-hub:USER/NAME[@REVISION]``.

    Raises:
        FileNotFoundError: no such file, or a model that is not on the hub or cannot be downloaded.
        ValueError: a truncated file, one that holds code (never run), one of another program, or one whose weights do
            not fit the model it describes.
    """
    content = read_checkpoint(path)
    metadata = _read_metadata(content, path)
    config = metadata.model
    model = _create(config, path)
    model.normalisation = Normalisation(metadata.preprocessing.mean, metadata.preprocessing.std)
    weights = {k.removeprefix(MODEL_PREFIX): v for k, v in content["state_dict"].items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first_lines = " ".join(str(error).split())[:300]
        raise ValueError(
            f"the weights in {path} do not fit {config.method} on {config.backbone}: {first_lines}"
        ) from None
    return model.eval(), metadata


def _create(config: ModelConfig, path: str | Path) -> Method:
    options = {**config.options, "backbone_options": config.backbone_options}
    try:
        return create_model(config.method, config.backbone, config.num_classes, False, config.image_size, **options)
    except Exception as error:  # options that anyone may have written: a network may raise anything on them
        raise ValueError(f"{path} describes a model that cannot be made: {error}") from error


def read_metadata(path: str | Path) -> ModelMetadata:
    """Read what a checkpoint says of itself; raises as ``load_checkpoint`` does."""
    return _read_metadata(read_checkpoint(path), path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's content without running code from it; raises as ``load_checkpoint`` does."""
    path = local_copy(path)
    if path.is_dir():
        config, weights = read_folder(path)
        content: Any = {**config, "state_dict": {MODEL_PREFIX + name: tensor for name, tensor in weights.items()}}
    elif path.is_file():
        content = read_torch_file(path)
    else:
        raise FileNotFoundError(
            f"no checkpoint at {path.absolute()}; expected a file such as RUN/checkpoints/best.ckpt"
        )
    if not isinstance(content, dict) or ENTRY not in content or "state_dict" not in content:
        raise ValueError(
            f"{path} is not a checkpoint of `tokenloc train`: it has no {ENTRY!r} entry. "
            "Weights of other programs can start a training (--model.pretrained), not be evaluated"
        )
    return content


def _read_metadata(content: dict[str, Any], path: str | Path) -> ModelMetadata:
    entry = content[ENTRY]
    if not isinstance(entry, dict) or entry.get("format") != FORMAT:
        found = entry.get("format") if isinstance(entry, dict) else entry
        raise ValueError(f"{path} has checkpoint format {found!r:.80}; this tokenloc reads format {FORMAT}")
    check_metadata(entry, path)
    try:
        return ModelMetadata.from_entry(entry)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def store_threshold(path: str | Path, threshold: Threshold) -> None:
    """Write ``threshold`` into a checkpoint, or a folder's configuration, which is replaced whole or stays as it was.

    Raises:
        ValueError: a checkpoint on the hub.
    """
    path = own_file(path)
    if path.is_dir():
        config = read_config(path / CONFIG)
        config[ENTRY]["threshold"] = asdict(threshold)
        write_json(path / CONFIG, config)
        return
    content = read_checkpoint(path)
    content[ENTRY]["threshold"] = asdict(threshold)
    save_atomically(content, path)


def save_atomically(content: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint whole, and down to the disk, or not at all.

    Raises:
        OSError: where it cannot be written, as on a full disk; what stood at ``path`` is as it was.
    """
    with durable_write(path, "make room or mend the disk, then go on with --resume") as file:
        torch.save(content, file)


def default_threshold(model: Method, metadata: ModelMetadata) -> float:
    """Return the calibrated threshold of a model, or the default of its method if it is not calibrated."""
    return metadata.threshold.value if metadata.threshold else model.default_threshold
