"""Cached features of a frozen backbone: the same training as through the backbone, in complete files."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs import in_process, tiny_run, tiny_settings, weights
from tests.training.test_nothing_lost import die
from tokenloc.data import ImageDataset, Preprocessing, Sample, TrainingImages, train_transform
from tokenloc.methods import METHODS
from tokenloc.methods.base import Frozen
from tokenloc.models import create_model
from tokenloc.training import cached_features
from tokenloc.training.cached_features import CachedFeatureData, FeatureCache, feature_sources
from tokenloc.training.config import ModelChoice, Optimisation
from tokenloc.training.data import TrainingData, epoch_seed

FROZEN = [name for name in METHODS.names() if issubclass(METHODS[name], Frozen)]
SMALL = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "drop_path_rate": 0.5}
PREPROCESSING = Preprocessing((32, 32), (40, 40))
LENGTH = 9


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_features, "PART", 4)
    monkeypatch.setattr(cached_features, "BATCH", 3)


def small(name: str = "lcar") -> Frozen:
    model = create_model(name, "vit_tiny_patch16_224", 3, False, 32, SMALL)
    assert isinstance(model, Frozen)
    return model


def images(folder: Path) -> ImageDataset:
    """Return images of noise, written unless they exist; the label of image i is i mod 3."""
    noise = np.random.default_rng(0).integers(0, 256, (LENGTH, 44, 50, 3), np.uint8)
    if not folder.exists():
        folder.mkdir()
        for index in range(LENGTH):
            Image.fromarray(noise[index]).save(folder / f"{index}.png")
    samples = [Sample(f"{n}.png", folder / f"{n}.png", n % 3) for n in range(LENGTH)]
    return ImageDataset("train", ["a", "b", "c"], samples)


def cached(folder: Path, model: Frozen, dataset: ImageDataset, views: int = 2, seed: int = 5) -> CachedFeatureData:
    data = TrainingData(dataset, None, PREPROCESSING, 4, 0, seed)
    sources = feature_sources(model, dataset, PREPROCESSING, seed, {})
    return CachedFeatureData(data, model, FeatureCache(folder, sources, len(dataset)), views)


def fill(data: CachedFeatureData, epochs: int = 9) -> tuple[list[str], list[int]]:
    """Fill a cache; return the reported messages and the computed parts."""
    messages: list[str] = []
    computed: list[int] = []

    def noting(parts: Any, _: str) -> Any:
        for part in parts:
            yield part
            computed.append(part)

    data.fill(epochs, "cpu", messages.append, noting)
    return messages, computed


def examples(data: CachedFeatureData, epoch: int) -> tuple[torch.Tensor, list[int]]:
    items = [data.examples(epoch)[index] for index in range(LENGTH)]
    return torch.stack([pooled for pooled, _ in items]), [label for _, label in items]


@pytest.mark.parametrize("name", FROZEN)
def test_a_view_is_what_the_backbone_makes_of_that_epochs_crops(name: str, tmp_path: Path) -> None:
    model, dataset = small(name), images(tmp_path / "images")
    data = cached(tmp_path / "cache", model, dataset)
    assert fill(data)[1] == [0, 1, 2, 0, 1, 2]
    views = []
    for epoch in range(3):
        crops = TrainingImages(dataset, train_transform(PREPROCESSING), seed=epoch_seed(5, epoch % 2))
        expected = []
        for rows in ([0, 1, 2], [3], [4, 5, 6], [7], [8]):  # parts of four, in batches of three
            features = model.backbone(torch.stack([crops[row][0] for row in rows]))
            expected.append(model.pool(features))
        pooled, labels = examples(data, epoch)
        assert torch.equal(pooled, torch.cat(expected))
        assert labels == [n % 3 for n in range(LENGTH)]
        views.append(pooled)
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


def run(out: Path, method: str, views: int, cache: Path | None = None, **changes: Any) -> dict[str, torch.Tensor]:
    data = tiny_settings(out)["data"]
    data = replace(data, calibration_split=None, test_split=None, cached_views=views, cache=cache)
    model = ModelChoice(method, "vit_tiny_patch16_224", False, backbone_options=SMALL)
    optimisation = Optimisation(epochs=2, batch_size=8, lr=1e-2)
    tiny_run(out, **{"data": data, "model": model, "optimisation": optimisation, **changes})
    return weights(out)


@pytest.mark.slow
@pytest.mark.parametrize("method", FROZEN)
def test_training_equals_that_through_the_backbone(method: str, tmp_path: Path) -> None:
    expected, twice, once = (run(tmp_path / str(views), method, views) for views in (0, 2, 1))
    for name, value in expected.items():
        torch.testing.assert_close(twice[name], value, rtol=1e-4, atol=2e-5)
        learned = not name.startswith("model.backbone.") and value.is_floating_point()  # not a count of batches
        assert learned != torch.equal(once[name], value)
    assert [path.name for path in sorted((tmp_path / "2/features").glob("*/view-*"))] == ["view-0", "view-1"]


def test_memory_maps_train_bit_identically_to_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(tmp_path / "mapped", "lcar", 1)
    mapped = CachedFeatureData.examples

    def in_memory(self: CachedFeatureData, epoch: int) -> list[tuple[torch.Tensor, int]]:
        stored = mapped(self, epoch)
        return [stored[index] for index in range(len(stored))]

    monkeypatch.setattr(CachedFeatureData, "examples", in_memory)
    found = run(tmp_path / "memory", "lcar", 1)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_existing_features_are_not_computed_again(tmp_path: Path) -> None:
    model, dataset = small(), images(tmp_path / "images")
    assert fill(cached(tmp_path / "cache", model, dataset), epochs=1)[1] == [0, 1, 2]
    assert fill(cached(tmp_path / "cache", model, dataset))[1] == [0, 1, 2]  # the second view
    assert fill(cached(tmp_path / "cache", model, dataset)) == ([], [])


def flip_a_bit(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda content: content[:20], id="shorter than a checksum"),
        pytest.param(lambda content: content[:150], id="cut"),
        pytest.param(lambda content: content[:-32], id="without a checksum"),  # of an older version
        pytest.param(lambda content: flip_a_bit(content, 140), id="a feature"),
        pytest.param(lambda content: flip_a_bit(content, -33), id="a label"),
        pytest.param(lambda content: flip_a_bit(content, -1), id="the checksum"),
        pytest.param(lambda content: content.replace(b"'shape': (4,)", b"'shape': (9,)"), id="the count"),
    ],
)
def test_damaged_files_are_reported_and_computed_again(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    model, dataset = small(), images(tmp_path / "images")
    data = cached(tmp_path / "cache", model, dataset, views=1)
    fill(data)
    before = examples(data, 0)
    damaged = data.cache.files(0)[1]
    content = damaged.read_bytes()
    damaged.write_bytes(damage(content))
    messages, computed = fill(data)
    assert computed == [1]
    assert messages == [f"{damaged} is damaged, or has no checksum, and is computed again"]
    assert torch.equal(examples(data, 0)[0], before[0])
    assert examples(data, 0)[1] == before[1]


def test_a_count_beyond_the_file_allocates_nothing(tmp_path: Path) -> None:
    model, dataset = small(), images(tmp_path / "images")
    data = cached(tmp_path / "cache", model, dataset, views=1)
    fill(data)
    path = data.cache.files(0)[1]
    header = path.read_bytes()[:128].replace(b"'shape': (4,), }        ", b"'shape': (4000000000,), }")
    path.write_bytes(header + hashlib.sha256(header).digest())
    assert fill(data)[1] == [1]


@pytest.mark.parametrize(
    ("changed", "name"), [("weights", "weights"), ("file", "images"), ("label", "images"), ("seed", "seed")]
)
def test_features_of_other_sources_are_reported_and_not_used(changed: str, name: str, tmp_path: Path) -> None:
    model, dataset = small(), images(tmp_path / "images")
    data = cached(tmp_path / "cache", model, dataset)
    fill(data)
    if changed == "weights":
        next(model.backbone.parameters()).data.flatten()[0] += 1
    elif changed == "file":
        os.utime(tmp_path / "images/4.png", ns=(1, 1))
    elif changed == "label":
        dataset.samples = [replace(dataset.samples[0], label=1), *dataset.samples[1:]]
    other = cached(tmp_path / "cache", model, dataset, seed=6 if changed == "seed" else 5)
    messages, computed = fill(other)
    expected = f"the features in {data.cache.path} are of different {name}; computing new ones in {other.cache.path}"
    assert messages == [expected]
    assert len(computed) == 6
    assert fill(data) == ([], [])  # the first features are unchanged


def test_the_sources_do_not_include_the_head(tmp_path: Path) -> None:
    model, dataset = small(), images(tmp_path / "images")
    sources = feature_sources(model, dataset, PREPROCESSING, 5, {})
    model.head.weight.data += 1
    assert feature_sources(model, dataset, PREPROCESSING, 5, {}) == sources
    assert feature_sources(model, dataset, PREPROCESSING, 5, {"length": 3})["images"] != sources["images"]
    assert feature_sources(model, dataset, PREPROCESSING.at(64), 5, {})["preprocessing"] != sources["preprocessing"]


def small_cache(folder: Path) -> CachedFeatureData:
    torch.manual_seed(0)
    cached_features.PART, cached_features.BATCH = 4, 3
    return cached(folder / "cache", small(), images(folder / "images"))


def die_while_filling(folder: Path) -> None:
    data = small_cache(folder)
    write, count = FeatureCache.write, iter(range(99))

    def dying(self: FeatureCache, *arguments: Any) -> None:
        if next(count) == 2:
            die()
        write(self, *arguments)

    FeatureCache.write = dying
    fill(data)


def fill_a_full_disk(folder: Path) -> None:
    data = small_cache(folder)
    data.cache.create(print)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
    try:
        fill(data)
    except OSError as error:
        (folder / "message").write_text(str(error)[:600])


@pytest.mark.slow
def test_after_a_kill_only_the_rest_is_computed(tmp_path: Path) -> None:
    images(tmp_path / "images")
    assert in_process(die_while_filling, tmp_path) == -9
    files = sorted(path.name for path in (tmp_path / "cache").rglob("view-0/*"))
    assert files == ["00000.npy", "00001.npy"]
    data = small_cache(tmp_path)
    (data.cache.path / "view-0/.partial-x.npy").write_bytes(b"half a file")
    assert fill(data) == ([], [2, 0, 1, 2])
    assert not list((tmp_path / "cache").rglob(".*"))
    unbroken = cached(tmp_path / "unbroken", data.model, images(tmp_path / "images"))
    fill(unbroken)
    for epoch in range(2):
        assert torch.equal(examples(data, epoch)[0], examples(unbroken, epoch)[0])


def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    images(tmp_path / "images")
    in_process(fill_a_full_disk, tmp_path)
    message = (tmp_path / "message").read_text()
    assert "view-0/00000.npy (File too large)" in message
    assert "choose another folder with --data.cache, then continue with --resume" in message
    assert not list((tmp_path / "cache").rglob(".partial-*"))
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_methods_that_train_their_backbone_have_no_cache(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"such as lcar or tokencut; tscam trains its backbone"):
        run(tmp_path / "run", "tscam", 2)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_runs_share_a_folder_and_may_resume_with_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = tmp_path / "shared"
    once = run(tmp_path / "one", "tokencut", 2, shared)
    files = {path: path.stat().st_mtime_ns for path in shared.rglob("*.npy")}
    assert len(files) == 12
    again = run(tmp_path / "two", "tokencut", 2, shared)
    assert {path: path.stat().st_mtime_ns for path in shared.rglob("*.npy")} == files
    assert all(torch.equal(again[name], value) for name, value in once.items())
    longer = Optimisation(epochs=3, batch_size=8, lr=1e-2)
    run(tmp_path / "two", "tokencut", 2, tmp_path / "elsewhere", optimisation=longer, resume=True)
    assert "resumed with  data.cache:" in capsys.readouterr().err


def test_a_new_models_backbone_is_in_evaluation_mode() -> None:
    model = create_model("tokencut", "vit_tiny_patch16_224", 3, False, 32, SMALL)
    assert model.head.training
    assert not any(module.training for module in model.backbone.modules())
