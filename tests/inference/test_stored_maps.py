"""Stored maps give the metrics of the model that made them; problems with them are reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tokenloc.boxes import get_protocol, quantised_map, scaled_map
from tokenloc.commands.results import print_results
from tokenloc.data import create_dataset
from tokenloc.data.base import NO_BOXES, ImageDataset
from tokenloc.inference.evaluation import EvaluationResult, evaluate_model
from tokenloc.inference.stored_maps import MatchedIds, evaluate_maps
from tokenloc.metrics import Scorer, evaluate
from tokenloc.metrics.stored_maps import open_maps, writing_maps
from tokenloc.models.checkpoint import load_checkpoint

WSOL_EVAL = Scorer(get_protocol("wsol-eval").with_thresholds(np.arange(0, 1, 0.05)))


def scenes(length: int = 6) -> ImageDataset:
    return create_dataset("scenes", None, "test", size=40, length=length)


def wsol_eval_maps(dataset: ImageDataset) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    cells = {sample.id: rng.random((7, 7)).astype(np.float32) for sample in dataset}
    maps = {id_: scaled_map(map_, (224, 224), WSOL_EVAL.protocol) for id_, map_ in cells.items()}
    return {id_: map_.astype(np.float64) * 0.9 for id_, map_ in maps.items()}


def evaluated(
    folder: Path, maps: dict[str, np.ndarray], test: ImageDataset, scorer: Scorer = WSOL_EVAL
) -> tuple[EvaluationResult, MatchedIds]:
    """Evaluate maps written as a tree of .npy files."""
    for id_, map_ in maps.items():
        path = folder / f"{id_}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, map_)
    return evaluate_maps(open_maps(folder), test, scorer)


def without_truth(dataset: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> ImageDataset:
    dataset.samples = [replace(sample, boxes=NO_BOXES) for sample in dataset]
    monkeypatch.setattr(type(dataset), "mask", lambda *_: None)
    return dataset


@pytest.mark.parametrize("protocol", ["standard", "sat", "wsol-eval", "lctr"])
def test_stored_maps_give_the_metrics_of_the_model(run: Path, tmp_path: Path, protocol: str) -> None:
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    test = create_dataset("scenes", None, "test", metadata.classes, size=40, length=12)
    scorer = Scorer(get_protocol(protocol))
    about = {name: getattr(scorer.protocol, name) for name in ("input_frame", "map_class")}
    with writing_maps(tmp_path / "maps", about) as maps:
        expected = evaluate_model(model, test, metadata.preprocessing, scorer, batch_size=5, maps=maps)
    for workers in (0, 2):
        found, matched = evaluate_maps(open_maps(tmp_path / "maps"), test, scorer, workers=workers)
        assert found.to_dict() == expected.to_dict()
        assert found.images == expected.images
        assert matched.missing == matched.surplus == []
    fixed = replace(scorer, threshold=0.3)
    found, _ = evaluate_maps(open_maps(tmp_path / "maps"), test, fixed)
    assert found.evaluation == evaluate_model(model, test, metadata.preprocessing, fixed).evaluation


def test_npy_maps_are_neither_rescaled_nor_upsampled(tmp_path: Path) -> None:
    """They are quantised from the precision they have."""
    test = scenes()
    maps = wsol_eval_maps(test)
    found, _ = evaluated(tmp_path, maps, test)
    scores = []
    for index, sample in enumerate(test):
        map_, frame = maps[sample.id], WSOL_EVAL.protocol.frame(test.image(index).size, (224, 224))
        scores.append(
            WSOL_EVAL.score(map_, sample.label, frame=frame, boxes=sample.boxes, mask=test.mask(index), ready=True)
        )
        assert (quantised_map(map_).max(), map_.max()) == (229, 0.9)
    expected = evaluate(scores, WSOL_EVAL)
    assert found.evaluation == expected
    assert (expected.top1_cls, expected.top5_cls, expected.top1_loc, expected.top5_loc) == (None,) * 4
    assert expected.oracle is not None
    assert (expected.oracle.top1_loc, expected.images_with_boxes) == (None, 6)
    assert expected.gt_known is not None


def test_broken_maps_are_named_and_not_scored(tmp_path: Path) -> None:
    test = scenes(7)
    maps = wsol_eval_maps(test)
    ids = list(maps)
    maps[ids[0]][5, 6] = np.nan
    maps[ids[1]][0, 0] = 1.5
    maps[ids[2]] = maps[ids[2]][:100]
    del maps[ids[3]]
    maps["stray"] = maps[ids[4]]
    maps[Path(ids[5]).with_suffix("").as_posix()] = maps.pop(ids[5])
    found, matched = evaluated(tmp_path, maps, test)
    assert [image.id for image in found.unreadable] == ids[:4]
    reasons = [image.reason for image in found.unreadable]
    assert "1 of 50176 values that are not finite, the first nan at row 5, column 6" in reasons[0]
    assert "has values from 0 to 1.5, expected [0, 1]" in reasons[1]
    assert "has shape (100, 224), expected (224, 224) (height, width)" in reasons[2]
    assert "has no map in" in reasons[3]
    assert matched.missing == [ids[3]]
    assert matched.surplus == ["stray"]
    assert matched.differing == ([ids[5]] if Path(ids[5]).suffix else [])
    assert [row.id for row in found.images] == ids[4:]
    assert found.evaluation.images == 3


def test_a_mask_of_another_size_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = scenes(2)
    masks = {0: np.zeros((9, 9), np.uint8), 1: test.mask(1)}
    monkeypatch.setattr(type(test), "mask", lambda _, index: masks[index])
    found, _ = evaluated(tmp_path, wsol_eval_maps(test), test)
    assert [image.id for image in found.unreadable] == [test[0].id]
    assert "is 40x40, but its mask 9x9" in found.unreadable[0].reason


def test_images_without_ground_truth_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test = scenes(3)
    maps = wsol_eval_maps(test)
    test.samples = [replace(test[0], boxes=NO_BOXES), *list(test)[1:]]
    test.classes, test.skipped = (*test.classes, "none of it"), ["gone.jpg"]
    found, _ = evaluated(tmp_path, maps, test)
    missing = found.to_dict()["missing"]
    assert (missing["boxes"], missing["masks"], missing["images"]) == ([test[0].id], [], ["gone.jpg"])
    assert set(missing["classes"]) == set(test.classes) - {test.classes[sample.label] for sample in test}
    assert (found.evaluation.images, found.evaluation.images_with_boxes) == (3, 2)
    print_results(found)
    printed = capsys.readouterr().err
    assert test[0].id in printed
    assert "gone.jpg" in printed
    assert "mask" not in printed


def test_a_dataset_without_ground_truth_has_no_localization_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    test = without_truth(scenes(4), monkeypatch)
    maps = wsol_eval_maps(test)
    broken = list(maps)[:3]
    maps[broken[0]][0, 0], maps[broken[1]][0, 0], maps[broken[2]] = np.nan, 1.5, maps[broken[2]][:100]
    found, _ = evaluated(tmp_path, maps, test)
    assert [image.id for image in found.unreadable] == broken
    assert found.evaluation.images == 1
    assert found.missing["boxes"] == found.missing["masks"] == []
    assert (found.evaluation.gt_known, found.evaluation.pxap) == (None, None)
    print_results(found)
    assert "localization is not measured" in capsys.readouterr().err


def test_a_dataset_without_any_map_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none of the 6 images could be evaluated; the first: .* has no map in"):
        evaluated(tmp_path, {"other": np.zeros((224, 224))}, scenes())


def test_maps_of_another_input_frame_are_refused(tmp_path: Path) -> None:
    test = scenes()
    with writing_maps(tmp_path / "maps", {"input_frame": "crop"}) as maps:
        maps.add(test[0].id, np.eye(3), [0], get_protocol("sat").frame((40, 40), (32, 32)))
    with pytest.raises(ValueError, match="have the input frame 'crop', but protocol 'standard' needs 'resize'"):
        evaluate_maps(open_maps(tmp_path / "maps"), test, Scorer(get_protocol("standard")))


def test_maps_of_another_class_are_refused(tmp_path: Path) -> None:
    test, protocol = scenes(), get_protocol("ts-cam").with_map_class("predicted")
    with writing_maps(tmp_path / "maps", {"input_frame": "resize"}) as maps:
        maps.add(test[0].id, np.eye(3), [0], protocol.frame((40, 40), (32, 32)))
    with pytest.raises(ValueError, match="have the map class 'true', but protocol 'ts-cam.*' needs 'predicted'"):
        evaluate_maps(open_maps(tmp_path / "maps"), test, Scorer(protocol))
    with pytest.raises(ValueError, match="protocol 'scm' needs the maps of five predicted classes, and .* has one"):
        evaluated(tmp_path / "others", wsol_eval_maps(test), test, Scorer(get_protocol("scm")))
