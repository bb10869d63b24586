"""The model metadata, as readers of Markdown and YAML understand it."""

from __future__ import annotations

import json
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
from tokenloc.models.checkpoint import ModelMetadata, Threshold
from tokenloc.models.model_card import escaped, model_card, read_metrics

CLASSES = (*HOSTILE, "---\nlicense: mit", "```\n# stolen\n```", "<script>alert(1)</script>", "[x](http://evil)", "a|b")
METRICS = {"protocol": "standard", "images": 123, "threshold": 0.29, "threshold_source": "by <b>hand</b> |"}


def metadata(method: str = "sat", classes: tuple[str, ...] = CLASSES) -> ModelMetadata:
    config = ModelConfig(method, "vit_tiny_patch16_224", len(classes), (224, 224), {"area_target": 0.25})
    threshold = Threshold(0.29, "calibrated on <img src=x> of *cub* | 1", "plain")
    return ModelMetadata(config, classes, Preprocessing(), threshold, {"name": "cub", "root": None, "options": {}})


def tokens(text: str) -> list[Token]:
    """Return all tokens of a page behind its front matter."""
    page = MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])
    return [token for block in page for token in [block, *(block.children or [])]]


def test_the_front_matter_is_what_the_hub_reads() -> None:
    front = ModelCard(model_card(metadata(), "user/birds")).data.to_dict()
    assert front["library_name"] == "tokenloc"
    assert front["tags"] == ["tokenloc", "weakly-supervised-object-localization", "sat"]
    assert front["pipeline_tag"] == "object-detection"
    assert "license" not in front


def test_class_names_are_listed_and_no_markup_in_them_counts() -> None:
    text = model_card(metadata(), "user/birds", {**METRICS, "metrics": {"gt_known": 95.93}})
    found = tokens(text)
    (names,) = (token.content for token in found if token.type == "fence" and token.info == "json")
    assert json.loads(names) == list(CLASSES)
    kinds = {token.type for token in found}
    assert kinds.isdisjoint({"html_block", "html_inline", "link_open", "image", "em_open", "hr"})
    headings = [after.content for token, after in pairwise(found) if token.type == "heading_open"]
    assert headings == [r"sat on vit\_tiny\_patch16\_224", "Use", "Metrics", "Classes"]
    assert len(list(yaml.safe_load_all(text.split("---\n", 2)[1]))) == 1


def test_it_says_what_one_must_know() -> None:
    text = model_card(metadata(), "user/birds", {**METRICS, "metrics": {"gt_known": 95.93, "pxap": 70.0}})
    plain = "".join(token.content for token in tokens(text) if token.type == "text")
    for words in (
        "SAT: Spatial-Aware Token (Wu et al., ICCV 2023); area_target = 0.25",
        "vit_tiny_patch16_224 of timm",
        "224 x 224 pixels, bilinear",
        "0.29, calibrated on <img src=x> of *cub* | 1; looking at images plain",
        "EvaluationResult on 123 images, protocol standard, map threshold 0.29 (by <b>hand</b> |); in percent.",
    ):
        assert words in plain
    assert "| GT-known | 95.9 |\n| PxAP | 70.0 |" in text


@pytest.mark.parametrize("method", list_methods())
def test_every_method_names_its_paper(method: str) -> None:
    assert "et al., " in model_card(metadata(method), "user/birds").replace("\\", "")


def test_the_snippet_is_python_and_names_the_model() -> None:
    (code,) = (token.content for token in tokens(model_card(metadata(), 'my "birds"')) if token.info == "python")
    compile(code, "metadata", "exec")
    assert r'from_pretrained("my \"birds\"")' in code


def test_thousands_of_classes_are_not_all_listed() -> None:
    classes = tuple(f"class {index}" for index in range(1000))
    text = model_card(replace(metadata(), classes=classes, threshold=None, data=None), "user/birds")
    assert "1000 in the order of the logits, the first 200:" in text
    assert '"class 199"' in text
    assert '"class 200"' not in text
    assert "never calibrated" in text
    assert "Trained on**: not stated" in text


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"metrics": 3}', '{"metrics": {"gt_known": "95"}}', '{"metrics": {"gt_known": NaN}}', '{"images": 3}'],
)
def test_metrics_that_are_none(content: str, tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.json") is None
    (tmp_path / "metrics.json").write_text(content)
    assert read_metrics(tmp_path / "metrics.json") is None


def test_of_metrics_only_numbers_are_kept(tmp_path: Path) -> None:
    written = {
        "protocol": "sat",
        "images": "many",
        "metrics": {"gt_known": 90, "top1_loc": True, "x": 1.0, "pxap": None},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(written))
    assert read_metrics(tmp_path / "metrics.json") == {
        "protocol": "sat",
        "threshold_source": "",
        "metrics": {"gt_known": 90.0},
    }


def test_escaping_leaves_plain_words_alone() -> None:
    assert escaped("Naïve bird 3") == "Naïve bird 3"
