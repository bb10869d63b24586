"""The REST API returns what a Localizer returns, and reports bad input as JSON."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import tokenloc
from tests.server.conftest import MARKUP
from tests.server.hostile import BROKEN, encoded
from tokenloc.inference import Localization, Localizer, PredictionOptions
from tokenloc.server import predict
from tokenloc.server.annotations import usable_formats
from tokenloc.server.api import SESSION


def post(client: TestClient, content: bytes | Path, name: str = "a.png", **fields: Any) -> httpx.Response:
    content = content.read_bytes() if isinstance(content, Path) else content
    return client.post("/predict", files={"image": (name, content)}, data=fields)


def with_options(localizer: Localizer, *, refine: Any = None, **changes: Any) -> Localizer:
    settings = {"threshold": localizer.threshold, "options": PredictionOptions(refine=refine), **changes}
    return Localizer(localizer.model, localizer.metadata, **settings)


def assert_equal(answer: dict[str, Any], expected: list[Localization], name: str) -> None:
    records = [{**one.to_dict(), "file": name} for one in expected]
    assert [{**one, "map": None} for one in answer["predictions"]] == [{**record, "map": None} for record in records]


def decoded(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {}),
        ({"threshold": 0.8, "objects": "all"}, {"threshold": 0.8, "objects": "all"}),
        ({"refine": "none"}, {"refine": ()}),
        ({"refine": "affinity,reprediction"}, {"refine": ("affinity", "reprediction")}),
    ],
)
def test_predict_equals_localizer(
    client: TestClient, localizer: Localizer, photo: Path, fields: dict[str, Any], settings: dict[str, Any]
) -> None:
    answer = post(client, photo, photo.name, top_k=2, **fields).json()
    assert_equal(answer, with_options(localizer, **settings).top(photo, 2), photo.name)
    assert answer["result"] is answer["image"] is answer["predictions"][0]["map"] is None


def test_images_are_returned_on_request(client: TestClient, localizer: Localizer, photo: Path) -> None:
    answer = post(client, photo, images=True).json()
    image, map_ = decoded(answer["image"]), decoded(answer["predictions"][0]["map"])
    assert (image.format, image.size, map_.format, map_.mode) == ("JPEG", (90, 60), "PNG", "L")
    np.testing.assert_allclose(np.asarray(map_) / 255, localizer(photo).map, atol=0.5 / 255 + 1e-6)
    wide = Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 20, 3), np.uint8)).resize((2000, 500))
    answer = post(client, encoded(wide, "JPEG"), images=True).json()
    assert decoded(answer["image"]).size == (960, 240)
    assert np.max(answer["predictions"][0]["boxes"]) > 960  # in pixels of the uploaded image


def test_kept_results_are_redrawn_without_the_network(
    client: TestClient, localizer: Localizer, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = post(client, photo, photo.name, top_k=2, keep=True).json()["result"]
    assert len(token) >= 32
    expected = with_options(localizer, threshold=0.7, objects="all").top(photo, 2)
    monkeypatch.setattr(Localizer, "top", None)
    answer = client.get(f"/results/{token}", params={"threshold": 0.7, "objects": "all"}).json()
    assert_equal(answer, expected, photo.name)
    unknown = client.get(f"/results/{token}/annotations/coca")
    assert unknown.status_code == 422
    assert "unknown format 'coca'; did you mean 'coco'" in unknown.json()["error"]
    for path in ("/results/x", f"/results/{token[:-1]}", "/results/x/annotations/coco"):
        assert client.get(path).status_code == 404
        assert "send the image again" in client.get(path).json()["error"]


def test_a_result_belongs_to_the_session_that_sent_the_image(client: TestClient, photo: Path) -> None:
    response = post(client, photo, keep=True)
    token, session = response.json()["result"], client.cookies[SESSION]
    assert {"HttpOnly", "SameSite=strict"} <= set(response.headers["set-cookie"].split("; "))
    assert session not in response.text
    assert len(session) >= 32
    second = post(client, photo, keep=True).json()["result"]
    assert [client.get(f"/results/{one}").status_code for one in (token, second)] == [200, 200]
    for other in (None, "", "x" * 32, token):
        client.cookies.clear()
        headers = {} if other is None else {"Cookie": f"{SESSION}={other}"}
        for path in (f"/results/{token}", f"/results/{token}/annotations/coco"):
            answer = client.get(path, headers=headers)
            assert answer.status_code == 404
            assert token not in answer.text


def test_no_answer_contains_a_local_path(client: TestClient, run: Path, photo: Path) -> None:
    token = post(client, photo, keep=True).json()["result"]
    archives = [client.get(f"/results/{token}/annotations/{form}") for form in usable_formats()]
    answers = [client.get(path) for path in ("/", "/models", "/health", "/openapi.json", f"/results/{token}")]
    errors = [post(client, b"x"), post(client, photo, refine="x"), post(client, photo, model="x"), client.get("/x")]
    for response in answers + archives + errors:
        content = response.content
        if content.startswith(b"PK"):
            with ZipFile(io.BytesIO(content)) as archive:
                content = b"".join(name.encode() + archive.read(name) for name in archive.namelist())
        for folder in (run.parent, photo.parent, Path(tempfile.gettempdir()), Path(tokenloc.__file__).parent):
            assert str(folder).encode() not in content


def test_kept_results_expire(client: TestClient, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "KEEP_SECONDS", 0.2)
    token = post(client, photo, keep=True).json()["result"]
    while client.get(f"/results/{token}").status_code == 200:
        pass
    monkeypatch.undo()
    first = post(client, photo, keep=True).json()["result"]
    monkeypatch.setattr(predict, "MAX_KEPT_BYTES", 1)
    second = post(client, photo, keep=True).json()["result"]
    assert [client.get(f"/results/{token}").status_code for token in (first, second)] == [404, 200]


def test_models_are_listed(client: TestClient, localizer: Localizer, photo: Path) -> None:
    tiny, marked = client.get("/models").json()
    assert (tiny["name"], tiny["method"], tiny["threshold"]) == ("tiny", "tscam", 0.4)
    assert tiny["classes"] == list(localizer.metadata.classes)
    assert client.get("/health").json() == {"status": "ok", "models": ["tiny", MARKUP]}
    (one,) = post(client, photo, model=MARKUP).json()["predictions"]
    assert one["threshold"] == marked["threshold"] == 0.7
    assert one["label"].startswith(MARKUP)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "x"}, "unknown model 'x'. Valid: <img src=x"),
        ({"refine": "afinity"}, "did you mean 'affinity'"),
        ({"refine": "reprediction: {max_steps: 1000000}"}, "refine takes the names of steps, comma-separated; got"),
        ({"objects": "x"}, "objects: Input should be 'largest' or 'all'; got 'x'"),
        ({"top_k": 0}, "top_k: Input should be greater than or equal to 1; got '0'"),
        ({"top_k": 11}, "top_k: Input should be less than or equal to 10; got '11'"),
        ({"threshold": 7}, "threshold: Input should be less than or equal to 1; got '7'"),
        ({"threshold": "nan"}, "threshold: "),
        ({"images": "x" * 10_000}, "images: "),
    ],
)
def test_bad_parameters_are_reported(client: TestClient, photo: Path, fields: dict[str, Any], message: str) -> None:
    response = post(client, photo, **fields)
    assert response.status_code == 422
    assert message in response.json()["error"]
    assert len(response.text) < 300


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_reported(client: TestClient, name: str) -> None:
    content, message = BROKEN[name]
    response = post(client, content, name)
    assert response.status_code == 422
    assert response.json()["error"].startswith(message)


def test_unusual_images_are_read(client: TestClient, localizer: Localizer) -> None:
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
    frames = [Image.fromarray(rng.integers(0, 256, (30, 40), np.uint8)) for _ in range(3)]
    unusual = {
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "deep.png": encoded(Image.fromarray(rng.integers(0, 65536, (30, 40), np.uint16)), "PNG"),
        "print.jpg": encoded(color.convert("CMYK"), "JPEG"),
        "transparent.webp": encoded(color.convert("RGBA"), "WEBP"),
        "one.tiff": encoded(color, "TIFF"),
    }
    for name, content in unusual.items():
        assert_equal(post(client, content, name).json(), [localizer(content)], name)


def test_unexpected_errors_are_hidden(client: TestClient, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(Localizer, "top", fail)
    response = post(client, photo)
    assert response.status_code == 500
    assert response.json() == {"error": "internal error (RuntimeError); see the server's log"}
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_api_is_described_without_remote_scripts(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert {"/predict", "/models", "/health", "/results/{token}"} <= schema["paths"].keys()
    form = schema["components"]["schemas"]["Body_predict_predict_post"]["properties"]
    assert form.keys() == {"image", "model", "top_k", "threshold", "objects", "refine", "images", "keep"}
    assert [client.get(path).status_code for path in ("/docs", "/redoc")] == [404, 404]
