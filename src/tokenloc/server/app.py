"""The FastAPI application."""

from __future__ import annotations

import reprlib
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
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

    Args:
        models: localizers by name; the first one is the default.
        limits: sizes of an upload and length of the queue.
        hosts: valid host names of requests; None for any.
    """
    service = PredictionService(models, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="tokenloc",
        version=version("tokenloc"),
        docs_url=None,  # these pages load scripts from a CDN
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(Guard, limits=limits, hosts=hosts)
    app.add_exception_handler(Exception, _report_error)
    app.add_exception_handler(HTTPException, _report_error)
    app.add_exception_handler(RequestValidationError, _report_error)
    app.include_router(api.router)
    app.include_router(page.router)
    return app


async def _report_error(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HTTPException):
        return error_response(error.status_code, error.detail, dict(error.headers or {}))
    if isinstance(error, RequestValidationError):
        faults = [
            f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}; got {reprlib.repr(one['input'])}"
            for one in error.errors()
        ]
        return error_response(422, "; ".join(faults))
    # Starlette logs the error, and calls this handler outside of the middleware.
    return error_response(500, f"internal error ({type(error).__name__}); see the server's log", HEADERS)
