"""`--model.method auto`: the method that is chosen by brief trainings, without boxes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.runs import TINY_VIT, tiny_run, tiny_settings
from tokenloc.commands import choice
from tokenloc.commands.choice import Candidate, Compared, agreement, best
from tokenloc.models.checkpoint import read_metadata
from tokenloc.training.config import ModelChoice, Optimisation

AUTO = ModelChoice("auto", "vit_tiny_patch16_224", False, backbone_options=TINY_VIT)


def compared(evidence: float, area: float, *boxes: list[float]) -> Compared:
    return Compared(0.2, evidence, area, np.array(boxes, dtype=np.float64))


def test_the_most_evidence_beyond_the_area_wins_unless_the_boxes_are_elsewhere() -> None:
    right, close, corner = [10.0, 10, 30, 30], [10.0, 10, 30, 25], [0.0, 0, 5, 5]
    found = {
        "large": compared(0.6, 0.5, close, right),
        "good": compared(0.5, 0.2, close, right),
        "corners": compared(0.6, 0.1, corner, corner),
        "tokencut": compared(0.2, 0.2, right, right),
    }
    agreements = agreement(found)
    assert agreements == {"large": 0.875, "good": 0.875, "corners": 0.0, "tokencut": None}
    assert best(found, agreements) == "good"
    assert best(found, dict.fromkeys(found)) == "corners"
    del found["tokencut"]
    assert set(agreement(found).values()) == {None}


@pytest.fixture
def candidates(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the candidates by two quick ones; return the names that are compared, in order."""
    two = {"tscam": Candidate({"head_scale": 0.5}), "cam": Candidate(lr=2e-3)}
    monkeypatch.setattr(choice, "CANDIDATES", two)
    names: list[str] = []
    original = choice.compare

    def noted(localizer: Any, images: Any) -> Compared:
        names.append(localizer.metadata.model.method)
        return original(localizer, images)

    monkeypatch.setattr(choice, "compare", noted)
    return names


def auto_settings(out: Path) -> dict[str, Any]:
    data = replace(tiny_settings(out)["data"], calibration_split=None, test_split=None)
    return {"model": AUTO, "data": data, "optimisation": Optimisation(epochs=2, batch_size=8, lr=1e-3)}


@pytest.mark.slow
def test_the_winner_is_trained_and_recorded(
    tmp_path: Path, candidates: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny_run(tmp_path / "run", **auto_settings(tmp_path))
    assert candidates == ["tscam", "cam"]
    content = json.loads((tmp_path / "run/choice/choice.json").read_text())
    rows = content["candidates"]
    chosen = max(rows, key=lambda name: rows[name]["evidence"] - rows[name]["area"])
    assert content["chosen"] == chosen == read_metadata(checkpoint).model.method
    stored = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert stored["model"]["method"] == chosen
    assert stored["model"]["options"] == choice.CANDIDATES[chosen].options
    assert stored["optimisation"]["lr"] == (choice.CANDIDATES[chosen].lr or 1e-3)
    printed = capsys.readouterr().err
    assert f"chose {chosen}: the most evidence" in printed
    assert "evidence - area" in printed
    monkeypatch.setattr(choice, "best", lambda *_: "another")  # a finished choice stays
    tiny_run(tmp_path / "run", **auto_settings(tmp_path), resume=True)
    assert candidates == ["tscam", "cam"]
    with pytest.raises(ValueError, match=r"choice\.json is the choice of another data set or seed"):
        tiny_run(tmp_path / "run", **auto_settings(tmp_path), seed=1)


@pytest.mark.slow
def test_an_interrupted_choice_resumes(
    tmp_path: Path, candidates: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = choice.compare

    def interrupted(localizer: Any, images: Any) -> Compared:
        if localizer.metadata.model.method == "cam":
            raise KeyboardInterrupt
        return compare(localizer, images)

    with monkeypatch.context() as patch:
        patch.setattr(choice, "compare", interrupted)
        with pytest.raises(KeyboardInterrupt, match=r"repeat the command with --out"):
            tiny_run(tmp_path / "run", **auto_settings(tmp_path))
    assert candidates == ["tscam"]
    capsys.readouterr()
    tiny_run(tmp_path / "run", **auto_settings(tmp_path))
    assert capsys.readouterr().err.count("has all 2 epochs") == 2  # of the candidates
    assert (tmp_path / "run/choice/choice.json").is_file()


def test_options_of_a_method_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"are of one method; leave them out with auto"):
        tiny_run(tmp_path / "run", model=replace(AUTO, options={"area_target": 0.3}))


@pytest.mark.slow
def test_a_method_that_cannot_be_trained_is_left_out(
    tmp_path: Path, candidates: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    choice.CANDIDATES["sat"] = Candidate({"area_target": 2.0})
    tiny_run(tmp_path / "run", **auto_settings(tmp_path))
    assert candidates == ["tscam", "cam"]
    assert "sat is left out: area_target is a fraction" in capsys.readouterr().err
