"""Routes of the REST API. Errors are JSON, ``{"error": message}``."""

from __future__ import annotations

import base64
import io
import re
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Cookie, Depends, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from pydantic import BaseModel, Field

from tokenloc._names import unknown_name
from tokenloc.export.base import valid_text
from tokenloc.inference import Localization
from tokenloc.inference.localization import Objects
from tokenloc.server.annotations import annotation_file, image_name, usable_formats
from tokenloc.server.predict import KEEP_SECONDS, MAX_CLASSES, PREVIEW_SIDE, PredictionService, Result, new_secret


def _service(request: Request) -> Any:
    return request.app.state.service


Service = Annotated[PredictionService, Depends(_service)]
THRESHOLD = "Threshold on the map, in [0, 1]. Default: the model's."
OBJECTS = "One box around the largest component above the threshold, or one around each."
Threshold = Annotated[float | None, Query(ge=0, le=1, description=THRESHOLD)]
Boxes = Annotated[Objects, Query(description=OBJECTS)]
SESSION = "tokenloc-session"  # the cookie without which a result's token is not enough
Session = Annotated[str, Cookie(alias=SESSION, description="Session that sent the image, set by /predict.")]
_SECRET = re.compile(r"[\w-]{32}", re.ASCII)


class ErrorResponse(BaseModel):
    """An error."""

    error: str


class Prediction(BaseModel):
    """One class in the image, as in ``localizations.json``."""

    file: str
    width: int
    height: int
    label: str
    class_index: int
    score: float = Field(description="Softmax probability of the class.")
    boxes: list[list[float]] = Field(description="x0, y0, x1, y1 in pixels of the upright image, half-open.")
    confidence: list[float] = Field(description="Confidence of each box, in [0, 1].")
    threshold: float
    protocol: str
    map: str | None = Field(None, description="Map (255 for 1) that covers the image: grey PNG, Base64.")


class PredictionResponse(BaseModel):
    """Predictions for one image, the most probable class first."""

    model: str
    result: str | None = Field(
        None, description="Token for /results, if the result is kept; it works in this session only."
    )
    image: str | None = Field(None, description=f"Upright image, at most {PREVIEW_SIDE} pixels long: JPEG, Base64.")
    predictions: list[Prediction]


router = APIRouter(responses={code: {"model": ErrorResponse} for code in ("4XX", 422, 503)})


@router.get("/health")
async def health(service: Service) -> dict[str, Any]:
    """Report that the server is up."""
    return {"status": "ok", "models": list(service.models)}


@router.get("/models")
async def models(service: Service) -> list[dict[str, Any]]:
    """List the models with their methods, backbones, classes and thresholds; the first one is the default."""
    return [
        {
            "name": name,
            "method": localizer.metadata.model.method,
            "backbone": localizer.metadata.model.backbone,
            "classes": [valid_text(label) for label in localizer.metadata.classes],
            "threshold": localizer.threshold,
        }
        for name, localizer in service.models.items()
    ]


@router.post("/predict")
async def predict(
    service: Service,
    response: Response,
    image: Annotated[UploadFile, File(description="AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF or WebP.")],
    model: Annotated[str, Form(description="A name from /models. Default: the first.")] = "",
    top_k: Annotated[int, Form(ge=1, le=MAX_CLASSES, description="Number of classes.")] = 1,
    threshold: Annotated[float | None, Form(ge=0, le=1, description=THRESHOLD)] = None,
    objects: Annotated[Objects, Form(description=OBJECTS)] = "largest",
    refine: Annotated[str, Form(description="Refinement steps, comma-separated, or none. Default: the method's.")] = "",
    images: Annotated[bool, Form(description="Return the upright image and the maps.")] = False,
    keep: Annotated[bool, Form(description=f"Keep the result in memory for {KEEP_SECONDS:g} s.")] = False,
    session: Session = "",
) -> PredictionResponse:
    """Predict the classes and boxes of one image."""
    result = await service.predict(image, image_name(image.filename), model, top_k, refine)
    token = None
    if keep:
        session = session if _SECRET.fullmatch(session) else new_secret()
        token = service.keep(session, result)
        response.set_cookie(SESSION, session, httponly=True, samesite="strict")
    return await run_in_threadpool(lambda: _response(result.at(threshold, objects), token, images))


@router.get("/results/{token}")
def redraw(
    service: Service, token: str, threshold: Threshold = None, objects: Boxes = "largest", session: Session = ""
) -> PredictionResponse:
    """Return a kept result at another threshold, without running the model again."""
    return _response(service.kept(session, token).at(threshold, objects), token)


@router.get("/results/{token}/annotations/{form}", response_class=Response)
def download_annotation(
    service: Service,
    token: str,
    form: str,
    threshold: Threshold = None,
    objects: Boxes = "largest",
    session: Session = "",
) -> Response:
    """Download a kept result in an annotation format: a file, or a ZIP archive of several."""
    result = service.kept(session, token)
    if form not in usable_formats():
        raise HTTPException(422, str(unknown_name("format", form, usable_formats())))
    name, content = annotation_file(result.at(threshold, objects), form, service.scratch)
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type="application/octet-stream", headers=headers)


def _response(result: Result, token: str | None, images: bool = False) -> PredictionResponse:
    predictions = [
        Prediction(**{**one.to_dict(), "label": valid_text(one.label)}, map=_map_png(one) if images else None)
        for one in result.predictions
    ]
    image = base64.b64encode(result.preview).decode("ascii") if images else None
    return PredictionResponse(model=result.model, result=token, image=image, predictions=predictions)


def _map_png(one: Localization) -> str:
    """Return the map, of the size of the network's input but relative to the whole image."""
    height, width = one.map.shape
    map_ = one.frame.of_original((width, height)).map_to_original(one.map)
    file = io.BytesIO()
    Image.fromarray((255 * map_).round().astype(np.uint8)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
