"""The front end that the HTML report and the server's page share.

A page is a Jinja template that extends ``base.html.j2`` and fills its blocks ``title``, ``header``, ``main``,
``footer`` and ``data``. Its style and its script are lists of files, inlined in order. The shared files, in
``tokenloc/reporting/templates``, are:

- ``base.css``: colors (light and dark), type, tables, buttons, form fields, sliders, cards, images with boxes;
- ``core.js``: ``byId``, ``make`` and ``makeSvg`` (elements from text, never from HTML), sorting, formatting;
- ``overlay.js``: ``imageFrame`` (an image, an optional heatmap over it, and an SVG), ``addBox`` and ``moveBox``.

Another package puts its own template, style and script in its folder ``templates`` and renders them with::

    render_page("page.html.j2", ["base.css", "page.css"], ["core.js", "overlay.js", "page.js"],
                package="tokenloc.server", policy="img-src 'self' data: blob:; connect-src 'self'", models=[...])

Values are escaped. A block writes JSON for the script with ``<script type="application/json" id="data">{{ data|tojson
}}</script>``, which the script reads as ``JSON.parse(byId("data").textContent)``.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

SHARED = "tokenloc.reporting"
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'; {}"
)


def render_page(
    template: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    *,
    package: str = SHARED,
    policy: str = "img-src data:",
    **values: Any,
) -> str:
    """Return an HTML page with its style and script inlined.

    Its Content-Security-Policy allows its own script, by hash, and inline style. Everything else, network access
    included, is blocked unless ``policy`` allows it.

    Args:
        template: Name of the page's template.
        styles: Names of CSS files.
        scripts: Names of JavaScript files, which share one function scope.
        package: Searched for the files, in its folder ``templates``, before the shared ones.
        policy: Further directives of the Content-Security-Policy.
        values: Of the template.
    """
    loader = ChoiceLoader([PackageLoader(package), PackageLoader(SHARED)])
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = format_number
    style, body = ("\n".join(loader.get_source(environment, name)[0] for name in names) for names in (styles, scripts))
    script = f"(() => {{\n'use strict';\n{body}}})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    page = {"style": Markup(style), "script": Markup(script), "policy": POLICY.format(digest, policy)}
    return environment.get_template(template).render(**values, **page, version=version("tokenloc"))


def format_number(value: float | None, digits: int = 1) -> str:
    """Return a number for a table; a dash for None.

    >>> format_number(82.54), format_number(None), format_number(0.5, 2)
    ('82.5', '-', '0.50')
    """
    return "-" if value is None else f"{value:.{digits}f}"
