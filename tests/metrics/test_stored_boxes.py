"""The boxes of an evaluation at every threshold, on disk."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenloc.boxes import Frame, get_protocol, largest_boxes, prepare_map
from tokenloc.metrics import ImageScores, score_image
from tokenloc.metrics.stored_boxes import BoxWriter, open_boxes, writing_boxes

SAT = get_protocol("sat")
FRAMES = [Frame.center_cropped((40 + 9 * n, 30), (32, 32), (28, 28)) for n in range(5)]
TRUTH: list[Any] = [[[5, 5, 30, 25], [1, 2, 8, 9]], [], [[0, 0, 10, 10]], [], [[2, 2, 9, 28], [4, 9, 3, 12]]]
MAPS = np.random.default_rng(3).random((5, 7, 7)).cumsum(axis=1)
MAPS[4] = 0.0
MAPS[4, :, 4:] = MAPS[4, 1:6, 0] = 1.0  # the largest component is beside the object, another on it


def scored(index: int) -> ImageScores:
    known: dict[str, Any] = {"frame": FRAMES[index], "boxes": TRUTH[index], "protocol": SAT, "threshold": 0.2}
    return score_image(MAPS[[index]], [1], [1, 0], 1, **known)


def write(path: Path) -> Path:
    with writing_boxes(path, SAT, 0.2) as writer:
        for index, frame in enumerate(FRAMES):
            writer.add(f"naïve\n{index}.jpg", frame, np.array(TRUTH[index]), scored(index))
    return path


def test_boxes_come_back_at_every_threshold(tmp_path: Path) -> None:
    stored = open_boxes(write(tmp_path / "new/boxes.npz"))
    assert (stored.protocol, list(stored.ids)) == ("sat", [f"naïve\n{index}.jpg" for index in range(5)])
    assert stored.thresholds.tolist() == [*SAT.thresholds, 0.2]
    assert [stored.size(index) for index in range(5)] == [frame.original_size for frame in FRAMES]
    assert [boxes.tolist() for boxes in stored.truth] == [*TRUTH[:4], TRUTH[4][:1]]  # one cannot be
    found = dict(stored.images({4, 0, 1}))
    assert list(found) == [0, 1, 4]
    for index in (0, 4):
        prepared = prepare_map(MAPS[index], (28, 28), SAT)
        expected = [largest_boxes(prepared, [threshold], SAT)[0] for threshold in stored.thresholds]
        np.testing.assert_allclose(found[index].boxes, FRAMES[index].to_original(expected))
        boxes = scored(index).boxes
        assert boxes is not None
        np.testing.assert_array_equal(found[index].iou, boxes.largest.astype(np.float32))
    assert boxes.largest.max() < boxes.any.min()
    assert np.isnan(found[1].iou).all()
    assert not list(stored.images(set()))


def test_the_file_is_numpys_own_and_equal_every_time(tmp_path: Path) -> None:
    path = write(tmp_path / "boxes.npz")
    with np.load(path, allow_pickle=False) as arrays:
        assert arrays["boxes"].shape == (5, 5, 4)
        assert arrays["boxes"].dtype == np.int16
        assert arrays["truth_images"].tolist() == [0, 0, 2, 4]
        assert json.loads(arrays["about"].tobytes())["protocol"] == "sat"
    assert path.read_bytes() == write(tmp_path / "again.npz").read_bytes()


def test_memory_is_flat_while_a_set_is_measured() -> None:
    """What grows is a hundred bytes or two of each image; the boxes wait in the file."""
    scratch, scores, truth = io.BytesIO(), scored(0), np.array(TRUTH[0])
    writer = BoxWriter(SAT, 0.2, scratch)
    for index in range(200):
        writer.add(f"{index}", FRAMES[0], truth, scores)
    kept = sum(len(value) for value in vars(writer).values() if isinstance(value, bytearray))
    assert kept == 200 * (8 * 8 + 2 * 4 * 8 + 2 * 8)
    assert scratch.tell() > 200 * 20


def test_after_an_error_nothing_is_left(tmp_path: Path) -> None:
    path = write(tmp_path / "boxes.npz")
    before = path.read_bytes()
    with pytest.raises(RuntimeError), writing_boxes(path, SAT, None):
        raise RuntimeError
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["boxes.npz"]


def test_a_file_that_is_none_or_damaged_is_told(tmp_path: Path) -> None:
    path = tmp_path / "boxes.npz"
    with pytest.raises(FileNotFoundError, match=r"no .*boxes\.npz: measure the run with `tokenloc evaluate`"):
        open_boxes(path)
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"boxes\.npz is damaged, or not of the form .*measure again"):
        open_boxes(path)
    other = json.dumps({"format": "tokenloc boxes 9", "protocol": "sat", "ids": []})
    np.savez(path, about=np.frombuffer(other.encode(), np.uint8))
    with pytest.raises(ValueError, match="it is of the form 'tokenloc boxes 9'"):
        open_boxes(path)
    path.write_bytes(whole)
    stored = open_boxes(path)
    place = whole.index(b"boxes.npy") + 200
    path.write_bytes(whole[:place] + bytes(20) + whole[place + 20 :])
    with pytest.raises(ValueError, match=r"boxes\.npz is damaged"):
        list(stored.images({4}))
