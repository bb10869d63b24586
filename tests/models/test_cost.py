"""Parameters and multiply-accumulates, checked against the papers and a count by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tokenloc.cli import main
from tokenloc.methods import ModelConfig
from tokenloc.models.cost import model_cost

DEIT = "deit_small_patch16_224"
VGG = ("cam", "vgg16", 200, None, {"conv_channels": 1024}, {"output_stride": 16})


@pytest.mark.parametrize(
    ("config", "name", "published", "tolerance"),
    [
        (("tscam", DEIT, 1000), "parameters", 25.1, 0.05),  # TS-CAM, Table 3
        (("tscam", DEIT, 1000), "macs", 5.29, 0.015),
        (VGG, "parameters", 19.6, 0.05),
        (VGG, "macs", 16.3, 0.05),
        (("lctr", DEIT, 1000), "parameters", 36.8, 0.05),  # SAT, Table 14
        (("sat", DEIT, 1000), "parameters", 25.1, 0.05),
        (("sat", DEIT, 1000), "layer_macs", 4.9, 0.05),
        (("scm", DEIT, 1000), "layer_macs", 4.9, 0.05),
    ],
)
def test_published_counts(config: tuple[Any, ...], name: str, published: float, tolerance: float) -> None:
    assert getattr(model_cost(ModelConfig(*config)), name) == pytest.approx(published, abs=tolerance)


def test_a_count_by_hand() -> None:
    """A ViT with width 48 and 3 heads on 4 x 6 patches: 25 tokens."""
    config = ModelConfig("sat", "vit_tiny_patch16_224", 5, None, {}, {"embed_dim": 48, "depth": 4, "num_heads": 3})
    cost, tokens = model_cost(config, (96, 64)), 26  # class token and spatial token
    layers = 24 * 48 * 3 * 16**2 + 4 * tokens * 12 * 48**2 + 24 * 5 * 48 * 9
    attention = 4 * 2 * tokens**2 * 48 + 3 * tokens * 48  # three gates
    assert cost.layer_macs * 1e9 == pytest.approx(layers)
    assert cost.macs * 1e9 == pytest.approx(layers + attention)


@pytest.mark.parametrize("method", ["tokencut", "lcar"])
def test_methods_with_an_eigenvalue_solver(method: str) -> None:
    assert model_cost(ModelConfig(method, DEIT, 10)).macs == pytest.approx(4.6, abs=0.05)


def test_info_of_a_model_with_options(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model.method", "cam", "--model.backbone", "vgg16", "--num_classes", "200"]
    words += ["--model.backbone_options", "{output_stride: 16}", "--model.options", "{conv_channels: 1024}"]
    assert main(["info", *words]) == 0
    assert capsys.readouterr().out.startswith("parameters: 19.64 M\nmultiply-accumulates of a 224 x 224 image: 16.27 G")


def test_info_of_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--model.method", "tscam", "--model.backbone", DEIT]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "parameters: 25.12 M",
        "multiply-accumulates of a 224 x 224 image: 5.28 G (4.92 G without attention products)",
        "trainable parameters: 21.67 M of 21.67 M in the backbone, 3.46 M in the head; 0.0 % of all are frozen",
    ]
    assert main(["info", "--model.method", "sat", "--model.backbone", DEIT, "--freeze", "most"]) == 0
    frozen = capsys.readouterr().out.splitlines()[-1]
    assert (
        frozen
        == "trainable parameters: 1.34 M of 21.67 M in the backbone, 3.46 M in the head; 80.9 % of all are frozen"
    )
