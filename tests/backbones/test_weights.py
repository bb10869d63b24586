"""Loading weights from the hub and from files, and refusing invalid files."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import save_file

from tests.runs import TINY_VIT
from tokenloc.backbones import create_backbone
from tokenloc.backbones.weights import read_weights, require_download
from tokenloc.models.checkpoint import load_checkpoint

NAME, SMALL = "vit_tiny_patch16_224", {"embed_dim": 48, "depth": 2, "num_heads": 3}


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    backbone, _ = create_backbone(NAME, pretrained=False, **SMALL)
    return {key: value.clone() + 1 for key, value in backbone.state_dict().items()}


def test_safetensors_are_loaded_with_their_normalisation(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    notes = {"mean": "0.1 0.2 0.3", "std": "0.4 0.5 0.6"}
    save_file({**weights, "head.weight": torch.zeros(7, 48), "head.bias": torch.zeros(7)}, path, notes)
    backbone, normalisation = create_backbone(NAME, path, **SMALL)
    assert all(torch.equal(value, weights[key]) for key, value in backbone.state_dict().items())
    assert (normalisation.mean, normalisation.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: w,
        lambda w: {"model": w, "epoch": 3},
        lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},
    ],
)
def test_torch_files_are_loaded_from_their_containers(wrap, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(wrap(weights), path)
    backbone, normalisation = create_backbone(NAME, path, **SMALL)
    assert all(torch.equal(value, weights[key]) for key, value in backbone.state_dict().items())
    assert normalisation.mean == (0.5, 0.5, 0.5)  # timm's for this name


def test_position_embeddings_of_another_size_are_interpolated(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(weights, path)
    backbone, _ = create_backbone(NAME, path, image_size=(64, 96), **SMALL)
    assert backbone.pos_embed.shape == (1, 1 + 4 * 6, 48)


def test_real_weights_have_their_normalisation(shared_dir: Path) -> None:
    _, normalisation = create_backbone(NAME, shared_dir / "data/vit_tiny_patch16_224.safetensors")
    assert normalisation.mean == (0.5, 0.5, 0.5)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere\.pth; expected a \.safetensors or \.pth"):
        create_backbone(NAME, tmp_path / "nowhere.pth", **SMALL)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_truncated_files_are_reported(suffix: str, weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / f"w.{suffix}"
    save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"w\.{suffix} \(1000 bytes\) .*complete"):
        read_weights(path)


class Trap:
    """An object whose unpickling runs a command."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("plain_pickle", [True, False])
def test_code_in_a_checkpoint_is_never_run(plain_pickle: bool, tmp_path: Path) -> None:
    path, witness = tmp_path / "w.pth", tmp_path / "it_ran"
    if plain_pickle:
        path.write_bytes(pickle.dumps({"a": Trap(witness)}))
    else:
        torch.save({"a": Trap(witness)}, path)
    with pytest.raises(ValueError, match=r"w\.pth was refused: .*could run code.*state_dict"):
        read_weights(path)
    assert not witness.exists()


def test_weights_of_another_network_are_refused(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({key: value for key, value in weights.items() if "blocks.1" not in key}, path)
    with pytest.raises(ValueError, match=r"of another network: 12 tensors are missing \(blocks\.1\.norm1.weight, "):
        create_backbone(NAME, path, **SMALL)
    save_file({**weights, "relation.weight": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"1 are unexpected \(relation\.weight\)"):
        create_backbone(NAME, path, **SMALL)


def test_weights_of_another_size_name_a_backbone_that_fits(tmp_path: Path) -> None:
    size = {"patch_size": 32, "embed_dim": 384, "depth": 3, "num_heads": 6}
    save_file(create_backbone(NAME, pretrained=False, **size)[0].state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="of another network: tensors have other sizes") as caught:
        create_backbone(NAME, tmp_path / "w.safetensors", depth=3)
    message = str(caught.value)
    assert "width 384 with 3 blocks and patches of 32 pixels" in message
    assert message.endswith("as --backbone vit_small_patch32_224")
    assert len(message) < 600
    assert "\n" not in message


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3}, path)
    with pytest.raises(ValueError, match="holds no named tensors"):
        read_weights(path)


def test_an_unreachable_hub_gives_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable:
        def head(self, *_: object, **__: object) -> None:
            raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "get_session", Unreachable)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    with pytest.raises(FileNotFoundError) as caught:
        create_backbone("deit_small_patch16_224", pretrained=True)
    message = str(caught.value)
    assert "\n" not in message
    assert "deit_small_patch16_224" in message
    assert "--model.pretrained PATH.safetensors" in message


def test_cached_weights_do_not_contact_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "/cache/model.safetensors")
    calls: list[str] = []
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: calls.append("the hub"))
    require_download("x", {"hf_hub_id": "timm/x"})
    require_download("x", {})  # weights outside the hub
    assert not calls


def test_an_unknown_weight_tag_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown weights of vit_small_patch8_224: 'dinno'; did you mean 'dino'\?"):
        create_backbone("vit_small_patch8_224.dinno", pretrained=True)


def test_a_backbone_without_pretrained_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="timm has no weights for vit_base_patch32_plus_256"):
        create_backbone("vit_base_patch32_plus_256", pretrained=True)


def test_a_tokenloc_checkpoint_gives_its_backbone(run: Path) -> None:
    checkpoint = run / "checkpoints/best.ckpt"
    backbone, _ = create_backbone("vit_tiny_patch16_224", checkpoint, 32, **TINY_VIT)
    trained, _ = load_checkpoint(checkpoint)
    ours, theirs = backbone.state_dict(), trained.backbone.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
