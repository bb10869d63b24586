"""The FastAPI application, with the web page, whose script uses the REST API like any other client."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from tokenloc.data.images import IMAGE_SUFFIXES
from tokenloc.inference import Localizer
from tokenloc.refinement import list_steps
from tokenloc.reporting.pages import render_page
from tokenloc.server.annotations import usable_formats
from tokenloc.server.api import Service, router
from tokenloc.server.hosts import ANY_HOST, Hosts
from tokenloc.server.label_studio import LabelStudioBackend
from tokenloc.server.label_studio import router as label_studio_router
from tokenloc.server.limits import HEADERS, Guard, Limits, error_response
from tokenloc.server.predict import KEEP_SECONDS, MAX_CLASSES, PredictionService

SOURCES = "img-src data:; connect-src 'self'"
PAGE_HEADERS = {  # the page itself restricts scripts further, to its own; frame-ancestors works in a header only
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    f"{SOURCES}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}


def create_app(
    models: Mapping[str, Localizer],
    limits: Limits,
    hosts: Hosts = ANY_HOST,
    scratch: Path | None = None,
    label_studio: LabelStudioBackend | None = None,
) -> FastAPI:
    """Return the web page and REST API of ``models``, the first by default.

    Args:
        models: models by the names under which they are served.
        limits: limits of requests.
        hosts: valid values of the header ``Host``.
        scratch: folder for temporary files; None for the system's.
        label_studio: the backend of Label Studio, whose routes are added.
    """
    app = FastAPI(
        title="tokenloc",
        version=version("tokenloc"),
        docs_url=None,  # these pages load scripts from a CDN
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = PredictionService(models, limits, scratch)
    app.add_middleware(Guard, limits=limits, hosts=hosts)
    for kind in (Exception, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _report_error)
    app.include_router(router)
    if label_studio is not None:
        app.state.label_studio = label_studio
        app.include_router(label_studio_router)
    app.add_api_route("/", _index, include_in_schema=False)
    return app


def _index(service: Service) -> HTMLResponse:
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
    return HTMLResponse(content, headers=PAGE_HEADERS)


async def _report_error(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        return error_response(error.status_code, error.detail, error.headers)
    if isinstance(error, RequestValidationError):
        faults = [
            f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}; got {reprlib.repr(one['input'])}"
            for one in error.errors()
        ]
        return error_response(422, "; ".join(faults))
    # Starlette logs the error, and calls this handler outside of the middleware.
    return error_response(500, f"internal error ({type(error).__name__}); see the server's log", HEADERS)
