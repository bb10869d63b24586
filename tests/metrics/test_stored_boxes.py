"""The boxes of an evaluation at every threshold, on disk."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenloc.boxes import Frame, get_protocol, largest_boxes, prepare_map
from tokenloc.metrics import ImageScores, Scorer, ScoreTable
from tokenloc.metrics.stored_boxes import open_boxes, save_boxes

SAT = get_protocol("sat")
SCORER = Scorer(SAT, 0.2)
FRAMES = [Frame.center_cropped((40 + 9 * n, 30), (32, 32), (28, 28)) for n in range(5)]
TRUTH: list[Any] = [[[5, 5, 30, 25], [1, 2, 8, 9]], [], [[0, 0, 10, 10]], [], [[2, 2, 9, 28], [4, 9, 3, 12]]]
MAPS = np.random.default_rng(3).random((5, 7, 7)).cumsum(axis=1)
MAPS[4] = 0.0
MAPS[4, :, 4:] = MAPS[4, 1:6, 0] = 1.0  # the largest component is beside the object, another on it


def scored(index: int) -> ImageScores:
    known: dict[str, Any] = {"frame": FRAMES[index], "boxes": TRUTH[index], "id_": f"naïve\n{index}.jpg"}
    return SCORER.score(MAPS[index], 1, [1, 0], **known)


def write(path: Path) -> Path:
    table = ScoreTable(io.BytesIO())
    for index in range(len(FRAMES)):
        table.append(scored(index))
    save_boxes(path, table, SCORER)
    return path


def test_boxes_are_read_back_at_every_threshold(tmp_path: Path) -> None:
    stored = open_boxes(write(tmp_path / "new/boxes.npz"))
    assert (stored.protocol, list(stored.ids)) == ("sat", [f"naïve\n{index}.jpg" for index in range(5)])
    assert stored.thresholds.tolist() == [*SAT.thresholds, 0.2]
    assert [stored.size(index) for index in range(5)] == [frame.original_size for frame in FRAMES]
    assert [boxes.tolist() for boxes in stored.truth] == [*TRUTH[:4], TRUTH[4][:1]]  # without the impossible box
    found = dict(stored.images({4, 0, 1}))
    assert list(found) == [0, 1, 4]
    for index in (0, 4):
        prepared = prepare_map(MAPS[index], (28, 28), SAT)
        expected = [largest_boxes(prepared, [threshold], SAT)[0] for threshold in stored.thresholds]
        np.testing.assert_allclose(found[index].boxes, FRAMES[index].to_original(expected))
        np.testing.assert_array_equal(found[index].iou, scored(index).largest.astype(np.float32))
    assert scored(4).largest.max() < scored(4).any.min()
    assert np.isnan(found[1].iou).all()
    assert not list(stored.images(set()))


def test_the_file_is_numpys_format_and_reproducible(tmp_path: Path) -> None:
    path = write(tmp_path / "boxes.npz")
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["boxes"].shape == (5, 5, 4)
        assert arrays["boxes"].dtype == np.int16
        assert arrays["truth_images"].tolist() == [0, 0, 2, 4]
        assert json.loads(arrays["about"].tobytes())["protocol"] == "sat"
    assert path.read_bytes() == write(tmp_path / "again.npz").read_bytes()


def test_damaged_or_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "boxes.npz"
    with pytest.raises(FileNotFoundError, match=r"no .*boxes\.npz: `tokenloc evaluate` writes it"):
        open_boxes(path)
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"boxes\.npz is damaged or not of the format .*evaluate again"):
        open_boxes(path)
    other = json.dumps({"format": "tokenloc boxes 9", "protocol": "sat", "ids": []})
    np.savez(path, about=np.frombuffer(other.encode(), np.uint8))
    with pytest.raises(ValueError, match="its format is 'tokenloc boxes 9'"):
        open_boxes(path)
    path.write_bytes(whole)
    stored = open_boxes(path)
    start = whole.index(b"boxes.npy") + 200
    path.write_bytes(whole[:start] + bytes(20) + whole[start + 20 :])
    with pytest.raises(ValueError, match=r"boxes\.npz is damaged"):
        list(stored.images({4}))
