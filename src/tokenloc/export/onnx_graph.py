"""A trained model as an ONNX file, which runs without tokenloc and PyTorch. Needs the extra ``onnx``."""

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
METADATA = "tokenloc"  # the key of the file's metadata
LARGEST_DIFFERENCE = 1e-3  # between ONNX and PyTorch, as a fraction of the largest value


class Graph(nn.Module):
    """The computation in the file, from pixels to logits and maps; arguments as for ``export_onnx``."""

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
    """Write a model as an ONNX file; return its ``largest_difference`` from PyTorch.

    Input ``pixels`` [batch, height, width, 3] uint8: upright RGB images, resized to the input size without cropping.
    Outputs ``logits`` [batch, C] float32 and ``maps`` [batch, K, h, w] float32 on the patch grid, as from
    ``Method.localize``. Metadata, JSON under the key ``tokenloc``: classes, input size (width, height), interpolation
    and threshold on maps scaled to [0, 1].

    Args:
        model: in evaluation mode, on the CPU.
        metadata: of its checkpoint.
        path: the file to write.
        maps: ``top`` for the most probable class (K = 1), ``all`` for every class (K = C).
        overwrite: replace an existing file.

    Raises:
        ValueError: if the method's maps are not a graph of tensor operations, or the file differs from PyTorch.
        FileExistsError: if the file exists, without ``overwrite``.
        ImportError: without the extra ``onnx``.
    """
    method, preprocessing = metadata.model.method, metadata.preprocessing
    if not model.exportable:
        raise ValueError(
            f"{method} cannot be exported to ONNX: its maps come from an eigenvalue solver, which ONNX lacks; use "
            "tokenloc.Localizer, or train a method such as tscam or sat"
        )
    refuse_existing(Path(path), overwrite)
    graph = Graph(model, preprocessing, maps).eval()
    with atomic_write(path) as temporary:
        program = _export(graph, preprocessing)
        description = {
            "version": __version__,
            "method": method,
            "backbone": metadata.model.backbone,
            "classes": list(metadata.classes),
            "size": list(preprocessing.size),
            "interpolation": preprocessing.interpolation,
            "threshold": default_threshold(model, metadata),
            "maps": maps,
        }
        program.model.metadata_props[METADATA] = json.dumps(description)
        program.save(temporary, external_data=False)
        difference = largest_difference(temporary, graph, preprocessing)
        if not difference <= LARGEST_DIFFERENCE:
            raise ValueError(
                f"the ONNX file of {method} differs from PyTorch by {difference:.1e} of the largest value, more than "
                f"{LARGEST_DIFFERENCE:g}; try another version of onnxruntime or torch"
            )
    return difference


def largest_difference(path: Path, graph: Graph, preprocessing: Preprocessing) -> float:
    """Return the largest difference between ONNX and PyTorch on noise, as a fraction of the largest value."""
    session = library("onnxruntime", "onnx").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = [0.0]
    for batch in (1, 3):
        pixels = _noise(batch, preprocessing)
        logits, maps = session.run(None, {"pixels": pixels})
        with torch.no_grad():
            true_logits, true_maps = (values.numpy() for values in graph(torch.from_numpy(pixels)))
        same = logits.argmax(axis=1) == true_logits.argmax(axis=1)  # they may break a tie differently
        differences += [_difference(logits, true_logits), _difference(maps[same], true_maps[same])]
    return float(np.max(differences))  # NaN if any is


def _export(graph: Graph, preprocessing: Preprocessing) -> Any:
    library("onnxscript", "onnx")
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it warns of every node that it does not optimise
    shapes = {"pixels": {0: torch.export.Dim("batch")}}
    with torch.no_grad():
        pixels = torch.from_numpy(_noise(2, preprocessing))
        program = torch.export.export(graph, (pixels,), dynamic_shapes=shapes, strict=True)
        names: dict[str, Any] = {"input_names": ["pixels"], "output_names": ["logits", "maps"]}
        return torch.onnx.export(program, (), dynamo=True, verbose=False, **names)


def _difference(values: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    return float(np.abs(values - true).max(initial=0) / np.abs(true).max(initial=1e-12))


def _noise(batch: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    width, height = preprocessing.size
    return np.random.default_rng(batch).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
