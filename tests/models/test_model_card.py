"""Model cards, parsed as Markdown and YAML."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.export.examples import HOSTILE
from tokenloc.data import Preprocessing
from tokenloc.methods import ModelConfig, list_methods
from tokenloc.models.hub import read_metrics
from tokenloc.models.metadata import ModelMetadata, Threshold
from tokenloc.models.model_card import model_card

CLASSES = (
    *HOSTILE,
    "---\nlicense: mit",
    "```\n# stolen\n```",
    "<script>alert(1)</script>",
    "[x](http://evil)",
    "a|b",
    "{{ name }}",
)
METRICS = {"protocol": "standard", "images": 123, "threshold": 0.29, "threshold_source": "by <b>hand</b> |"}


def metadata(method: str = "sat", classes: tuple[str, ...] = CLASSES) -> ModelMetadata:
    config = ModelConfig(method, "vit_tiny_patch16_224", len(classes), (224, 224), {"area_target": 0.25})
    threshold = Threshold(0.29, "calibrated on <img src=x> of *cub* | 1", "plain")
    return ModelMetadata(config, classes, Preprocessing(), threshold, {"name": "cub", "root": None, "options": {}})


def tokens(text: str) -> list[Token]:
    """Return the Markdown tokens of a card after its front matter."""
    page = MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])
    return [token for block in page for token in [block, *(block.children or [])]]


def test_front_matter_for_the_hub() -> None:
    front = ModelCard(model_card(metadata(), "user/birds")).data.to_dict()
    assert front["library_name"] == "tokenloc"
    assert front["tags"] == ["tokenloc", "weakly-supervised-object-localization", "sat"]
    assert front["pipeline_tag"] == "object-detection"
    assert "license" not in front


def test_class_names_cannot_contain_markup() -> None:
    text = model_card(metadata(), "user/birds", {**METRICS, "metrics": {"gt_known": 95.93}})
    found = tokens(text)
    (names,) = (token.content for token in found if token.type == "fence" and token.info == "json")
    assert json.loads(names) == list(CLASSES)
    types = {token.type for token in found}
    assert types.isdisjoint({"html_block", "html_inline", "link_open", "image", "em_open", "hr"})
    headings = [after.content for token, after in pairwise(found) if token.type == "heading_open"]
    assert headings == [r"sat on vit\_tiny\_patch16\_224", "Use", "Metrics", "Classes"]
    assert len(list(yaml.safe_load_all(text.split("---\n", 2)[1]))) == 1


def test_method_input_threshold_and_metrics() -> None:
    text = model_card(metadata(), "user/birds", {**METRICS, "metrics": {"gt_known": 95.93, "pxap": 70.0}})
    plain = "".join(token.content for token in tokens(text) if token.type == "text")
    for words in (
        "SAT: Spatial-Aware Token (Wu et al., ICCV 2023); area_target = 0.25",
        "vit_tiny_patch16_224 (timm)",
        "224 x 224 pixels, bilinear; normalised with mean [0.485, 0.456, 0.406]",
        "0.29, calibrated on <img src=x> of *cub* | 1; prediction options: plain",
        "In percent, on 123 images; protocol standard, map threshold 0.29 (by <b>hand</b> |).",
    ):
        assert words in plain
    assert "| GT-known | 95.9 |\n| PxAP | 70.0 |\n\n## Classes" in text


@pytest.mark.parametrize("method", list_methods())
def test_every_method_names_its_paper(method: str) -> None:
    assert re.search(r"(et al\.|and \w+), .*\d{4}", model_card(metadata(method), "user/birds").replace("\\", ""))


def test_snippet_is_valid_python() -> None:
    (code,) = (token.content for token in tokens(model_card(metadata(), 'my "birds"')) if token.info == "python")
    compile(code, "card", "exec")
    assert r'from_pretrained("my \"birds\"")' in code


def test_long_class_lists_are_cut() -> None:
    classes = tuple(f"class {index}" for index in range(1000))
    text = model_card(replace(metadata(), classes=classes, threshold=None, data=None), "user/birds")
    assert "1000 in the order of the logits, the first 200:" in text
    assert '"class 199"' in text
    assert '"class 200"' not in text
    assert "not calibrated" in text
    assert "Training data**: not stated" in text


@pytest.mark.parametrize(
    "content",
    [None, "", "[]", '{"metrics": 3}', '{"metrics": {"gt_known": "95"}}', '{"metrics": {"gt_known": NaN}}'],
)
def test_no_metrics(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert read_metrics(tmp_path) is None


def test_metrics_of_unexpected_types_are_left_out(tmp_path: Path) -> None:
    metrics = {"gt_known": 90, "top1_loc": True, "x": 1.0, "pxap": None}
    (tmp_path / "metrics.json").write_text(json.dumps({"protocol": "sat", "images": [], "metrics": metrics}))
    found = read_metrics(tmp_path)
    assert found == {"protocol": "sat", "metrics": {"gt_known": 90}}
    assert "| GT-known | 90.0 |" in model_card(metadata(), "user/birds", found)
