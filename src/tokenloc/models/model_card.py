"""The README.md of a shared model: what a person and the hub read first."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tokenloc._names import MOST_NAMES
from tokenloc.methods.base import METHODS
from tokenloc.metrics.evaluation import METRIC_NAMES
from tokenloc.models.checkpoint import ModelMetadata
from tokenloc.models.folder import METRICS, read_config

_MARKUP = re.compile(r"([\\`*_\[\]<>|#~&!$])")

PAGE = """---
{front}---

# {title}

Says what is in an image and where, learned from image labels alone: a model of tokenloc.

- **Method**: {method}
- **Backbone**: {backbone} of timm
- **Input**: {width} x {height} pixels, {interpolation}; channels normalised by mean {mean} and standard deviation {std}
- **Map threshold**: {threshold}
- **Trained on**: {data}

## Use

```python
import tokenloc

localizer = tokenloc.Localizer.from_pretrained({name})
result = localizer("photo.jpg")
print(result.label, result.score, result.boxes)  # boxes: x0, y0, x1, y1 in the image's own pixels
```

{metrics}## Classes

{count} in the order of the logits{more}:

```json
{classes}
```

`config.json` holds all that is needed to use `model.safetensors`; neither can run code.
"""


def model_card(metadata: ModelMetadata, name: str, metrics: Mapping[str, Any] | None = None) -> str:
    """Return a model metadata in Markdown, with the hub's YAML front matter; the license is left to the owner.

    Text that others chose (class names, sources) is escaped, so that no markup in it counts.

    Args:
        metadata: of the model.
        name: by which the model is loaded: ``USER/NAME``, or a folder.
        metrics: of ``read_metrics``.
    """
    preprocessing, classes = metadata.preprocessing, metadata.classes
    return PAGE.format(
        front=_front_matter(metadata),
        title=escaped(f"{metadata.model.method} on {metadata.model.backbone}"),
        method=escaped(_described(metadata.model.method) + _options(metadata.model.options)),
        backbone=escaped(metadata.model.backbone + _options(metadata.model.backbone_options)),
        width=preprocessing.size[0],
        height=preprocessing.size[1],
        interpolation=preprocessing.interpolation,
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        threshold=escaped(_threshold(metadata)),
        data=escaped((metadata.data or {}).get("name", "not stated")),
        name=json.dumps(name),
        metrics=_metrics_section(metrics) if metrics else "",
        count=len(classes),
        more=f", the first {MOST_NAMES}" if len(classes) > MOST_NAMES else "",
        classes=_listed(classes[:MOST_NAMES]),
    )


def read_metrics(path: Path) -> dict[str, Any] | None:
    """Return what a metrics.json says for the metadata: protocol, images, threshold, percentages; None without one.

    The file may come from anyone: what is not of the right kind is left out.
    """
    try:
        content = read_config(path)
    except (OSError, ValueError):
        return None
    measured = content.get("metrics") or {}
    numbers = {name: float(measured[name]) for name in METRIC_NAMES if _is_number(measured, name)}
    about = {name: content[name] for name in ("images", "threshold") if _is_number(content, name)}
    protocol, source = (str(content.get(name) or "") for name in ("protocol", "threshold_source"))
    return {"protocol": protocol, **about, "threshold_source": source, "metrics": numbers} if numbers else None


def metrics_of(checkpoint: Path) -> dict[str, Any] | None:
    """Return ``read_metrics`` of a folder, or of a file's run, where the file is the one that was measured."""
    if checkpoint.is_dir():
        return read_metrics(checkpoint / METRICS)
    return read_metrics(checkpoint.parent.parent / METRICS) if checkpoint.name == "best.ckpt" else None


def escaped(text: str) -> str:
    r"""Return ``text`` as one line of Markdown in which nothing is markup.

    >>> escaped("<b>a_b|c</b>\n# d")
    '\\<b\\>a\\_b\\|c\\</b\\> \\# d'
    """
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def _front_matter(metadata: ModelMetadata) -> str:
    tags = ["tokenloc", "weakly-supervised-object-localization", metadata.model.method]
    return yaml.safe_dump({"library_name": "tokenloc", "pipeline_tag": "object-detection", "tags": tags})


def _described(method: str) -> str:
    """Return what a method's file says that it is: its name and paper."""
    doc = inspect.getdoc(inspect.getmodule(METHODS[method])) or method
    return doc.splitlines()[0].rstrip(".")


def _options(options: Mapping[str, Any]) -> str:
    return f"; {', '.join(f'{name} = {value}' for name, value in options.items())}" if options else ""


def _threshold(metadata: ModelMetadata) -> str:
    if metadata.threshold is None:
        return "never calibrated: the method's default"
    return f"{metadata.threshold.value:g}, {metadata.threshold.source}; looking at images {metadata.threshold.options}"


def _is_number(values: Any, name: str) -> bool:
    value = values.get(name) if isinstance(values, Mapping) else None
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _metrics_section(metrics: Mapping[str, Any]) -> str:
    threshold = f", map threshold {metrics['threshold']:g}" if "threshold" in metrics else ""
    source = f" ({metrics['threshold_source']})" if threshold and metrics["threshold_source"] else ""
    images = f" {metrics['images']:.0f} images," if "images" in metrics else ""
    how = escaped(
        f"EvaluationResult on{images} protocol {metrics['protocol'] or 'not stated'}{threshold}{source}; in percent."
    )
    rows = "".join(f"| {METRIC_NAMES[name]} | {value:.1f} |\n" for name, value in metrics["metrics"].items())
    return f"## Metrics\n\n{how}\n\n| | |\n|---|---|\n{rows}\n"


def _listed(names: tuple[str, ...]) -> str:
    """Return names as JSON, one a line: none begins a line, so that none can close the block of code around them."""
    lines = ",\n".join(f"  {json.dumps(name, ensure_ascii=False)}" for name in names)
    return f"[\n{lines}\n]"
