"""Protocols that judge the predicted class's map, on a trained model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tokenloc.boxes import best_iou, get_protocol, largest_boxes, prepare_map, truth_boxes
from tokenloc.data import create_dataset
from tokenloc.data.transforms import evaluation_transform
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.metrics import Scorer
from tokenloc.models.checkpoint import load_checkpoint

THRESHOLDS = (0.3, 0.5, 0.7)


@pytest.mark.parametrize("name", ["scm", "lctr", "ts-cam"])
def test_hits_are_those_of_the_classes_that_the_protocol_judges(run: Path, name: str) -> None:
    model, metadata = load_checkpoint(run / "checkpoints/best.ckpt")
    test = create_dataset("scenes", None, "test", metadata.classes, size=40, length=24)
    protocol = get_protocol(name).with_thresholds(THRESHOLDS).with_map_class("predicted")
    scorer = Scorer(protocol, None if protocol.threshold_rule == "best" else 0.5)
    result = evaluate_model(model, test, metadata.preprocessing, scorer, batch_size=7)
    hits = {metric: np.zeros(len(THRESHOLDS)) for metric in ("gt_known", "gt_known_top5", "top1_loc", "top5_loc")}
    transform = evaluation_transform(metadata.preprocessing, protocol.input_frame)
    for index, sample in enumerate(test):
        image, frame = transform(test.image(index))
        with torch.inference_mode():
            logits, maps = model.localize(image[None], 5)
        top = logits[0].argsort(descending=True, stable=True)[:5].tolist()
        truth = truth_boxes(sample.boxes, frame, protocol)
        prepared = [prepare_map(map_.numpy(), frame.input_size, protocol) for map_ in maps[0]]
        hit = [best_iou(largest_boxes(each, THRESHOLDS, protocol), truth, protocol) >= 0.5 for each in prepared]
        strict = [best_iou(largest_boxes(each, THRESHOLDS, protocol), truth, protocol) > 0.5 for each in prepared]
        counted = strict if protocol.strict_top_k else hit
        hits["gt_known"] += hit[0]
        hits["gt_known_top5"] += np.any(hit, axis=0)
        if sample.label in top:
            hits["top1_loc"] += counted[0] & (top[0] == sample.label)
            hits["top5_loc"] += counted[top.index(sample.label) if protocol.top5_map == "own" else 0]
    metrics = result.evaluation.to_dict()["metrics"]
    if name == "lctr":
        del hits["gt_known_top5"]
        assert "gt_known_top5" not in metrics
    for metric, counts in hits.items():
        expected = counts.max() if name == "scm" else counts[1]
        assert metrics[metric] == pytest.approx(100 * expected / len(test)), metric
    assert metrics["gt_known"] > 0
