"""What a page says of an image, as HTML: everything that comes from files or people is text in it, never markup."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tokenloc.export.base import valid_text
from tokenloc.inference import Localization
from tokenloc.server.models import Sight

HINT = '<p class="hint">Drop an image; what is found in it is shown here.</p>'

STYLE = """
.hint { opacity: .7; padding: 2rem 0; text-align: center; }
.fault { border: 1px solid #c0392b; border-radius: 8px; padding: .8rem 1rem; overflow-wrap: anywhere; }
.found { margin-bottom: 1.5rem; }
.found h3 { margin: 0 0 .4rem; font-size: 1.15rem; overflow-wrap: anywhere; }
.found h3 small { font-weight: 400; opacity: .7; }
.found .pair { display: flex; flex-wrap: wrap; gap: .75rem; align-items: flex-start; }
.found figure { margin: 0; flex: 1 1 120px; max-width: 100%; }
.found figcaption { font-size: .85rem; opacity: .7; margin-top: .2rem; }
.found .frame { position: relative; line-height: 0; }
.found .frame img { width: 100%; height: auto; border-radius: 4px; margin: 0; }
.found .frame svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.found .frame rect { fill: none; stroke: #ff4040; stroke-width: 3; vector-effect: non-scaling-stroke; }
.found table { margin-top: .5rem; font-size: .85rem; font-variant-numeric: tabular-nums; }
.found table, .found tr, .found td, .found th { border: 0 !important; }
.found td, .found th { padding: .1rem 1rem .1rem 0 !important; text-align: right; font-weight: 400; }
.found th { opacity: .7; }
"""


def answer(sight: Sight, results: Sequence[Localization]) -> str:
    """Return what was found, at any threshold: for each class its boxes on the image and on the heatmap.

    Args:
        sight: what was seen.
        results: ``sight.results`` as they are to be shown.
    """
    pairs = zip(results, sight.heatmaps, strict=True)
    return "".join(_found(result, sight.image, heatmap) for result, heatmap in pairs)


def fault(message: str) -> str:
    """Return a message that says what is wrong with an image or a setting."""
    return f'<p class="fault" role="alert">{_text(message)}</p>'


def _found(result: Localization, image: str, heatmap: str) -> str:
    label = f"{_text(result.label)} <small>{result.score:.0%}</small>"
    on_image = _figure(image, result, f"{len(result.boxes)} box{'' if len(result.boxes) == 1 else 'es'}")
    on_map = _figure(heatmap, result, f"map, cut at {result.threshold:.2f}")
    pair = f'<div class="pair">{on_image}{on_map}</div>'
    return f'<section class="found"><h3>{label}</h3>{pair}{_table(result)}</section>'


def _figure(address: str, result: Localization, caption: str) -> str:
    width, height = result.size
    boxes = "".join(
        f'<rect x="{x0:.2f}" y="{y0:.2f}" width="{x1 - x0:.2f}" height="{y1 - y0:.2f}"/>'
        for x0, y0, x1, y1 in result.boxes.tolist()
    )
    # Decoded at once, so that nothing flickers while the slider moves.
    image = f'<img src="{address}" alt="" decoding="sync" width="{width}" height="{height}">'
    overlay = f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{boxes}</svg>'
    return f'<figure><div class="frame">{image}{overlay}</div><figcaption>{caption}</figcaption></figure>'


def _table(result: Localization) -> str:
    """Return the boxes in numbers: pixels of the upright image, from its left top corner."""
    if not len(result.boxes):
        return "<p>Nothing exceeds the threshold: no box.</p>"
    head = "".join(f"<th>{name}</th>" for name in ("left", "top", "right", "bottom"))
    rows = "".join(f"<tr>{''.join(f'<td>{value:.1f}</td>' for value in box)}</tr>" for box in result.boxes.tolist())
    return f"<table><tr>{head}</tr>{rows}</table>"


def _text(text: str) -> str:
    return escape(valid_text(text))
