"""The web page. Its script uses the REST API like any other client."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from tokenloc.data.images import IMAGE_SUFFIXES
from tokenloc.refinement import list_steps
from tokenloc.reporting.pages import render_page
from tokenloc.server.annotations import usable_formats
from tokenloc.server.api import Service
from tokenloc.server.predict import KEEP_SECONDS, MAX_CLASSES, NO_REFINEMENT

SOURCES = "img-src 'self'; connect-src 'self'"
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; {SOURCES}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
"""A header is needed for ``frame-ancestors``. The page itself allows only its own script, by hash."""

router = APIRouter(include_in_schema=False)


@router.get("/")
def index(service: Service) -> HTMLResponse:
    """Return the page."""
    steps = [*list_steps(), "affinity,reprediction"]
    page = render_page(
        "page.html.j2",
        ["base.css", "page.css"],
        ["core.js", "overlay.js", "page.js"],
        package="tokenloc.server",
        policy=SOURCES,
        models=[(name, f"{one.metadata.model.method}: {name}") for name, one in service.models.items()],
        thresholds={name: one.threshold for name, one in service.models.items()},
        classes=[(1, "most probable"), *((count, f"{count} most probable") for count in range(2, MAX_CLASSES + 1))],
        refinements=[("", "the method's own"), (NO_REFINEMENT, "none"), *((step, step) for step in steps)],
        formats=[(name, name) for name in usable_formats()],
        limits=service.limits,
        suffixes=",".join(sorted(IMAGE_SUFFIXES)),
        keep_minutes=round(KEEP_SECONDS / 60),
    )
    return HTMLResponse(page, headers=HEADERS)


@router.get("/favicon.ico")
async def favicon() -> Response:
    """Return nothing, so that browsers report no error."""
    return Response(status_code=204)
