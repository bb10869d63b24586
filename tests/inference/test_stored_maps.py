"""Maps on disk give the numbers of the network that made them, and whatever is wrong with them is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenloc.boxes import get_protocol, quantised_map, scaled_map
from tokenloc.commands.results import print_results
from tokenloc.data import create_dataset
from tokenloc.data.base import NO_BOXES, ImageDataset
from tokenloc.inference.evaluation import measure
from tokenloc.inference.stored_maps import measure_maps
from tokenloc.metrics import Totals, evaluate, score_image
from tokenloc.metrics.stored_maps import open_maps, writing_maps
from tokenloc.models.checkpoint import load_checkpoint

REFEREE = get_protocol("wsol-eval").with_thresholds(np.arange(0, 1, 0.05))


def scenes(length: int = 6) -> ImageDataset:
    return create_dataset("scenes", None, "test", size=40, length=length)


def referee_maps(dataset: ImageDataset) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        sample.id: scaled_map(rng.random((7, 7)).astype(np.float32), (224, 224), REFEREE).astype(np.float64) * 0.9
        for sample in dataset
    }


def save_tree(folder: Path, maps: dict[str, np.ndarray]) -> Path:
    for id_, map_ in maps.items():
        path = folder / f"{id_}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, map_)
    return folder


@pytest.mark.parametrize("protocol", ["standard", "sat", "wsol-eval"])
def test_stored_maps_measure_as_the_model_did(run: Path, tmp_path: Path, protocol: str) -> None:
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    test = create_dataset("scenes", None, "test", metadata.classes, size=40, length=12)
    judged = get_protocol(protocol)
    with writing_maps(tmp_path / "maps", {"input_frame": judged.input_frame}) as save:
        expected = measure(model, test, metadata.preprocessing, judged, batch_size=5, save=save)
    for workers in (0, 2):
        found, matched = measure_maps(open_maps(tmp_path / "maps"), test, judged, workers=workers)
        assert found.to_dict() == expected.to_dict()
        assert found.images == expected.images
        assert matched.missing == matched.surplus == []
    fixed, _ = measure_maps(open_maps(tmp_path / "maps"), test, judged, 0.3)
    assert fixed.to_dict()["metrics"] == measure(model, test, metadata.preprocessing, judged, 0.3).to_dict()["metrics"]


def test_a_referees_tree_is_taken_as_it_is(tmp_path: Path) -> None:
    """Its maps are neither scaled nor upsampled again, and quantised from the precision they have."""
    test = scenes()
    maps = referee_maps(test)
    found, _ = measure_maps(open_maps(save_tree(tmp_path / "maps", maps)), test, REFEREE)
    scores = []
    for index, sample in enumerate(test):
        frame = REFEREE.frame(test.image(index).size, (224, 224))
        known: dict[str, Any] = {"frame": frame, "protocol": REFEREE, "boxes": sample.boxes, "mask": test.mask(index)}
        scores.append(score_image(maps[sample.id][None], [sample.label], None, sample.label, ready=True, **known))
        assert (quantised_map(maps[sample.id]).max(), maps[sample.id].max()) == (229, 0.9)
    expected = evaluate(Totals.of(scores, REFEREE), REFEREE)
    assert found.evaluation == expected
    assert (expected.top1_cls, expected.top5_cls, expected.top1_loc, expected.top5_loc) == (None,) * 4
    assert expected.oracle is not None
    assert (expected.oracle.top1_loc, expected.images_with_boxes) == (None, 6)
    assert expected.gt_known is not None


def test_what_is_wrong_with_a_map_is_named_and_never_scored(tmp_path: Path) -> None:
    test = scenes(7)
    maps = referee_maps(test)
    ids = list(maps)
    maps[ids[0]][5, 6] = np.nan
    maps[ids[1]][0, 0] = 1.5
    maps[ids[2]] = maps[ids[2]][:100]
    del maps[ids[3]]
    maps["stray"] = maps[ids[4]]
    maps[Path(ids[5]).with_suffix("").as_posix()] = maps.pop(ids[5])
    found, matched = measure_maps(open_maps(save_tree(tmp_path / "maps", maps)), test, REFEREE)
    assert [item.id for item in found.unreadable] == ids[:4]
    reasons = [item.reason for item in found.unreadable]
    assert "1 of 50176 values that are not finite, the first nan at row 5, column 6" in reasons[0]
    assert "has values from 0 to 1.5, expected [0, 1]" in reasons[1]
    assert "has shape (100, 224), expected (224, 224) (height, width)" in reasons[2]
    assert "has no map in" in reasons[3]
    assert matched.missing == [ids[3]]
    assert matched.surplus == ["stray"]
    assert matched.differing == ([ids[5]] if Path(ids[5]).suffix else [])
    assert [row.id for row in found.images] == ids[4:]
    assert found.evaluation.images == 3


def test_a_mask_of_another_size_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = scenes(2)
    masks = {0: np.zeros((9, 9), np.uint8), 1: test.mask(1)}
    monkeypatch.setattr(type(test), "mask", lambda _, index: masks[index])
    found, _ = measure_maps(open_maps(save_tree(tmp_path / "maps", referee_maps(test))), test, REFEREE)
    assert [item.id for item in found.unreadable] == [test[0].id]
    assert "is 40x40, but its mask 9x9" in found.unreadable[0].reason


def test_images_without_what_others_have_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = scenes(3)
    maps = open_maps(save_tree(tmp_path / "maps", referee_maps(test)))
    test.samples = [replace(test[0], boxes=NO_BOXES), *list(test)[1:]]
    test.classes, test.skipped = (*test.classes, "none of it"), ["gone.jpg"]
    found, _ = measure_maps(maps, test, REFEREE)
    missing = found.to_dict()["missing"]
    assert (missing["boxes"], missing["masks"], missing["images"]) == ([test[0].id], [], ["gone.jpg"])
    assert set(missing["classes"]) == set(test.classes) - {test.classes[sample.label] for sample in test}
    assert (found.evaluation.images, found.evaluation.images_with_boxes) == (3, 2)
    print_results(found)
    printed = capsys.readouterr().err
    assert f"1 images have no true box, although others have, and are in no box metric: {test[0].id}" in printed
    assert "1 images are listed but absent, and were left out: gone.jpg" in printed
    assert "have no mask" not in printed


def test_a_set_without_any_truth_lacks_its_metrics_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = scenes(2)
    maps = open_maps(save_tree(tmp_path / "maps", referee_maps(test)))
    test.samples = [replace(sample, boxes=NO_BOXES) for sample in test]
    monkeypatch.setattr(type(test), "mask", lambda *_: None)
    found, _ = measure_maps(maps, test, REFEREE)
    assert found.missing["boxes"] == found.missing["masks"] == []
    assert (found.evaluation.gt_known, found.evaluation.pxap) == (None, None)
    print_results(found)
    assert "there are no true boxes or masks: localization is not measured" in capsys.readouterr().err


def test_broken_maps_are_named_where_there_is_no_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = scenes(4)
    maps = referee_maps(test)
    broken = list(maps)[:3]
    maps[broken[0]][0, 0], maps[broken[1]][0, 0], maps[broken[2]] = np.nan, 1.5, maps[broken[2]][:100]
    test.samples = [replace(sample, boxes=NO_BOXES) for sample in test]
    monkeypatch.setattr(type(test), "mask", lambda *_: None)
    found, _ = measure_maps(open_maps(save_tree(tmp_path / "maps", maps)), test, REFEREE)
    assert [item.id for item in found.unreadable] == broken
    assert found.evaluation.images == 1


def test_no_map_at_all_is_an_error(tmp_path: Path) -> None:
    maps = open_maps(save_tree(tmp_path / "maps", {"other": np.zeros((224, 224))}))
    with pytest.raises(ValueError, match="none of the 6 images could be measured; the first: .* has no map in"):
        measure_maps(maps, scenes(), REFEREE)


def test_maps_of_a_crop_are_not_measured_as_if_of_the_whole(tmp_path: Path) -> None:
    test = scenes()
    with writing_maps(tmp_path / "maps", {"input_frame": "crop"}) as save:
        save.add(test[0].id, np.eye(3), [0], get_protocol("sat").frame((40, 40), (32, 32)))
    with pytest.raises(ValueError, match="are of images shown by 'crop'; protocol 'standard' wants 'resize'"):
        measure_maps(open_maps(tmp_path / "maps"), test, get_protocol("standard"))
