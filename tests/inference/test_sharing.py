"""Saving to folders and the hub, loading, and hostile files."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.backbones.test_weights import Trap
from tests.inference.test_streaming import CLASSES, make, make_images, values
from tests.models.fake_hub import COMMIT, Hub, point_client_at, serving
from tests.runs import prediction_options
from tokenloc.inference import Localizer
from tokenloc.methods import list_methods
from tokenloc.models.checkpoint import load_checkpoint, read_metadata, store_threshold
from tokenloc.models.hub import local_copy
from tokenloc.models.metadata import Threshold


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model."""
    return make().save_pretrained(tmp_path / "birds")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path / "cache", monkeypatch) as hub:
        yield hub


def change(folder: Path, **entries: Any) -> Path:
    """Change values in ``config.json``; ``section__name`` is a value within a section."""
    config = json.loads((folder / "config.json").read_text())
    for name, value in entries.items():
        section, _, within = name.partition("__")
        if within:
            config["tokenloc"][section][within] = value
        else:
            config["tokenloc"][section] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("method", list_methods())
def test_round_trip_is_bit_identical(method: str, tmp_path: Path) -> None:
    saved = make(method)
    loaded = Localizer.from_pretrained(saved.save_pretrained(tmp_path / "m"), device="cpu")
    assert replace(loaded.metadata, threshold=None) == saved.metadata
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected, found = saved.model.localize(images), loaded.model.localize(images)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert [values(one) for one in loaded(make_images(3))] == [values(one) for one in saved(make_images(3))]


def test_folder_contains_no_pickles(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert set(load_file(folder / "model.safetensors")) == set(make().model.state_dict())


def test_threshold_and_metrics_of_a_trained_model_are_saved(run: Path, tmp_path: Path) -> None:
    source = Localizer.from_checkpoint(run / "checkpoints/best.ckpt", "cpu")
    shared = Localizer.from_pretrained(source.save_pretrained(tmp_path / "m"), device="cpu")
    assert shared.metadata.threshold == source.metadata.threshold
    measured = json.loads((run / "metrics.json").read_text())["metrics"]
    saved = json.loads((tmp_path / "m/metrics.json").read_text())
    assert saved["metrics"]["gt_known"] == measured["gt_known"]
    assert f"| GT-known | {measured['gt_known']:.1f} |" in (tmp_path / "m/README.md").read_text()
    again = shared.save_pretrained(tmp_path / "again")
    for name in ("README.md", "config.json", "metrics.json", "model.safetensors"):
        first = (tmp_path / "m" / name).read_bytes()
        assert (again / name).read_bytes() == first.replace(b'from_pretrained("m")', b'from_pretrained("again")')


def test_metrics_belong_to_the_evaluated_checkpoint_only(run: Path, tmp_path: Path) -> None:
    folder = Localizer.from_checkpoint(run / "checkpoints/last.ckpt", "cpu").save_pretrained(tmp_path)
    assert not (folder / "metrics.json").exists()
    assert "Metrics" not in (folder / "README.md").read_text()


def test_custom_threshold_is_saved(tmp_path: Path) -> None:
    make(threshold=0.55, options=prediction_options(flip=True)).save_pretrained(tmp_path)
    assert read_metadata(tmp_path).threshold == Threshold(0.55, "in use when the model was saved", "flip")


def test_local_paths_are_not_saved(tmp_path: Path) -> None:
    localizer = make()
    options = {"annotations": "/home/me/coco.json", "size": 40, "missing": "skip"}
    localizer.metadata = replace(localizer.metadata, data={"name": "folder", "root": "/home/me", "options": options})
    localizer.save_pretrained(tmp_path)
    written = (tmp_path / "config.json").read_text() + (tmp_path / "README.md").read_text()
    assert "/home/me" not in written
    assert str(tmp_path) not in written
    expected = {"name": "folder", "root": None, "options": {"size": 40, "missing": "skip"}}
    assert read_metadata(tmp_path).data == expected


def test_saving_replaces_the_model_but_not_the_readme(folder: Path) -> None:
    (folder / "README.md").write_text("my words")
    (folder / "metrics.json").write_text("{}")
    make("cam", threshold=0.7).save_pretrained(folder)
    assert (folder / "README.md").read_text() == "my words"
    assert not (folder / "metrics.json").exists()  # they belonged to the previous model
    _, metadata = load_checkpoint(folder)
    assert (metadata.model.method, metadata.threshold and metadata.threshold.value) == ("cam", 0.7)


def test_store_threshold_in_a_folder(folder: Path) -> None:
    store_threshold(folder, Threshold(0.25, "by hand"))
    assert Localizer.from_pretrained(folder, device="cpu").threshold == 0.25


def test_hub_round_trip(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make("scm")
    assert source.push_to_hub("user/birds", private=True).endswith("/user/birds")
    assert set(hub.repositories["user/birds"]) == {"README.md", "config.json", "model.safetensors"}
    assert 'from_pretrained("user/birds")' in hub.repositories["user/birds"]["README.md"].decode()
    hub.repositories["user/birds"]["pytorch_model.bin"] = pickle.dumps(Trap(tmp_path / "it_ran"))
    expected = values(source(make_images(1)[0]))
    for name, revision in (("user/birds", None), ("hf-hub:user/birds", "main"), ("user/birds", COMMIT)):
        found = Localizer.from_pretrained(name, revision=revision, device="cpu")
        assert values(found(make_images(1)[0])) == expected
    assert hub.downloaded() == {"config.json", "model.safetensors"}
    assert values(Localizer.from_checkpoint("hf-hub:user/birds@main", "cpu")(make_images(1)[0])) == expected
    assert not (tmp_path / "it_ran").exists()


def test_cache_is_used_when_the_hub_is_unreachable(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make().push_to_hub("user/birds")
    local_copy("hf-hub:user/birds")
    count = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Localizer.from_pretrained("user/birds", device="cpu").metadata.classes == CLASSES
    assert len(hub.requests) == count
    with pytest.raises(FileNotFoundError, match=r"user/cats is not in the local cache .*HF_HUB_OFFLINE is set"):
        Localizer.from_pretrained("user/cats")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    point_client_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    assert Localizer.from_pretrained("user/birds", device="cpu").metadata.classes == CLASSES
    with pytest.raises(FileNotFoundError) as caught:
        Localizer.from_pretrained("user/cats", revision="v2")
    message = str(caught.value)
    assert "\n" not in message
    for words in ("user/cats@v2", "cannot be downloaded from http://127.0.0.1:9", "refused", "folder"):
        assert words in message


def test_missing_private_and_foreign_repositories(hub: Hub) -> None:
    make().push_to_hub("user/birds")
    with pytest.raises(FileNotFoundError, match=r"user/birds has no revision 'v9'; use one of its branches, tags"):
        Localizer.from_pretrained("user/birds", revision="v9")
    with pytest.raises(FileNotFoundError, match=r"user/bird does not exist on http.*private.*`hf auth login`"):
        Localizer.from_pretrained("hf-hub:user/bird")
    hub.private.add("user/birds")
    with pytest.raises(FileNotFoundError, match=r"user/birds does not exist on http.*private"):
        Localizer.from_pretrained("user/birds")
    hub.repositories["user/empty"] = {"README.md": b"", "pytorch_model.bin": b""}
    with pytest.raises(
        FileNotFoundError, match=r"user/empty on http.* is not a tokenloc model: it has no config\.json"
    ):
        Localizer.from_pretrained("user/empty")


def test_existing_card_on_the_hub_is_kept(hub: Hub) -> None:
    hub.repositories["user/birds"] = {"README.md": b"license: mit"}
    make().push_to_hub("user/birds")
    assert hub.repositories["user/birds"]["README.md"] == b"license: mit"
    assert "model.safetensors" in hub.repositories["user/birds"]


def test_hub_denies_write_access(hub: Hub) -> None:
    hub.writable = False
    with pytest.raises(OSError, match=r"cannot write to user/birds on http.*log in with `hf auth login`, or set"):
        make().push_to_hub("user/birds")
    with pytest.raises(ValueError, match=r"'../birds' is not an existing path or a valid hub repository"):
        make().push_to_hub("../birds")


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "a/b/c", "user/..", "@main"])
def test_invalid_repository_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point_client_at("http://127.0.0.1:9", tmp_path / "cache", monkeypatch)
    with pytest.raises(ValueError, match="is not an existing path or a valid hub repository"):
        Localizer.from_checkpoint(f"hf-hub:{name}")
    assert not (tmp_path / "cache").exists()


def test_invalid_paths_and_revisions(folder: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no/such/folder' is not an existing path or a valid hub repository"):
        Localizer.from_pretrained("no/such/folder")
    with pytest.raises(ValueError, match=r"is a local path and has no revisions; remove revision='v1'"):
        Localizer.from_pretrained(folder, revision="v1")
    with pytest.raises(ValueError, match=r"user/birds@v1 already names a revision; remove revision='v2'"):
        Localizer.from_pretrained("hf-hub:user/birds@v1", revision="v2")
    assert Localizer.from_pretrained(run).origin == run / "checkpoints/best.ckpt"
    with pytest.raises(
        FileNotFoundError, match=r"it has no config\.json\. Expected the folder of a run, or one written"
    ):
        Localizer.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"hf-hub:user/birds is on the hub and cannot be changed there: save it"):
        store_threshold("hf-hub:user/birds", Threshold(0.5, ""))


INVALID_METADATA = [
    ({"model": "tscam"}, r"tokenloc: model must be dict, not 'tscam'"),
    ({"model__method": ["tscam"]}, r"model: method must be str, not \['tscam'\]"),
    ({"model__method": "tscan"}, r"cannot be created: unknown method 'tscan'; did you mean 'tscam'"),
    ({"model__backbone": "hf-hub:evil/net"}, r"cannot be created: unknown backbone 'hf-hub:evil/net'"),
    ({"model__num_classes": "4"}, r"model: num_classes must be int, not '4'"),
    ({"model__num_classes": True}, r"model: num_classes must be int, not True"),
    ({"model__num_classes": 10**12}, r"4 class names for a model of 1000000000000 classes"),
    ({"model__image_size": [32]}, r"image_size must have 2 values; got \[32\]"),
    ({"model__image_size": [0, "a"]}, r"image_size must be int, not 'a'"),
    ({"model__image_size": [0, -8]}, r"cannot be created: "),
    ({"model__options": {"heads": 3}}, r"cannot be created: unknown option of tscam 'heads'"),
    ({"model__options": {"map": {"a": 1}}}, r"cannot be created: "),
    ({"model__backbone_options": {"depth": "x"}}, r"cannot be created: "),
    ({"model__backbone_options": {"checkpoint_path": "evil.pth"}}, r"'checkpoint_path' is not allowed"),
    ({"model__backbone_options": {"pretrained_cfg": {"url": "x"}}}, r"'pretrained_cfg' is not allowed"),
    ({"model__surplus": 1}, r"unknown key \(in .*model\) 'surplus'"),
    ({"classes": "abcd"}, r"tokenloc: classes must be tuple, not 'abcd'"),
    ({"classes": ["a", "b", "c", 4]}, r"classes must be str, not 4"),
    ({"classes": ["a", "b", "c"]}, r"3 class names for a model of 4 classes"),
    ({"preprocessing__size": "large"}, r"size must be tuple, not 'large'"),
    ({"preprocessing__mean": [None, 0, 0]}, r"mean must be float, not None"),
    ({"preprocessing__mean": [10**400, 0, 0]}, r"birds.*preprocessing\.mean: .* got int of more than 64 bits"),
    ({"preprocessing__colour": "bgr"}, r"unknown key \(in .*preprocessing\) 'colour'"),
    ({"threshold": 0.5}, r"threshold must be dict, not 0\.5"),
    ({"threshold": {"value": 7, "source": ""}}, r"the threshold must be in \[0, 1\]; got 7"),
    ({"threshold": {"value": 0.5}}, r"threshold lacks the key 'source'"),
    ({"data": {"name": 3, "root": None, "options": {}}}, r"data: name must be str, not 3"),
    ({"format": 99}, r"has checkpoint format 99; this tokenloc reads format 1"),
]


@pytest.mark.parametrize(("entries", "message"), INVALID_METADATA)
def test_invalid_metadata(entries: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        Localizer.from_pretrained(change(folder, **entries))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"config\.json is not valid JSON"),
        ("[" * 100_000, r"config\.json is not valid JSON"),
        ('{"tokenloc": {"x": NaN}}', r"config\.json is not valid JSON: NaN is not a JSON number"),
        ("[]", r"config\.json must contain a JSON object, not a list"),
        ('{"architectures": ["ViT"]}', r"is not a checkpoint of `tokenloc train`: it has no key 'tokenloc'"),
        ('{"tokenloc": [1]}', r"has checkpoint format \[1\]; this tokenloc reads format 1"),
        ('{"tokenloc": {"format": 1}}', r"tokenloc lacks the key 'model'"),
        ("\ud800", r"config\.json is not valid JSON"),
    ],
)
def test_invalid_configuration_file(text: str, message: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=message):
        Localizer.from_pretrained(folder)


def test_weights_of_another_model(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "head.weight": torch.zeros(7, 2)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"the weights in .*birds do not fit tscam on vit_tiny.*size mismatch"):
        Localizer.from_pretrained(folder)
    del weights["head.weight"]
    save_file({**weights, "../x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"do not fit tscam .*Missing key.*head\.weight.*Unexpected key.*\.\./x"):
        Localizer.from_pretrained(folder)


def test_pickle_named_as_safetensors_never_runs(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "it_ran")))
    with pytest.raises(ValueError, match=r"model\.safetensors \(\d+ bytes\) is not a complete safetensors file"):
        Localizer.from_pretrained(folder)
    assert not (tmp_path / "it_ran").exists()


def test_other_files_in_the_folder_are_ignored(folder: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "model.pt", "config.pkl", "best.ckpt"):
        (folder / name).write_bytes(pickle.dumps(Trap(tmp_path / "it_ran")))
    shutil.copy(folder / "config.json", folder / "config.json.bak")
    assert Localizer.from_pretrained(folder, device="cpu").metadata.classes == CLASSES
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"it has no model\.safetensors"):
        Localizer.from_pretrained(folder)
    assert not (tmp_path / "it_ran").exists()


def test_options_that_json_cannot_represent(tmp_path: Path) -> None:
    localizer = make()
    localizer.metadata.model.options["map"] = np.zeros(2)
    with pytest.raises(ValueError, match=r"config\.json cannot represent this configuration: .*ndarray"):
        localizer.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
