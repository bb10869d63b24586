"""`tokenloc inspect`, and the values that it draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs import TINY_VIT
from tokenloc.cli import main
from tokenloc.data import Preprocessing, create_dataset
from tokenloc.inference import Localizer
from tokenloc.inference.inspection import inspect_image
from tokenloc.models import create_model
from tokenloc.models.metadata import ModelMetadata

IMAGE = create_dataset("scenes", None, "test", size=(70, 50), length=1).image(0)
SHEETS = {"maps.png", "classes.png", "attention.png", "similarity.png", "features.png"}


def localizer(method: str, backbone: str, **options: object) -> Localizer:
    model = create_model(method, backbone, 3, False, 48, dict(options)).eval()
    return Localizer(model, ModelMetadata(model.config, ("a", "b", "c"), Preprocessing((48, 48), (56, 56))))


def test_sheets_of_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    IMAGE.save(tmp_path / "scene.png")
    words = ["inspect", str(run / "checkpoints/best.ckpt"), str(tmp_path / "scene.png"), "--out", str(tmp_path / "in")]
    assert main([*words, "--channels", "3"]) == 0
    assert {path.name for path in (tmp_path / "in/scene").iterdir()} == SHEETS
    assert "attention.png" in capsys.readouterr().err
    with Image.open(tmp_path / "in/scene/features.png") as sheet:
        assert sheet.width >= 3 * 180
        assert sheet.height > 3 * 180  # the input and two blocks
    assert main([*words, "--channels", "0"]) == 2
    refined = [*words[:-1], str(tmp_path / "refined"), "--refine", "affinity: {iterations: 2}"]
    assert main(refined) == 0
    assert {path.name for path in (tmp_path / "refined/scene").iterdir()} == SHEETS | {"refinement.png"}


def test_attention_and_similarities_of_a_vit() -> None:
    """Against timm's own forward pass, with its attention matrices computed here."""
    torch.manual_seed(1)
    inside = inspect_image(
        subject := localizer("tscam", "vit_tiny_patch16_224", **{**TINY_VIT, "patch_size": 16}), IMAGE, 2
    )
    assert [result.label for result in inside.results] == [result.label for result in subject.top(IMAGE, 2)]
    assert len(inside.attention) == 2
    assert all(map_.shape == (50, 70) and map_.min() >= 0 and map_.max() <= 1 for map_ in inside.attention)
    assert len(inside.feature_maps) == len(inside.similarities) == 3
    assert inside.feature_maps[0].shape == (32, 3, 3)
    for maps, similarities in zip(inside.feature_maps, inside.similarities, strict=True):
        tokens = maps.reshape(32, 9).T
        for i, j in ((0, 0), (2, 7), (8, 3)):
            expected = tokens[i] @ tokens[j] / np.linalg.norm(tokens[i]) / np.linalg.norm(tokens[j])
            assert similarities[i, j] == pytest.approx(expected, abs=1e-5)
    tokens = inside.feature_maps[0].reshape(32, 9).T
    assert inside.distances[2, 7] == pytest.approx(np.linalg.norm(tokens[2] - tokens[7]), rel=1e-3)
    embeddings = subject.model.backbone.pos_embed[0, 1:].detach().numpy()
    expected = embeddings[4] @ embeddings[1] / np.linalg.norm(embeddings[4]) / np.linalg.norm(embeddings[1])
    assert inside.positions is not None
    assert inside.positions[4, 1] == pytest.approx(expected, abs=1e-5)


def test_a_cnn_has_features_only() -> None:
    inside = inspect_image(localizer("cam", "resnet10t"), IMAGE)
    assert [maps.shape for maps in inside.feature_maps[1:]] == [(64, 12, 12), (128, 6, 6), (256, 3, 3), (512, 2, 2)]
    assert not inside.attention
    assert inside.positions is None
    assert not inside.maps


def test_sat_is_inspected_with_its_spatial_token() -> None:
    subject = localizer("sat", "vit_tiny_patch16_224", **{**TINY_VIT, "patch_size": 16, "depth": 4})
    with torch.no_grad():
        subject.model.loc_token.normal_()
        changed = inspect_image(subject, IMAGE).feature_maps[-1]
        subject.model.loc_token.zero_()
    assert not np.allclose(changed, inspect_image(subject, IMAGE).feature_maps[-1], atol=1e-4)
