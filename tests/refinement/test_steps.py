"""Names and settings of refinement steps: one form for YAML, flags, Python and text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tokenloc.cli import _make_parser
from tokenloc.inference import PredictionOptions
from tokenloc.refinement import STEPS, AffinityRefinement, Reprediction, describe_steps, find_steps

PAPER = [STEPS["affinity"], Reprediction(stride=1, vote=False, lr=1e-3)]
SETTINGS = {"stride": 1, "vote": False, "lr": "1e-3"}  # YAML 1.1 reads 1e-3 as text
TEXT = "affinity,reprediction: {lr: 0.001, stride: 1, vote: false}"


@pytest.mark.parametrize(
    "form",
    [
        ["affinity", {"reprediction": SETTINGS}],
        ["affinity", "reprediction: {stride: 1, vote: false, lr: 1e-3}"],
        TEXT,
        f"[{TEXT}]",
        "affinity, {reprediction: {stride: 1, vote: no, lr: 0.001}}",
        {"affinity,reprediction": SETTINGS},  # as jsonargparse reads the text
    ],
)
def test_every_form_gives_the_same_steps_and_the_same_text(form: Any) -> None:
    assert find_steps(form) == PAPER
    assert ",".join(describe_steps(form)) == TEXT
    assert str(PredictionOptions(refine=form)) == f"refine {TEXT}"


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("affinity,reprediction@0.1", "affinity,reprediction@0.1"),
        (("affinity_wide", "reprediction@0.30"), "affinity_wide,reprediction@0.30"),
        ("none", "none"),
        ((), "none"),
        ([{"affinity": {}}, {"reprediction": {"stride": 2, "vote": True}}], "affinity,reprediction"),  # all defaults
        ({"reprediction@0.1": {"disagreement": 0.02, "stride": 1}}, "reprediction@0.1: {stride: 1}"),
        ({"affinity": {"distances": [1, 2], "keep": 0}}, "affinity: {keep: 0.0, distances: [1, 2]}"),
    ],
)
def test_the_text_names_what_differs_from_the_defaults(form: Any, text: str) -> None:
    assert str(PredictionOptions(refine=form)) == f"refine {text}"
    assert find_steps(text) == find_steps(form)


def test_settings_apply_to_the_named_step() -> None:
    wide = find_steps({"affinity_wide": {"iterations": 3}})[0]
    assert wide == AffinityRefinement(iterations=3, distances=(1, 2, 4, 8, 12, 24), spread=0.3)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"reprediction": {"strid": 1}}, "unknown setting of .* 'reprediction' 'strid'; did you mean 'stride'"),
        ({"reprediction@0.1": {"strid": 1}}, "'reprediction@0.1' 'strid'; did you mean 'stride'"),
        ({"afinity": {"keep": 0.1}}, "unknown refinement step 'afinity'; did you mean 'affinity'"),
        ({"reprediction": {"stride": 1.5}}, "stride of a refinement step must be an integer; got 1.5"),
        ({"reprediction": {"stride": True}}, "stride .* must be an integer; got True"),
        ({"reprediction": {"vote": 0}}, "vote .* must be true or false; got 0"),
        ({"reprediction": {"lr": ".nan"}}, "lr .* must be a finite number; got '.nan'"),
        ({"affinity": {"distances": 3}}, "distances .* must be a list of integers; got 3"),
        ({"reprediction": {"stride": 0}}, "stride must be at least 1; got 0"),
        ({"reprediction": None}, "a name or {name: {setting: value}}; got {'reprediction': None}"),
        ({"affinity": {}, "reprediction": {}}, "a name or {name: {setting: value}}; got"),
        ({"class_path": "tokenloc.Localizer"}, "a name or {name: {setting: value}}; got {'class_path'"),
        (3, "a name or {name: {setting: value}}; got 3"),
        ("affinity,,reprediction", "invalid refinement steps 'affinity,,reprediction'; expected text like"),
        ("affinity: {keep: !!python/name:os.system }", "anchors, aliases and tags are not accepted"),
    ],
)
def test_invalid_steps_are_refused(step: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PredictionOptions(refine=(step,))


def test_a_step_without_settings() -> None:
    STEPS.add("invert", lambda maps, _: 1 - maps)
    try:
        assert describe_steps(["invert"]) == ("invert",)
        with pytest.raises(ValueError, match="unknown setting of the refinement step 'invert' 'by'. Valid: none"):
            find_steps({"invert": {"by": 1}})
    finally:
        del STEPS._items["invert"]


@pytest.mark.parametrize("words", [["affinity", TEXT.partition(",")[2]], [TEXT], [f"[{TEXT}]"], None])
def test_flags_and_recipes_take_settings(words: list[str] | None, tmp_path: Path) -> None:
    recipe = tmp_path / "options.yaml"
    recipe.write_text(yaml.safe_dump({"refine": ["affinity", {"reprediction": SETTINGS}]}))
    flags = ["--config", str(recipe)] if words is None else ["--refine", *words]
    parser = _make_parser(["localize"])[0]
    parsed = parser.instantiate(parser.parse_args(["localize", "last.ckpt", "images", "--out", "x", *flags]))
    assert str(PredictionOptions(refine=parsed.localize.refine)) == f"refine {TEXT}"
