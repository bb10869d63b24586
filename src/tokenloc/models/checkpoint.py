"""Checkpoints: those of Lightning with one more key, ``tokenloc``, for the ``ModelMetadata`` as plain values.

Code in a checkpoint never runs. A folder in the shared format (``models.hub``), local or on the hub, works as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tokenloc._files import durable_write, write_json
from tokenloc._names import unknown_name
from tokenloc.backbones import Normalisation
from tokenloc.backbones.weights import read_torch_file
from tokenloc.data.base import shorten
from tokenloc.methods import METHODS, Method, list_methods
from tokenloc.models import factory
from tokenloc.models.allocation import check_model, check_weights
from tokenloc.models.hub import CONFIG, local_copy, read_folder, read_json, writable_path
from tokenloc.models.metadata import METADATA_KEY, ModelMetadata, Threshold

MODEL_PREFIX = "model."  # of the model's tensors in a Lightning checkpoint
OptionValue = bool | int | float | str | None
"""The value of a method option at test time."""


def load_checkpoint(
    path: str | Path, method_options: Mapping[str, OptionValue] | None = None
) -> tuple[Method, ModelMetadata]:
    """Load a model, in evaluation mode, on the CPU.

    Args:
        path: a checkpoint of ``tokenloc train``, a folder written by ``Localizer.save_pretrained``, or
            ``hf-hub:USER/NAME[@REVISION]``.
        method_options: values of the method's ``test_options`` to use instead of those of the training; the metadata
            contains them. A threshold that was calibrated with other values does not apply, and is left out.

    Raises:
        FileNotFoundError: if the file or repository does not exist, or cannot be downloaded.
        ValueError: if the file is truncated, contains code (which never runs), comes from another program, or has
            weights that do not fit the model it describes; if a method option is unknown or invalid.
    """
    content = read_checkpoint(path)
    metadata = _with_options(_metadata(content, path), method_options or {})
    config = metadata.model
    options = {**config.options, "backbone_options": config.backbone_options}
    arguments = (config.method, config.backbone, config.num_classes, False, config.image_size)
    create = partial(factory.create_model, *arguments, **options)
    weights = {name.removeprefix(MODEL_PREFIX): tensor for name, tensor in content["state_dict"].items()}
    try:
        check_model(create, options | {"image_size": config.image_size}, weights)
        model = create()
        model.load_state_dict(weights)
    except RuntimeError as error:
        summary = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights in {path} do not fit {config.method} on {config.backbone}: {summary}") from None
    except Exception as error:  # the options are untrusted; a network may raise anything for them
        chosen = f" with {dict(method_options)}" if method_options else ""
        raise ValueError(f"{path} describes a model that cannot be created{chosen}: {error}") from error
    model.normalisation = Normalisation(metadata.preprocessing.mean, metadata.preprocessing.std)
    return model.eval(), metadata


def _with_options(metadata: ModelMetadata, chosen: Mapping[str, OptionValue]) -> ModelMetadata:
    """Return the metadata with the ``chosen`` options, without its threshold if that is calibrated for others."""
    config, threshold = metadata.model, metadata.threshold
    calibrated = threshold.method_options if threshold else {}
    if not chosen and not calibrated:
        return metadata
    valid = METHODS[config.method].test_options
    for name in chosen:
        if name not in valid:
            raise unknown_name(f"test-time option of {config.method}", name, valid)
    trained = {**factory.method_options(config.method), **config.options}
    if {**trained, **calibrated} != {**trained, **chosen}:
        threshold = None
    return replace(metadata, model=replace(config, options={**config.options, **chosen}), threshold=threshold)


def read_metadata(path: str | Path) -> ModelMetadata:
    """Read the metadata of a checkpoint; raises like ``load_checkpoint``."""
    return _metadata(read_checkpoint(path), path)


def _metadata(content: dict[str, Any], path: str | Path) -> ModelMetadata:
    metadata = ModelMetadata.from_dict(content[METADATA_KEY], path)
    if (config := metadata.model).method not in list_methods():
        return metadata  # creating the model reports it
    names = [name.removeprefix(MODEL_PREFIX) for name in content["state_dict"]]
    options = METHODS[config.method].stored_options(config.options, names)
    return replace(metadata, model=replace(config, options=options))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the content of a checkpoint without running code from it; raises like ``load_checkpoint``."""
    path = local_copy(path)
    if path.is_dir():
        config, weights = read_folder(path)
        content: Any = {**config, "state_dict": {MODEL_PREFIX + name: tensor for name, tensor in weights.items()}}
    elif path.is_file():
        content = read_torch_file(path)
        if isinstance(content, dict) and "state_dict" in content:
            check_weights(content["state_dict"], path)
    else:
        raise FileNotFoundError(
            f"no checkpoint at {path.absolute()}; expected a file such as RUN/checkpoints/best.ckpt"
        )
    if not isinstance(content, dict) or METADATA_KEY not in content or "state_dict" not in content:
        raise ValueError(
            f"{path} is not a checkpoint of `tokenloc train`: it has no key {METADATA_KEY!r}. "
            "Weights of other programs can initialise a training (--model.pretrained) but cannot be evaluated"
        )
    return content


def load_classifier(model: Method, path: str | Path | bool) -> None:
    """Load into ``model`` the weights outside the backbone that it shares with a checkpoint of ``tokenloc train``.

    So a model of SAT takes over the classifier of TS-CAM or of another SAT, and its token where there is one.

    Raises:
        ValueError: if ``path`` is no such checkpoint, or the shapes or the classifier's names differ.
    """
    if isinstance(path, bool):
        raise ValueError(f"keep_classifier needs pretrained to be a checkpoint of `tokenloc train`; got {path}")
    stored = {name.removeprefix(MODEL_PREFIX): each for name, each in read_checkpoint(path)["state_dict"].items()}
    own = model.state_dict()
    shared = {name: each for name, each in stored.items() if name in own and not name.startswith("backbone.")}
    absent = [name for name in own if name.startswith("head.") and name not in shared]
    differing = [name for name, each in shared.items() if each.shape != own[name].shape]
    if absent or differing or not shared:
        raise ValueError(f"the classifier in {path} does not fit this model: {shorten(absent + differing)}")
    model.load_state_dict({**own, **shared})


def store_threshold(path: str | Path, threshold: Threshold) -> None:
    """Store ``threshold`` in a checkpoint, file or folder, atomically; raises ValueError if it is on the hub."""
    path = writable_path(path)
    config = path / CONFIG
    content = read_json(config) if path.is_dir() else read_checkpoint(path)
    content[METADATA_KEY]["threshold"] = asdict(threshold)
    if path.is_dir():
        write_json(config, content)
    else:
        save_atomically(content, path)


def save_atomically(content: dict[str, Any], path: str | Path) -> None:
    """Write a checkpoint atomically and flush it to disk; after an OSError an existing ``path`` is unchanged."""
    with durable_write(path, "free some space or repair the disk, then continue with --resume") as file:
        torch.save(content, file)


def default_threshold(model: Method, metadata: ModelMetadata) -> float:
    """Return the calibrated threshold of a model, or the default of its method if it is not calibrated."""
    return metadata.threshold.value if metadata.threshold else model.default_threshold
