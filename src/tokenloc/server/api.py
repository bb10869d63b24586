"""Routes of the REST API. Errors are JSON, ``{"error": message}``."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field

from tokenloc._names import unknown_name
from tokenloc.export.base import valid_text
from tokenloc.inference.localizer import Objects
from tokenloc.server.annotations import annotation_file, image_name, usable_formats
from tokenloc.server.predict import KEEP_SECONDS, MAX_CLASSES, PREVIEW_SIDE, PredictionService, Result


def get_service(request: Request) -> PredictionService:
    """Return the service of the application, as a FastAPI dependency."""
    service: PredictionService = request.app.state.service
    return service


Service = Annotated[PredictionService, Depends(get_service)]
Threshold = Annotated[
    float | None, Query(ge=0, le=1, description="Threshold on the map, in [0, 1]. Default: the model's.")
]
AllOrLargest = Annotated[
    Objects, Query(description="One box around the largest component above the threshold, or one around each.")
]


class ErrorResponse(BaseModel):
    """An error."""

    error: str


class Prediction(BaseModel):
    """One class in the image, as in ``localizations.json``."""

    file: str
    width: int = Field(description="Width of the upright image, in pixels.")
    height: int
    label: str
    class_index: int
    score: float = Field(description="Softmax probability of the class.")
    boxes: list[list[float]] = Field(
        description="x0, y0, x1, y1 in pixels of the upright image, half-open, the largest component's box first."
    )
    confidence: list[float] = Field(description="Confidence of each box, in [0, 1].")
    threshold: float
    protocol: str
    map: str | None = Field(None, description="Grey PNG of the map, Base64; 255 is 1. It covers the image.")


class PredictionResponse(BaseModel):
    """Predictions for one image, the most probable class first."""

    model: str
    result: str | None = Field(None, description="Token of the result if it is kept; see /results.")
    predictions: list[Prediction]


class ModelInfo(BaseModel):
    """One model of the server."""

    name: str
    method: str
    backbone: str
    classes: list[str]
    threshold: float = Field(description="The default threshold: calibrated, or the method's.")


class Health(BaseModel):
    """State of the server."""

    status: str = "ok"
    models: list[str]


router = APIRouter(responses={"4XX": {"model": ErrorResponse}, 422: {"model": ErrorResponse}})


@router.get("/health")
async def health(service: Service) -> Health:
    """Report that the server is up."""
    return Health(models=list(service.models))


@router.get("/models")
async def models(service: Service) -> list[ModelInfo]:
    """List the models of the server; the first is the default."""
    return [
        ModelInfo(
            name=name,
            method=localizer.metadata.model.method,
            backbone=localizer.metadata.model.backbone,
            classes=[valid_text(label) for label in localizer.metadata.classes],
            threshold=localizer.threshold,
        )
        for name, localizer in service.models.items()
    ]


@router.post("/predict", responses={503: {"model": ErrorResponse, "description": "Busy; see Retry-After."}})
async def predict(
    service: Service,
    image: Annotated[UploadFile, File(description="AVIF, BMP, GIF, JPEG, PNG, PPM, TIFF or WebP.")],
    model: Annotated[str | None, Form(description="A name from /models. Default: the first.")] = None,
    top_k: Annotated[int, Form(ge=1, le=MAX_CLASSES, description="Number of classes.")] = 1,
    threshold: Annotated[float | None, Form(ge=0, le=1, description="See /results. Default: the model's.")] = None,
    objects: Annotated[Objects, Form(description="See /results.")] = "largest",
    refine: Annotated[
        str | None,
        Form(description="Refinement steps, separated by commas, or `none`. Default: the method's own steps."),
    ] = None,
    maps: Annotated[bool, Form(description=f"Return maps, at most {PREVIEW_SIDE} pixels on the longer side.")] = False,
    keep: Annotated[bool, Form(description=f"Keep the result in memory for {KEEP_SECONDS:g} s.")] = False,
) -> PredictionResponse:
    """Predict the classes and boxes of one image."""
    upload = await image.read(service.limits.max_bytes + 1)
    if len(upload) > service.limits.max_bytes:
        raise HTTPException(413, f"the image is too large; the limit is {service.limits.max_bytes / 1e6:g} MB")
    result = await service.predict(upload, image_name(image.filename), model, top_k, refine)
    token = service.results.add(result) if keep else None
    return await run_in_threadpool(_response, result, threshold, objects, token, maps)


def _response(
    result: Result, threshold: float | None, objects: Objects, token: str | None, maps: bool = False
) -> PredictionResponse:
    predictions = [
        Prediction(
            **one.to_dict() | {"label": valid_text(one.label)},
            map=base64.b64encode(result.map_png(index)).decode("ascii") if maps else None,
        )
        for index, one in enumerate(result.at(threshold, objects))
    ]
    return PredictionResponse(model=result.model, result=token, predictions=predictions)


@router.get("/results/{token}")
def result_at_threshold(
    service: Service, token: str, threshold: Threshold = None, objects: AllOrLargest = "largest"
) -> PredictionResponse:
    """Return a kept result at another threshold, without running the model again."""
    return _response(service.results[token], threshold, objects, token)


@router.delete("/results/{token}", status_code=204)
async def forget_result(service: Service, token: str) -> None:
    """Remove a kept result."""
    service.results.remove(token)


@router.get("/results/{token}/image", response_class=Response)
def result_image(service: Service, token: str) -> Response:
    """Return the upright image of a kept result as a JPEG."""
    return Response(service.results[token].preview, media_type="image/jpeg")


@router.get("/results/{token}/heatmaps/{index}", response_class=Response)
def result_heatmap(service: Service, token: str, index: int) -> Response:
    """Return the heatmap of a class of a kept result, over the image, as a JPEG."""
    result = service.results[token]
    if not 0 <= index < len(result.predictions):
        raise HTTPException(404, f"the result has {len(result.predictions)} classes; got index {index}")
    return Response(result.heatmap_jpeg(index), media_type="image/jpeg")


@router.get("/results/{token}/annotations/{form}", response_class=Response)
def result_annotation(
    service: Service, token: str, form: str, threshold: Threshold = None, objects: AllOrLargest = "largest"
) -> Response:
    """Download a kept result in an annotation format: one file, or a ZIP archive."""
    result = service.results[token]
    if form not in usable_formats():
        raise HTTPException(422, str(unknown_name("format", form, usable_formats())))
    metadata = result.localizer.metadata
    name, content = annotation_file(
        result.at(threshold, objects), metadata.classes, result.upload, form, f"tokenloc {metadata.model.method}"
    )
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type="application/octet-stream", headers=headers)
