"""The ONNX file computes what PyTorch computes, for every exportable method."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import tokenloc
from tests.runs import TINY_VIT
from tests.test_docs import blocks
from tokenloc.backbones import create_backbone
from tokenloc.cli import main
from tokenloc.data import Preprocessing, create_dataset, evaluation_transform, read_image
from tokenloc.export import onnx_graph
from tokenloc.export.onnx_graph import METADATA, export_onnx
from tokenloc.methods import METHODS, Method, ModelConfig, list_methods
from tokenloc.models import create_model
from tokenloc.models.metadata import ModelMetadata, Threshold

CLASSES = ("bird", 'cat, "big" 🐦', "dog")
EXPORTABLE = [name for name in list_methods() if METHODS[name].exportable]
SMALL = Preprocessing(size=(48, 32), resize=(56, 40), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def tiny(method: str) -> tuple[Method, ModelMetadata]:
    model = create_model(method, "vit_tiny_patch16_224", 3, False, (32, 48), {**TINY_VIT, "depth": 4})
    return model.eval(), ModelMetadata(model.config, CLASSES, SMALL, Threshold(0.35, "by hand"))


def run_onnx(path: Path, pixels: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"pixels": pixels}))


def pixels_of(images: list[Image.Image], size: tuple[int, int]) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(image.resize(size, Image.Resampling.BILINEAR)) for image in images])


def scenes(count: int) -> list[Image.Image]:
    dataset = create_dataset("scenes", None, "test", size=(70, 50), length=count)
    return [dataset.image(index) for index in range(count)]


@pytest.fixture(scope="module")
def cam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the map of the most probable class; each export takes seconds."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(*tiny("cam"), path)
    return path


def assert_as_torch(path: Path, model: Method, preprocessing: Preprocessing, images: list[Image.Image]) -> None:
    """Compare from images on: with PyTorch the preprocessing is tokenloc's, with ONNX it is Pillow and the file."""
    transform = evaluation_transform(preprocessing, "resize")
    with torch.no_grad():
        batch = torch.stack([transform(image)[0] for image in images])
        logits, maps = model.localize(batch, torch.arange(model.num_classes).expand(len(images), -1))
    onnx_logits, onnx_maps = run_onnx(path, pixels_of(images, preprocessing.size))
    np.testing.assert_allclose(onnx_logits, logits, atol=1e-4)
    np.testing.assert_allclose(onnx_maps, maps, atol=1e-4 * float(maps.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("method", EXPORTABLE)
def test_maps_of_all_classes_match_pytorch(method: str, tmp_path: Path) -> None:
    model, metadata = tiny(method)
    assert 0 <= export_onnx(model, metadata, tmp_path / "model.onnx", "all") < 1e-4
    assert_as_torch(tmp_path / "model.onnx", model, SMALL, scenes(3))


@pytest.mark.slow
def test_cam_on_a_cnn(tmp_path: Path) -> None:
    model = create_model("cam", "resnet10t", 3, False, conv_channels=8).eval()
    metadata = ModelMetadata(model.config, CLASSES, SMALL)
    assert 0 <= export_onnx(model, metadata, tmp_path / "model.onnx", "all") < 1e-4
    assert_as_torch(tmp_path / "model.onnx", model, SMALL, scenes(3))


@pytest.mark.slow
@pytest.mark.parametrize("method", EXPORTABLE)
def test_real_weights_on_real_images(method: str, shared_dir: Path, tmp_path: Path) -> None:
    """The first four of twelve blocks are enough for SAT and export in a third of the time."""
    weights = shared_dir / "data/vit_tiny_patch16_224.safetensors"
    backbone, normalisation = create_backbone("vit_tiny_patch16_224", weights)
    backbone.blocks, backbone.depth = backbone.blocks[:4], 4
    model = METHODS[method](backbone, 10).eval()
    preprocessing = Preprocessing(mean=normalisation.mean, std=normalisation.std)
    metadata = ModelMetadata(ModelConfig(method, backbone.name, 10), tuple("abcdefghij"), preprocessing)
    assert 0 <= export_onnx(model, metadata, tmp_path / "model.onnx", "all") < 1e-4
    files = sorted((shared_dir / "data/cub10").rglob("*.jpg"))[::40]
    assert len(files) > 5
    assert_as_torch(tmp_path / "model.onnx", model, preprocessing, [read_image(file) for file in files])


@pytest.mark.slow
def test_the_map_of_the_top_class(cam: Path) -> None:
    torch.manual_seed(1)
    model, _ = tiny("cam")
    pixels = pixels_of(scenes(2), SMALL.size)
    with torch.no_grad():
        logits, maps = onnx_graph.Graph(model, SMALL, "all")(torch.from_numpy(pixels))
    _, onnx_maps = run_onnx(cam, pixels)
    assert onnx_maps.shape == (2, 1, 4, 6)
    top = [maps[index, int(best)].numpy() for index, best in enumerate(logits.argmax(dim=1))]
    np.testing.assert_allclose(onnx_maps[:, 0], top, atol=1e-5)


@pytest.mark.slow
def test_the_file_is_valid_and_describes_itself(cam: Path) -> None:
    content = onnx.load(cam)
    onnx.checker.check_model(content, full_check=True)
    (metadata,) = (json.loads(entry.value) for entry in content.metadata_props if entry.key == METADATA)
    assert metadata == {
        "version": tokenloc.__version__,
        "method": "cam",
        "backbone": "vit_tiny_patch16_224",
        "classes": list(CLASSES),
        "size": [48, 32],
        "interpolation": "bilinear",
        "threshold": 0.35,
        "maps": "top",
    }
    assert [path.name for path in cam.parent.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_the_comparison_detects_other_weights(cam: Path) -> None:
    other, _ = tiny("cam")
    assert onnx_graph.largest_difference(cam, onnx_graph.Graph(other, SMALL), SMALL) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "side"), [("vit_small_patch14_reg4_dinov2", 56), ("vit_small_patch16_dinov3", 64)]
)
def test_registers_and_rotary_positions(
    backbone: str, side: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    model = create_model("tscam", backbone, 3, False, side, options).eval()
    metadata = ModelMetadata(model.config, CLASSES, Preprocessing(size=(side, side), resize=(side, side)))
    assert 0 <= export_onnx(model, metadata, tmp_path / "model.onnx", "all") < 1e-4
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("method", [name for name in list_methods() if name not in EXPORTABLE])
def test_other_methods_are_refused(method: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{method} cannot be exported to ONNX: .*eigenvalue solver.*Localizer"):
        export_onnx(*tiny(method), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = SimpleNamespace(model=SimpleNamespace(metadata_props={}), save=lambda path, **_: path.touch())
    monkeypatch.setattr(onnx_graph, "_export", lambda *_: program)
    monkeypatch.setattr(onnx_graph, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="the ONNX file of cam differs from PyTorch by nan"):
        export_onnx(*tiny("cam"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bad_values_and_missing_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, metadata = tiny("cam")
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match="unknown maps 'best'.*Valid: all, top"):
        export_onnx(model, metadata, path, "best")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript is not installed; .*pip install 'tokenloc\[onnx\]'"):
        export_onnx(model, metadata, path)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"model\.onnx already exists; .*--overwrite"):
        export_onnx(model, metadata, path)
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_the_documented_snippet_runs_without_tokenloc_and_finds_the_same_box(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = str(run / "checkpoints/best.ckpt")
    assert main(["export", checkpoint, "--out", str(tmp_path / "model.onnx")]) == 0
    (image,) = scenes(1)
    image.save(tmp_path / "photo.jpg")
    expected = tokenloc.Localizer.from_checkpoint(checkpoint, device="cpu")(tmp_path / "photo.jpg")
    (code,) = blocks("docs/onnx.md", "python")
    assert len([line for line in code.splitlines() if line]) <= 24
    monkeypatch.chdir(tmp_path)
    for module in ("tokenloc", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    names: dict[str, Any] = {}
    exec(compile(code, "onnx.md", "exec"), names)
    assert names["label"] == expected.label
    assert names["score"] == pytest.approx(expected.score, abs=1e-5)
    assert names["box"] == pytest.approx(expected.boxes[0].tolist(), abs=1e-6)
