"""Features of a frozen backbone on disk: the same training as through the backbone, and nothing half written."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs import tiny_run, tiny_settings
from tests.training.test_nothing_lost import PROCESSES, die
from tokenloc.data import ImageDataset, Preprocessing, Sample, TrainingImages, train_transform
from tokenloc.methods.frozen import Frozen
from tokenloc.models import create_model
from tokenloc.models.checkpoint import read_checkpoint
from tokenloc.training import cached_features
from tokenloc.training.cached_features import CachedFeatureData, FeatureCache, sources_of
from tokenloc.training.config import ModelChoice, Optimisation
from tokenloc.training.fit import TrainingData
from tokenloc.training.module import epoch_seed

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
    """Write images of noise; return them, the label of number i being i mod 3."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (LENGTH, 44, 50, 3), np.uint8)
    for number in range(LENGTH):
        Image.fromarray(noise[number]).save(folder / f"{number}.png")
    samples = [Sample(f"{n}.png", folder / f"{n}.png", n % 3) for n in range(LENGTH)]
    return ImageDataset("train", ["a", "b", "c"], samples)


def cached(folder: Path, model: Frozen, dataset: ImageDataset, views: int = 2, seed: int = 5) -> CachedFeatureData:
    feed = TrainingData(dataset, None, PREPROCESSING, 4, seed=seed)
    sources = sources_of(model, dataset, PREPROCESSING, seed, {})
    return CachedFeatureData(feed, FeatureCache(folder, sources, len(dataset)), views)


def fill(feed: CachedFeatureData, model: Frozen, epochs: int = 9) -> tuple[list[str], list[int]]:
    """Fill a cache; return what was told, and the parts that were computed."""
    told: list[str] = []
    computed: list[int] = []

    def noting(parts: Any, _: str) -> Any:
        for part in parts:
            yield part
            computed.append(part)

    feed.fill(model, epochs, torch.device("cpu"), told.append, noting)
    return told, computed


def all_of(feed: CachedFeatureData, epoch: int) -> tuple[torch.Tensor, list[int]]:
    items = [feed.examples(epoch)[index] for index in range(LENGTH)]
    return torch.stack([pooled for pooled, _ in items]), [label for _, label in items]


@pytest.mark.parametrize("name", ["tokencut", "lcar"])
def test_a_view_is_what_the_backbone_makes_of_that_epochs_crops(name: str, tmp_path: Path) -> None:
    model, dataset = small(name), images(tmp_path / "images")
    feed = cached(tmp_path / "cache", model, dataset)
    assert fill(feed, model)[1] == [0, 1, 2, 0, 1, 2]
    views = []
    for epoch in range(3):
        crops = TrainingImages(dataset, train_transform(PREPROCESSING), seed=epoch_seed(5, epoch % 2))
        expected = []
        for rows in ([0, 1, 2], [3], [4, 5, 6], [7], [8]):  # parts of four, three at a time
            seen = model.backbone(torch.stack([crops[row][0] for row in rows]))
            mean = seen.patches.mean(dim=1)
            expected.append(mean if name == "tokencut" else torch.cat([seen.class_token, mean], dim=1))
        pooled, labels = all_of(feed, epoch)
        assert torch.equal(pooled, torch.cat(expected))
        assert labels == [n % 3 for n in range(LENGTH)]
        views.append(pooled)
    assert torch.equal(views[0], views[2])
    assert not torch.equal(views[0], views[1])


def run(out: Path, method: str, views: int, **changes: Any) -> dict[str, torch.Tensor]:
    settings = tiny_settings(out)
    data = replace(settings["data"], calibration_split=None, test_split=None, cached_views=views)
    model = ModelChoice(method, "vit_tiny_patch16_224", False, backbone_options=SMALL)
    optimisation = Optimisation(epochs=2, batch_size=8, lr=1e-2)
    last = tiny_run(out, **{"data": data, "model": model, "optimisation": optimisation, **changes})
    return read_checkpoint(last.with_name("last.ckpt"))["state_dict"]


@pytest.mark.parametrize("method", ["tokencut", "lcar"])
def test_training_is_that_through_the_backbone(method: str, tmp_path: Path) -> None:
    whole, kept = run(tmp_path / "whole", method, 0), run(tmp_path / "kept", method, 2)
    once = run(tmp_path / "once", method, 1)
    for name, value in whole.items():
        torch.testing.assert_close(kept[name], value, rtol=1e-4, atol=2e-5)
        assert name.startswith("model.backbone.") == torch.equal(once[name], value)
    assert [path.name for path in sorted((tmp_path / "kept/features").glob("*/view-*"))] == ["view-0", "view-1"]


def test_training_is_bitwise_that_on_the_same_features_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = run(tmp_path / "kept", "lcar", 1)

    class InMemory(torch.utils.data.Dataset[Any]):
        def __init__(self, feed: CachedFeatureData) -> None:
            crops = TrainingData.examples(feed, 0)
            model = memory["model"].eval()
            with torch.no_grad():
                parts = [list(range(first, min(first + 4, len(crops)))) for first in range(0, len(crops), 4)]
                batches = [rows[start : start + 3] for rows in parts for start in (0, 3) if rows[start : start + 3]]
                seen = [model.backbone(torch.stack([crops[row][0] for row in rows])) for rows in batches]
                self.pooled = torch.cat([torch.cat([one.class_token, one.patches.mean(dim=1)], 1) for one in seen])
            self.labels = [crops[row][1] for row in range(len(crops))]

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return self.pooled[index], self.labels[index]

    memory: dict[str, Any] = {}

    def not_filled(self: CachedFeatureData, model: Frozen, *_: Any) -> None:
        memory["model"] = model

    monkeypatch.setattr(CachedFeatureData, "fill", not_filled)
    monkeypatch.setattr(CachedFeatureData, "examples", lambda self, _: InMemory(self))
    plain = run(tmp_path / "plain", "lcar", 1)
    assert not (tmp_path / "plain/features").exists()
    assert all(torch.equal(plain[name], value) for name, value in kept.items())


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    model, dataset = small(), images(tmp_path / "images")
    feed = cached(tmp_path / "cache", model, dataset)
    assert fill(feed, model, epochs=1)[1] == [0, 1, 2]
    assert fill(cached(tmp_path / "cache", model, dataset), model)[1] == [0, 1, 2]  # the other view
    assert fill(cached(tmp_path / "cache", model, dataset), model) == ([], [])


def test_a_damaged_part_is_told_and_computed_anew(tmp_path: Path) -> None:
    model, dataset = small(), images(tmp_path / "images")
    feed = cached(tmp_path / "cache", model, dataset, views=1)
    fill(feed, model)
    before = all_of(feed, 0)[0]
    for number, keep in ((1, 150), (2, 0)):
        path = feed.cache.own / f"view-0/{number:05d}.npy"
        path.write_bytes(path.read_bytes()[:keep])
    told, computed = fill(feed, model)
    assert computed == [1, 2]
    assert told[0] == f"{feed.cache.own}/view-0/00001.npy is damaged, and is computed anew"
    assert torch.equal(all_of(feed, 0)[0], before)


@pytest.mark.parametrize(
    ("changed", "name"), [("weights", "weights"), ("file", "images"), ("label", "images"), ("seed", "seed")]
)
def test_other_sources_are_told_and_not_mixed(changed: str, name: str, tmp_path: Path) -> None:
    model, dataset = small(), images(tmp_path / "images")
    feed = cached(tmp_path / "cache", model, dataset)
    fill(feed, model)
    if changed == "weights":
        next(model.backbone.parameters()).data.flatten()[0] += 1
    elif changed == "file":
        os.utime(tmp_path / "images/4.png", ns=(1, 1))
    elif changed == "label":
        dataset.samples = [replace(dataset.samples[0], label=1), *dataset.samples[1:]]
    other = cached(tmp_path / "cache", model, dataset, seed=6 if changed == "seed" else 5)
    told, computed = fill(other, model)
    assert told == [f"{feed.cache.own} holds features of other {name}: they are not used, and computed anew beside"]
    assert len(computed) == 6
    assert fill(feed, model) == ([], [])  # the first are still there


def test_a_head_of_its_own_shares_the_features(tmp_path: Path) -> None:
    model, dataset = small(), images(tmp_path / "images")
    sources = sources_of(model, dataset, PREPROCESSING, 5, {})
    model.head.weight.data += 1
    assert sources_of(model, dataset, PREPROCESSING, 5, {}) == sources
    assert sources_of(model, dataset, PREPROCESSING, 5, {"length": 3})["images"] != sources["images"]
    assert sources_of(model, dataset, PREPROCESSING.at(64), 5, {})["preprocessing"] != sources["preprocessing"]


def filling(folder: Path, limit: int | None) -> None:
    torch.manual_seed(0)
    cached_features.PART, cached_features.BATCH = 4, 3
    model = small()
    feed = cached(folder / "cache", model, images(folder / "other" if limit else folder / "images"))
    write, count = FeatureCache.write_view, iter(range(99))

    def dying(self: FeatureCache, *arguments: Any) -> None:
        if next(count) == 2:
            die()
        write(self, *arguments)

    if limit is None:
        FeatureCache.write_view = dying
        fill(feed, model)
    else:
        feed.cache.begin(print)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            fill(feed, model)
        except OSError as error:
            (folder / "said").write_text(str(error)[:limit])


def test_after_a_kill_the_rest_is_computed(tmp_path: Path) -> None:
    process = PROCESSES.Process(target=filling, args=(tmp_path, None))
    process.start()
    process.join()
    assert process.exitcode == -9
    files = sorted(path.name for path in (tmp_path / "cache").rglob("view-0/*"))
    assert files == ["00000.npy", "00001.npy"]
    torch.manual_seed(0)
    model = small()
    samples = [Sample(f"{n}.png", tmp_path / f"images/{n}.png", n % 3) for n in range(LENGTH)]
    dataset = ImageDataset("train", ["a", "b", "c"], samples)
    feed = cached(tmp_path / "cache", model, dataset)
    assert fill(feed, model) == ([], [2, 0, 1, 2])
    unbroken = cached(tmp_path / "unbroken", model, dataset)
    fill(unbroken, model)
    for epoch in range(2):
        assert torch.equal(all_of(feed, epoch)[0], all_of(unbroken, epoch)[0])


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    process = PROCESSES.Process(target=filling, args=(tmp_path, 600))
    process.start()
    process.join()
    said = (tmp_path / "said").read_text()
    assert "view-0/00000.npy (File too large)" in said
    assert "give another folder by --data.cache, then go on with --resume" in said
    assert not list((tmp_path / "cache").rglob(".partial-*"))
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_methods_that_train_their_backbone_have_no_cache(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"tscam trains its own\. Leave it at 0, or choose lcar or tokencut"):
        run(tmp_path / "run", "tscam", 2)
    with pytest.raises(ValueError, match="data.cached_views must be at least 0; got -1"):
        run(tmp_path / "run", "tokencut", -1)
    assert not (tmp_path / "run").exists()


def test_two_runs_share_a_folder_and_one_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = replace(
        tiny_settings(tmp_path)["data"],
        calibration_split=None,
        test_split=None,
        cached_views=2,
        cache=tmp_path / "shared",
    )
    once = run(tmp_path / "one", "tokencut", 2, data=data)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.npy")}
    assert len(files) == 12
    again = run(tmp_path / "two", "tokencut", 2, data=data)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.npy")} == files
    assert all(torch.equal(again[name], value) for name, value in once.items())
    moved = replace(data, cache=tmp_path / "elsewhere")
    longer = Optimisation(epochs=3, batch_size=8, lr=1e-2)
    assert run(tmp_path / "two", "tokencut", 2, data=moved, optimisation=longer, resume=True).keys() == once.keys()
    assert "resumed with  data.cache:" in capsys.readouterr().err


def test_a_new_models_backbone_is_in_evaluation_mode() -> None:
    model = create_model("tokencut", "vit_tiny_patch16_224", 3, False, 32, SMALL)
    assert model.head.training
    assert not any(module.training for module in model.backbone.modules())
