"""The web page. Its script uses the REST API like any other client."""

from __future__ import annotations

from fastapi.responses import HTMLResponse

from tokenloc.data.images import IMAGE_SUFFIXES
from tokenloc.refinement import list_steps
from tokenloc.reporting.pages import render_page
from tokenloc.server.annotations import usable_formats
from tokenloc.server.api import Service
from tokenloc.server.predict import KEEP_SECONDS, MAX_CLASSES

SOURCES = "img-src data:; connect-src 'self'"
HEADERS = {  # the page itself restricts scripts further, to its own; frame-ancestors works in a header only
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    f"{SOURCES}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}


def index(service: Service) -> HTMLResponse:
    """Return the page."""
    content = render_page(
        "page.html.j2",
        ["base.css", "page.css"],
        ["core.js", "overlay.js", "page.js"],
        package="tokenloc.server",
        policy=SOURCES,
        models=service.models,
        thresholds={name: one.threshold for name, one in service.models.items()},
        max_classes=MAX_CLASSES,
        refinements=["none", *list_steps(), "affinity,reprediction"],
        formats=usable_formats(),
        limits=service.limits,
        suffixes=",".join(sorted(IMAGE_SUFFIXES)),
        keep_minutes=round(KEEP_SECONDS / 60),
    )
    return HTMLResponse(content, headers=HEADERS)
