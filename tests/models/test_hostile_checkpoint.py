"""A checkpoint cannot make PyTorch allocate more than the file has, run code, or fail with another type of error."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tokenloc.backbones import create_backbone
from tokenloc.data import Preprocessing
from tokenloc.models import create_model
from tokenloc.models.allocation import check_model
from tokenloc.models.checkpoint import load_checkpoint
from tokenloc.models.metadata import ModelMetadata

Content = dict[str, Any]
GIANT = {"backbone": "vit_giant_patch14_224", "backbone_options": {}}
SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}


@pytest.fixture(scope="module")
def small() -> Content:
    model = create_model("cam", "vit_tiny_patch16_224", 2, False, 32, SMALL)
    metadata = ModelMetadata(model.config, ("a", "b"), Preprocessing((32, 32), (36, 36)))
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    return {"tokenloc": metadata.to_dict(), "state_dict": weights}


def options(content: Content, **changes: Any) -> None:
    content["tokenloc"]["model"]["backbone_options"].update(changes)


def shared_lists(depth: int) -> list[Any]:
    values: list[Any] = []
    for _ in range(depth):
        values = [values, values]
    return values


def set_weights(change: Callable[[dict[str, Any]], Any], content: Content) -> None:
    content["state_dict"] = change(content["state_dict"])


def claim_classes(content: Content) -> None:
    """A classifier of 100 GB by a tensor of one value, and names that are one text."""
    name = "model.head.weight"
    content["state_dict"][name] = torch.zeros(1).expand(2**30, *content["state_dict"][name].shape[1:])


CHANGES: list[tuple[Callable[[Content], None], str]] = [
    (lambda content: content["tokenloc"]["model"].update(GIANT), "do not fit cam on vit_giant"),
    (partial(options, depth=50_000), "many more layers than the weights"),
    (partial(options, depth=10**12), "the largest plausible integer is 100000"),
    (partial(options, embed_dim=99_999), "do not fit cam"),
    (partial(options, depth=3), "do not fit cam"),
    (partial(options, depth=[1]), "cannot be created"),
    (partial(options, checkpoint_path="x.pth"), "'checkpoint_path' is not allowed"),
    (partial(options, x=torch.zeros(3)), "expected a finite number"),
    (partial(options, x=float("nan")), "expected a finite number"),
    (partial(options, x=shared_lists(45)), "more than 1000000 characters"),
    (lambda content: content.update(tokenloc=shared_lists(45)), "more than 1000000 characters"),
    (lambda content: content["tokenloc"].update(classes=[1, 2]), "must be str"),
    (partial(set_weights, list), "state_dict must be named tensors, not list"),
    (partial(set_weights, lambda weights: {**weights, "x": [1]}), "not 'x': list"),
    (partial(set_weights, lambda weights: {**weights, 3: torch.zeros(1)}), "not 3: torch.float32"),
    (partial(set_weights, lambda weights: {**weights, "x": torch.eye(2).to_sparse()}), "torch.sparse_coo"),
    (partial(set_weights, lambda weights: {**weights, "x": torch.eye(2) + 1j}), "not 'x': torch.complex64"),
    (partial(set_weights, lambda weights: dict([*weights.items()][:1])), "do not fit cam"),
    (claim_classes, "in a file of"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_hostile_checkpoint_is_refused(
    change: Callable[[Content], None], message: str, small: Content, tmp_path: Path
) -> None:
    torch.save(small, tmp_path / "small.ckpt")
    content = torch.load(tmp_path / "small.ckpt", weights_only=True)
    change(content)
    torch.save(content, tmp_path / "hostile.ckpt")
    with pytest.raises(ValueError, match=message) as error:
        load_checkpoint(tmp_path / "hostile.ckpt")
    assert len(str(error.value)) < 1000


def test_the_small_checkpoint_itself_loads(small: Content, tmp_path: Path) -> None:
    torch.save(small, tmp_path / "small.ckpt")
    model, metadata = load_checkpoint(tmp_path / "small.ckpt")
    assert metadata.classes == ("a", "b")
    stored = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.testing.assert_close(stored, small["state_dict"], rtol=0, atol=0)


def test_a_compressed_checkpoint_is_refused(small: Content, tmp_path: Path) -> None:
    """PyTorch decompresses records: a file of 1 MB could hold 1 GB of zeros."""
    torch.save(small, tmp_path / "small.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "small.ckpt") as old,
        zipfile.ZipFile(tmp_path / "new.ckpt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    with pytest.raises(ValueError, match="it is compressed"):
        load_checkpoint(tmp_path / "new.ckpt")


def test_options_of_a_recipe_describe_a_network(tmp_path: Path) -> None:
    """timm would load the file of checkpoint_path, in older versions with pickle."""
    for name in ("checkpoint_path", "pretrained_cfg", "cache_dir"):
        with pytest.raises(ValueError, match=f"'{name}' is not allowed"):
            create_backbone("vit_tiny_patch16_224", False, **{name: str(tmp_path)})
    for wrong in ({"num_heads": 7}, {"depth": "x"}, {"block_fn": "x"}):
        with pytest.raises(ValueError, match="does not take these options"):
            create_backbone("vit_tiny_patch16_224", False, **wrong)


def test_checking_a_model_needs_no_memory_for_it(small: Content) -> None:
    """One of 10,000 million parameters, which would take 40 GB."""
    huge = partial(create_model, "cam", "vit_giant_patch14_224", 10, False, None, {"embed_dim": 4096, "depth": 48})
    with pytest.raises(RuntimeError, match="Missing key"):
        check_model(huge, {}, small["state_dict"])
    assert torch.empty(1).device.type == "cpu"


@pytest.mark.parametrize("backbone", ["vgg16", "resnet50", "deit_tiny_patch16_224", "conformer_tiny_patch16"])
def test_models_of_every_kind_pass_the_check(backbone: str) -> None:
    with torch.device("meta"):
        weights = create_model("cam", backbone, 3, False).state_dict()
    check_model(partial(create_model, "cam", backbone, 3, False), {}, weights)
