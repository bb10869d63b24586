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
from tokenloc.models.metadata import ModelMetadata

TEMPLATE = Path(__file__).with_name("model_card.md")
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&!$])")


def model_card(metadata: ModelMetadata, name: str, metrics: Mapping[str, Any] | None = None) -> str:
    """Return a model card in Markdown, with the hub's YAML front matter. It states no license: the owner chooses one.

    Text from outside (class names, sources) is escaped, so that it cannot contain markup. ``name`` is the argument of
    ``Localizer.from_pretrained``; ``metrics`` is the output of ``hub.read_metrics``.
    """
    method = metadata.model.method
    paper = (inspect.getdoc(inspect.getmodule(METHODS[method])) or method).splitlines()[0].rstrip(".")
    tags = ["tokenloc", "weakly-supervised-object-localization", method]
    header = ModelCardData(library_name="tokenloc", pipeline_tag="object-detection", tags=tags)
    values: dict[str, Any] = {"name": json.dumps(name), "paper": paper, "metadata": metadata, "metrics": metrics}
    values |= {"labels": METRIC_NAMES, "most": MOST_NAMES, "escape": escaped, "listed": _listed}
    values["json"] = partial(json.dumps, indent=2, ensure_ascii=False)
    card = ModelCard.from_template(header, template_path=str(TEMPLATE), **values)
    return f"{card}\n"


def escaped(text: object) -> str:
    r"""Return ``text`` as one line of Markdown without markup.

    >>> escaped("<b>a_b|c</b>\n# d")
    '\\<b\\>a\\_b\\|c\\</b\\> \\# d'
    """
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def _listed(options: Mapping[str, Any]) -> str:
    return escaped(f"; {', '.join(f'{name} = {value}' for name, value in options.items())}" if options else "")
