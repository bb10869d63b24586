"""Boxes at 1000 thresholds: one sweep over all level sets against a contour search at each threshold.

    python benchmarks/wsol_eval.py [--maps 4] [--repeats 5]

One 224x224 map under the protocol wsol-eval. "Largest": the box of the largest contour at each threshold. "All": the
boxes of all contours. "Scored": the IoU of both with one true box, at each threshold. The slow version is that of the
released evaluator: a threshold, cv2.findContours and cv2.boundingRect a thousand times. Both give the same boxes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import cv2
import numpy as np
import torch
from _timing import best_time, setting
from numpy.typing import NDArray

from tokenloc.boxes import best_iou, get_protocol, largest_boxes, prepare_map, scan_boxes

PROTOCOL = get_protocol("wsol-eval")
SIZE = (224, 224)
TRUTH = np.array([[40, 50, 180, 190]])
Map = NDArray[np.uint8]
Boxes = NDArray[np.int64]


def slow_boxes(map_: Map, every: bool) -> list[Boxes]:
    """The boxes at each threshold, as the released evaluator finds them."""
    height, width = map_.shape
    found = []
    for threshold in PROTOCOL.thresholds:
        _, binary = cv2.threshold(map_, int(threshold * np.max(map_)), 255, cv2.THRESH_BINARY)
        contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
        if contours and not every:
            contours = [max(contours, key=cv2.contourArea)]
        corners = [cv2.boundingRect(contour) for contour in contours]
        boxes = [[x, y, min(x + w, width - 1), min(y + h, height - 1)] for x, y, w, h in corners]
        found.append(np.array(boxes or [[0, 0, 0, 0]], dtype=np.int64))
    return found


def slow_scores(map_: Map) -> list[tuple[float, float]]:
    largest = best_iou(np.concatenate(slow_boxes(map_, every=False)), TRUTH, PROTOCOL)
    every = slow_boxes(map_, every=True)
    starts = np.cumsum([0, *(len(boxes) for boxes in every[:-1])])
    greatest = np.maximum.reduceat(best_iou(np.concatenate(every), TRUTH, PROTOCOL), starts)
    return list(zip(largest.tolist(), greatest.tolist(), strict=True))


def scores(map_: Map) -> list[tuple[float, float]]:
    scan = scan_boxes(map_, PROTOCOL.thresholds, PROTOCOL)
    largest = best_iou(scan.largest(), TRUTH, PROTOCOL)
    greatest = scan.greatest(best_iou(scan.nodes.boxes, TRUTH, PROTOCOL))
    return list(zip(largest.tolist(), greatest.tolist(), strict=True))


def check(map_: Map) -> None:
    """Raise RuntimeError if a box differs from the slow version's."""
    scan = scan_boxes(map_, PROTOCOL.thresholds, PROTOCOL)
    nodes, largest = scan.nodes, scan.largest()
    one, every = slow_boxes(map_, every=False), slow_boxes(map_, every=True)
    for index, entry in enumerate(scan.entry):
        if one[index][0].tolist() != largest[index].tolist():
            raise RuntimeError(f"threshold {PROTOCOL.thresholds[index]}: the largest box differs")
        boxes = nodes.boxes[(nodes.low <= entry) & (entry <= nodes.high)]
        if sorted(every[index].tolist()) != sorted(boxes.tolist()):
            raise RuntimeError(f"threshold {PROTOCOL.thresholds[index]}: the boxes differ")


def make_map(kind: str, seed: int) -> Map:
    """Return a map of 14x14 cells, like those of transformers; noisy: with noise in each pixel."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:14, :14]
    row, column = generator.uniform(4, 10, 2)
    cells = np.exp(-((y - row) ** 2 + (x - column) ** 2) / 18) + 0.15 * generator.random((14, 14))
    if kind == "smooth":
        return prepare_map(cells, SIZE, PROTOCOL)
    whole = cv2.resize(cells, SIZE, interpolation=cv2.INTER_CUBIC)
    return prepare_map(whole + 0.05 * generator.random(SIZE), SIZE, PROTOCOL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"1000 thresholds of a 224x224 map, processor time, mean of the maps; {setting()}, cv2 {cv2.__version__}\n")
    print("| map | what | contour searches (ms) | tokenloc (ms) | ratio |")
    print("|---|---|---|---|---|")
    grid = np.array(PROTOCOL.thresholds)
    ways: dict[str, tuple[Callable[[Map], object], Callable[[Map], object]]] = {
        "largest": (lambda m: slow_boxes(m, every=False), lambda m: largest_boxes(m, grid, PROTOCOL)),
        "all": (lambda m: slow_boxes(m, every=True), lambda m: scan_boxes(m, grid, PROTOCOL).nodes),
        "scored": (slow_scores, scores),
    }
    for kind in ("smooth", "noisy"):
        maps = [make_map(kind, seed) for seed in range(arguments.maps)]
        for map_ in maps:
            check(map_)
        for what, (slow, fast) in ways.items():
            before = np.mean([best_time(lambda f=slow, m=map_: f(m), 1) for map_ in maps])
            after = np.mean([best_time(lambda f=fast, m=map_: f(m), arguments.repeats) for map_ in maps])
            print(f"| {kind} | {what} | {before:.1f} | {after:.2f} | {before / after:.1f} |")


if __name__ == "__main__":
    main()
