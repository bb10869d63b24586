"""A model as a folder, for sharing: weights as safetensors, everything else as JSON; neither can run code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tokenloc._files import atomic_write, write_json
from tokenloc.backbones.weights import read_weights

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
METRICS = "metrics.json"
FILES = (CONFIG, WEIGHTS, METRICS)
"""All that is ever read of a folder or a repository."""


def write_folder(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write a model's configuration (plain values) and named tensors into a folder; each file whole or not at all.

    Raises:
        ValueError: a configuration that JSON cannot hold.
    """
    try:
        text = json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} cannot hold this configuration: {error}") from error
    with atomic_write(folder / WEIGHTS) as temporary:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
        save_file(tensors, temporary, {"format": "pt"})
    write_json(folder / CONFIG, json.loads(text))


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what ``write_folder`` wrote; other files in the folder are not looked at.

    Raises:
        FileNotFoundError: where one of the two files is absent.
        ValueError: where one is damaged, or of another form.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no model of tokenloc: there is no {name} in it.{_hint(folder)}")
    return read_config(folder / CONFIG), read_weights(folder / WEIGHTS).tensors


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: no such file.
        ValueError: where the file holds anything else, or numbers that JSON does not know.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def _refused(number: str) -> Any:
    raise ValueError(f"{number} is no number of JSON")


def _hint(folder: Path) -> str:
    best = folder / "checkpoints" / "best.ckpt"
    if best.is_file():
        return f" It is the folder of a run: give {best}"
    return " Give a folder that Localizer.save_pretrained wrote, or a file such as RUN/checkpoints/best.ckpt"
