"""The README.md of a shared model."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from tokenloc._names import MOST_NAMES
from tokenloc.methods.base import METHODS
from tokenloc.metrics.evaluation import METRIC_NAMES
from tokenloc.models.hub import METRICS, read_json
from tokenloc.models.metadata import ModelMetadata

TEMPLATE = Path(__file__).with_name("model_card.md")
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&!$])")


def model_card(metadata: ModelMetadata, name: str, metrics: Mapping[str, Any] | None = None) -> str:
    """Return a model card in Markdown, with the hub's YAML front matter. It states no license: the owner chooses one.

    Text from outside (class names, sources) is escaped, so that it cannot contain markup.

    Args:
        metadata: the metadata of the model.
        name: the argument of ``Localizer.from_pretrained``: ``USER/NAME`` or a folder.
        metrics: the output of ``read_metrics``.
    """
    method = metadata.model.method
    paper = (inspect.getdoc(inspect.getmodule(METHODS[method])) or method).splitlines()[0].rstrip(".")
    tags = ["tokenloc", "weakly-supervised-object-localization", method]
    card = ModelCard.from_template(
        ModelCardData(library_name="tokenloc", pipeline_tag="object-detection", tags=tags),
        template_path=str(TEMPLATE),
        name=json.dumps(name),
        paper=paper,
        model=metadata.model,
        input=metadata.preprocessing,
        threshold=metadata.threshold,
        data=metadata.data or {},
        classes=metadata.classes,
        metrics=metrics,
        labels=METRIC_NAMES,
        most=MOST_NAMES,
        escape=escaped,
        listed=_listed,
        json=partial(json.dumps, indent=2, ensure_ascii=False),
    )
    return f"{card}\n"


def read_metrics(checkpoint: Path) -> dict[str, Any] | None:
    """Return the metrics of a shared folder, or of the run of a ``best.ckpt``; None if there are none.

    The file is untrusted: values of an unexpected type are left out.

    Returns:
        protocol, images, threshold, threshold_source, and metrics by name, in percent.
    """
    if not checkpoint.is_dir() and checkpoint.name != "best.ckpt":
        return None  # a run evaluates best.ckpt only
    folder = checkpoint if checkpoint.is_dir() else checkpoint.parent.parent
    try:
        content = read_json(folder / METRICS)
    except (OSError, ValueError):
        return None
    stored = content.get("metrics")
    stored = stored if isinstance(stored, dict) else {}
    metrics = {name: stored[name] for name in METRIC_NAMES if type(stored.get(name)) in (int, float)}
    names = ("protocol", "images", "threshold", "threshold_source")
    about = {name: content[name] for name in names if isinstance(content.get(name), (str, int, float))}
    return {**about, "metrics": metrics} if metrics else None


def escaped(text: object) -> str:
    r"""Return ``text`` as one line of Markdown without markup.

    >>> escaped("<b>a_b|c</b>\n# d")
    '\\<b\\>a\\_b\\|c\\</b\\> \\# d'
    """
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def _listed(options: Mapping[str, Any]) -> str:
    return escaped(f"; {', '.join(f'{name} = {value}' for name, value in options.items())}" if options else "")
