"""The FastAPI application."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tokenloc.inference import Localizer
from tokenloc.server import api, page
from tokenloc.server.limits import HEADERS, Guard, Limits, error_response
from tokenloc.server.predict import PredictionService


def create_app(models: Mapping[str, Localizer], limits: Limits, hosts: Collection[str] | None = None) -> FastAPI:
    """Return the application: the web page, the REST API and ``/openapi.json``.

    The first of the ``models`` is the default. ``hosts`` are the valid host names of requests; None for any.
    """
    app = FastAPI(
        title="tokenloc",
        version=version("tokenloc"),
        docs_url=None,  # these pages load scripts from a CDN
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.service = PredictionService(models, limits)
    app.add_middleware(Guard, limits=limits, hosts=hosts)
    for kind in (Exception, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _report_error)
    app.include_router(api.router)
    app.add_api_route("/", page.index, include_in_schema=False)
    return app


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
