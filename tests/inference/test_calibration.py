"""Calibration of the map threshold: the default stays unless another one is clearly better."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.runs import TINY_VIT
from tokenloc.boxes import get_protocol
from tokenloc.data import Preprocessing, create_dataset
from tokenloc.inference import evaluation
from tokenloc.metrics import Evaluation, Scorer
from tokenloc.metrics.evaluation import Oracle
from tokenloc.models import create_model


@pytest.mark.parametrize(
    ("more", "value", "ending"),
    [(5, 0.1, "protocol standard: the default, as 0.35 gets only 5 images more right"), (6, 0.35, "protocol standard")],
)
def test_the_default_stays_unless_it_is_clearly_beaten(
    more: int, value: float, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With six discordant images, the sign test gives 2 / 2^6 = 0.03; with five it cannot be below 0.05."""
    model = create_model("tscam", "vit_tiny_patch16_224", 6, False, backbone_options=TINY_VIT)
    lines: list[str] = []

    def measure(*arguments: object, **_: object) -> SimpleNamespace:
        (scorer,) = (each for each in arguments if isinstance(each, Scorer))
        assert scorer.threshold == 0.1
        oracle = Oracle(0.35, 100 * (14 + more) / 24, None, None, {})
        return SimpleNamespace(evaluation=Evaluation("standard", 30, 24, gt_known=100 * 14 / 24, oracle=oracle))

    monkeypatch.setattr(evaluation, "evaluate_model", measure)
    val = create_dataset("scenes", None, "val", size=40, length=30)
    preprocessing = Preprocessing((32, 32), (36, 36))
    chosen = evaluation.calibrate_threshold(model, val, preprocessing, get_protocol("standard"), report=lines.append)
    assert chosen.value == value
    assert chosen.source == f"calibrated on val of scenes (24 images), {ending}"
    after = 100 * (14 + more) / 24
    assert lines == [
        f"GT-known on val of scenes (24 images), protocol standard: 58.3 at the default 0.1, {after:.1f} at 0.35"
    ]
