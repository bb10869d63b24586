"""A small version of the demo; the full one takes minutes and is run by `make demo`."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import timm
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tokenloc.commands import demo as demo_module
from tokenloc.commands.demo import WEIGHTS, demo
from tokenloc.data import create_dataset


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_module, "LENGTHS", {"train": 16, "val": 6, "test": 8})


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_demo_compares_methods_and_refined_maps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo(out=tmp_path, methods=["tscam", "tokencut"])
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert list(content["methods"]) == ["tscam", "tokencut"]
    for method, results in content["methods"].items():
        assert results["plain"]["images"] == results["refined"]["images"] == 8
        assert results["plain"]["constant_boxes"]["whole-image box"]["0.5"] < 50
        run = json.loads((tmp_path / method / "metrics.json").read_text())
        assert run["metrics"] == results["plain"]["metrics"]
    with Image.open(tmp_path / "figures/summary.png") as image:
        assert image.width > 3 * 144
        assert image.height > 4 * 144
    printed = capsys.readouterr()
    assert all(text in printed.err for text in ("tokencut", "centre 70 % box", "IoU.9*", "tokenloc demo --images"))
    assert "kept epoch" not in printed.err + printed.out  # of the training, whose output is not displayed
    demo(out=tmp_path, methods=["tscam", "tokencut"])  # the same command again
    assert json.loads((tmp_path / "metrics.json").read_text())["methods"].keys() == content["methods"].keys()


@pytest.mark.usefixtures("small")
def test_an_unknown_method_is_reported_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown method 'tscan'; did you mean 'tscam'"):
        demo(out=tmp_path, methods=["cam", "tscan"])
    assert not list(tmp_path.iterdir())


def test_the_backbone_is_small_and_names_its_origin() -> None:
    assert WEIGHTS.stat().st_size < 3e6
    with safe_open(WEIGHTS, framework="pt") as file:
        assert file.metadata()["source"] == "experiments/demo_backbone.py"


@pytest.mark.slow
def test_own_images_are_localized_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, photos = tmp_path / "vit.safetensors", tmp_path / "photos"
    save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), weights)
    photos.mkdir()
    for index in range(2):
        create_dataset("scenes", None, "test", size=(80, 60)).image(index).save(photos / f"{index}.png")
    results = demo(out=tmp_path, images=photos, backbone="vit_tiny_patch16_224", pretrained=weights)
    found = json.loads(results.read_text())["localizations"]
    assert [Path(one["file"]).name for one in found] == ["0.png", "1.png"]
    assert {one["label"] for one in found} == {"object"}
    assert {path.name for path in (results.parent / "images").iterdir()} == {"0.jpg", "1.jpg"}


def test_without_a_download_a_file_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> None:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "get_session", unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(FileNotFoundError, match=r"weights of vit_small_patch16_224.dino .* --pretrained WEIGHTS"):
        demo(out=tmp_path, images=tmp_path)
