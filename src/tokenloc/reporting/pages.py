"""The front end that the HTML report and the server's page share: templates, styles and scripts."""

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
    """Return an HTML page: a Jinja template that extends ``base.html.j2``, with its style and script inlined.

    Values are escaped. The page's Content-Security-Policy allows its own script, by hash, and inline style; everything
    else, network access included, is blocked unless ``policy`` allows it. Scripts share one function scope. Files are
    searched in the folder ``templates`` of ``package``, then in the shared one.
    """
    loader = ChoiceLoader([PackageLoader(package), PackageLoader(SHARED)])
    settings: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=loader, autoescape=True, **settings)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.filters["number"] = lambda value, digits=1: "-" if value is None else f"{value:.{digits}f}"
    style, body = ("\n".join(loader.get_source(environment, name)[0] for name in names) for names in (styles, scripts))
    script = f"(() => {{\n'use strict';\n{body}}})();\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    page = {"style": Markup(style), "script": Markup(script), "policy": POLICY.format(digest, policy)}
    return environment.get_template(template).render(**values, **page, version=version("tokenloc"))
