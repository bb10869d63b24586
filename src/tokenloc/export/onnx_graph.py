"""A trained model as an ONNX file, which runs without tokenloc and without torch. Needs the extra ``onnx``."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tokenloc import __version__
from tokenloc._extras import library
from tokenloc._files import atomic_write
from tokenloc._names import one_of
from tokenloc.data.transforms import Preprocessing
from tokenloc.export.base import refuse_existing
from tokenloc.methods import Method
from tokenloc.models.checkpoint import default_threshold
from tokenloc.models.metadata import ModelMetadata

Maps = Literal["top", "all"]

METADATA = "tokenloc"
"""The key of the file's metadata; its value is JSON."""

LARGEST_DIFFERENCE = 1e-3
"""Between ONNX and torch, as a share of the largest value; beyond it a file is not written."""


class Graph(nn.Module):
    """What the file computes: from pixels, which it scales and normalises by itself, to logits and maps.

    Args:
        model: in evaluation mode.
        preprocessing: whose mean and standard deviation are used.
        maps: ``top`` gives the map of each image's most probable class, ``all`` those of all C classes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Method, preprocessing: Preprocessing, maps: Maps = "top") -> None:
        super().__init__()
        self.model = model
        self.all_classes = one_of("maps", maps, Maps) == "all"
        self.register_buffer("mean", torch.tensor(preprocessing.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(preprocessing.std)[:, None, None])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, C] and maps [B, 1 or C, h, w] of ``pixels`` [B, height, width, 3] uint8, RGB."""
        images = (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        logits, maps_of = self.model.class_maps(images)
        classes = logits.argmax(dim=1, keepdim=True)
        if self.all_classes:
            classes = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[0], -1)
        return logits, maps_of(classes)


def export_onnx(
    model: Method, metadata: ModelMetadata, path: str | Path, maps: Maps = "top", overwrite: bool = False
) -> float:
    """Write a model as an ONNX file and compare it with torch.

    Input ``pixels`` [batch, height, width, 3] uint8: upright RGB images, resized whole to the network's input, any
    number of them. Outputs ``logits`` [batch, C] float32 and ``maps`` [batch, K, h, w] float32 on the patch grid, as
    ``Method.localize`` gives them. The metadata, JSON under ``tokenloc``, names classes, input size, interpolation and
    threshold, so that the file says all that is needed to use it.

    Args:
        model: in evaluation mode, on the CPU.
        metadata: of its checkpoint.
        path: the file to write.
        maps: ``top`` for the most probable class (K = 1), ``all`` for every class (K = C).
        overwrite: replace a file that exists.

    Returns:
        by how much logits and maps of noise differ from torch's at most, as a share of the largest value.

    Raises:
        ValueError: a method whose maps are no graph of tensors, or a file that would differ from torch.
        FileExistsError: where the file exists, without ``overwrite``.
        ImportError: without the extra ``onnx``.
    """
    if not model.is_graph:
        raise ValueError(
            f"{metadata.model.method} cannot be exported to ONNX: its maps come from an eigenvalue solver, which ONNX "
            "does not have; use tokenloc.Localizer, or train a method such as tscam or sat"
        )
    refuse_existing(Path(path), overwrite)
    graph = Graph(model, metadata.preprocessing, maps).eval()
    with atomic_write(path) as temporary:
        program = _exported(graph, metadata.preprocessing)
        program.model.metadata_props[METADATA] = json.dumps(graph_metadata(model, metadata, maps))
        program.save(temporary, external_data=False)
        difference = largest_difference(temporary, graph, metadata.preprocessing)
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"the ONNX file of {metadata.model.method} would differ from torch by {difference:.1e} of the largest "
                f"value, more than {LARGEST_DIFFERENCE:g}; try another version of onnxruntime or torch"
            )
    return difference


def graph_metadata(model: Method, metadata: ModelMetadata, maps: Maps) -> dict[str, Any]:
    """Return what the file says of itself; sizes are (width, height) in pixels, the threshold is on maps in [0, 1]."""
    return {
        "version": __version__,
        "method": metadata.model.method,
        "backbone": metadata.model.backbone,
        "classes": list(metadata.classes),
        "size": list(metadata.preprocessing.size),
        "interpolation": metadata.preprocessing.interpolation,
        "threshold": default_threshold(model, metadata),
        "maps": maps,
    }


def _exported(graph: Graph, preprocessing: Preprocessing) -> Any:
    library("onnxscript", "onnx")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of every node that it leaves as it is
    pixels = torch.from_numpy(_noise(2, preprocessing))
    shapes = {"pixels": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        program = torch.export.export(graph, (pixels,), dynamic_shapes=shapes, strict=True)
        names: dict[str, Any] = {"input_names": ["pixels"], "output_names": ["logits", "maps"]}
        return torch.onnx.export(program, (), dynamo=True, verbose=False, **names)


def largest_difference(path: Path, graph: Graph, preprocessing: Preprocessing) -> float:
    """Return how much ONNX and torch differ at most on 1 and 3 images of noise, as a share of the largest value.

    Maps are compared where both find the same class the most probable: a tie says nothing of them.
    """
    runtime = library("onnxruntime", "onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch in (1, 3):
        pixels = _noise(batch, preprocessing)
        logits, maps = session.run(None, {"pixels": pixels})
        with torch.no_grad():
            true_logits, true_maps = (values.numpy() for values in graph(torch.from_numpy(pixels)))
        same = logits.argmax(axis=1) == true_logits.argmax(axis=1)
        worst = max(worst, _difference(logits, true_logits), _difference(maps[same], true_maps[same]))
    return worst


def _difference(values: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    return float(np.abs(values - true).max(initial=0) / np.abs(true).max(initial=1e-12))


def _noise(batch: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    width, height = preprocessing.size
    return np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
