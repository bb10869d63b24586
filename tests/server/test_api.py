"""The REST API returns what a Localizer returns, and reports bad input as JSON."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.server.conftest import LIMITS, MARKUP
from tests.server.hostile import BROKEN, encoded
from tokenloc.inference import Localization, Localizer, PredictionOptions
from tokenloc.server import predict
from tokenloc.server.app import create_app


def post(client: TestClient, content: bytes | Path, name: str = "a.png", **fields: Any) -> httpx.Response:
    content = content.read_bytes() if isinstance(content, Path) else content
    return client.post("/predict", files={"image": (name, content)}, data=fields)


def with_options(localizer: Localizer, *, objects: Any = "largest", refine: Any = None, **changes: Any) -> Localizer:
    options = PredictionOptions(refine=refine)
    settings = {"threshold": localizer.threshold, **changes}
    return Localizer(localizer.model, localizer.metadata, objects=objects, viewing=options, **settings)


def assert_equal(answer: dict[str, Any], expected: list[Localization], name: str) -> None:
    assert [one["label"] for one in answer["predictions"]] == [one.label for one in expected]
    for one, other in zip(answer["predictions"], expected, strict=True):
        assert {key: value for key, value in one.items() if key not in ("file", "map")} == {
            key: value for key, value in other.to_dict().items() if key != "file"
        }
        assert one["file"] == name


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
    response = post(client, photo, photo.name, top_k=2, **fields)
    assert response.status_code == 200, response.text
    assert_equal(response.json(), with_options(localizer, **settings).top(photo, 2), photo.name)
    assert response.json()["result"] is None
    assert response.json()["predictions"][0]["map"] is None


def test_maps_are_returned_as_png(client: TestClient, localizer: Localizer, photo: Path) -> None:
    (one,) = post(client, photo, maps=True).json()["predictions"]
    image = Image.open(io.BytesIO(base64.b64decode(one["map"])))
    assert (image.format, image.mode, image.size) == ("PNG", "L", (90, 60))
    np.testing.assert_allclose(np.asarray(image) / 255, localizer(photo).map_on_image(), atol=0.5 / 255 + 1e-6)


def test_large_images_have_small_maps_and_boxes_in_original_pixels(client: TestClient) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (5, 20, 3), np.uint8)).resize((2000, 500))
    (one,) = post(client, encoded(image, "JPEG"), maps=True).json()["predictions"]
    assert (one["width"], one["height"]) == (2000, 500)
    assert np.max(one["boxes"]) > predict.PREVIEW_SIDE
    assert Image.open(io.BytesIO(base64.b64decode(one["map"]))).size == (960, 240)


def test_kept_results_are_redrawn_without_the_network(
    client: TestClient, localizer: Localizer, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = post(client, photo, photo.name, top_k=2, keep=True).json()["result"]
    assert len(token) >= 32
    url = f"/results/{token}"
    expected = with_options(localizer, threshold=0.7, objects="all").top(photo, 2)
    monkeypatch.setattr(Localizer, "top", None)
    assert_equal(client.get(url, params={"threshold": 0.7, "objects": "all"}).json(), expected, photo.name)
    for path in ("image", "heatmaps/0", "heatmaps/1"):
        image = Image.open(io.BytesIO(client.get(f"{url}/{path}").content))
        assert (image.format, image.size) == ("JPEG", (90, 60))
    assert client.get(f"{url}/heatmaps/2").status_code == 404
    assert client.get(f"{url}/heatmaps/-1").status_code == 404
    assert "unknown format 'coca'; did you mean 'coco'" in client.get(f"{url}/annotations/coca").json()["error"]
    assert client.delete(url).status_code == 204
    assert client.get(url).status_code == 404
    assert "send the image again" in client.get(url).json()["error"]


def test_results_expire(client: TestClient, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "KEEP_SECONDS", 0.2)
    token = post(client, photo, keep=True).json()["result"]
    while client.get(f"/results/{token}").status_code == 200:
        pass
    assert client.get(f"/results/{token}").status_code == 404


def test_the_oldest_results_are_removed_first(client: TestClient, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = post(client, photo, keep=True).json()["result"]
    monkeypatch.setattr(predict, "MAX_KEPT_BYTES", 1)
    second = post(client, photo, keep=True).json()["result"]
    assert client.get(f"/results/{first}").status_code == 404
    assert client.get(f"/results/{second}").status_code == 200


def test_models_are_listed(client: TestClient, localizer: Localizer) -> None:
    tiny, marked = client.get("/models").json()
    assert (tiny["name"], tiny["method"], tiny["threshold"]) == ("tiny", "tscam", 0.4)
    assert tiny["classes"] == list(localizer.metadata.classes)
    assert marked["threshold"] == 0.7
    assert client.get("/health").json() == {"status": "ok", "models": ["tiny", "marked"]}


def test_another_model_has_its_own_threshold_and_labels(client: TestClient, photo: Path) -> None:
    (one,) = post(client, photo, model="marked").json()["predictions"]
    assert one["threshold"] == 0.7
    assert one["label"].startswith(MARKUP)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "x"}, "unknown model 'x'. Valid: marked, tiny"),
        ({"refine": "afinity"}, "did you mean 'affinity'"),
        ({"objects": "x"}, "objects: Input should be 'largest' or 'all'; got 'x'"),
        ({"top_k": 0}, "top_k: Input should be greater than or equal to 1; got '0'"),
        ({"top_k": 11}, "top_k: Input should be less than or equal to 10; got '11'"),
        ({"threshold": 7}, "threshold: Input should be less than or equal to 1; got '7'"),
        ({"threshold": "nan"}, "threshold: "),
        ({"threshold": "\ud800".encode("utf-8", "replace")}, "threshold: "),
        ({"maps": "x" * 10_000}, "maps: "),
    ],
)
def test_bad_parameters_are_reported(client: TestClient, photo: Path, fields: dict[str, Any], message: str) -> None:
    response = post(client, photo, **fields)
    assert response.status_code == 422
    assert message in response.json()["error"]
    assert len(response.text) < 300


def test_bad_requests_are_reported(client: TestClient) -> None:
    assert client.post("/predict").json() == {"error": "image: Field required; got None"}
    assert client.post("/predict", data={"image": "x"}).status_code == 422
    broken = client.post("/predict", content=b"--x\r\n", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert broken.status_code in (400, 422)
    assert broken.json()["error"]
    assert client.get("/predict").json() == {"error": "Method Not Allowed"}


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
    deep = Image.fromarray(rng.integers(0, 65536, (30, 40), np.uint16))
    unusual = {
        "animated.gif": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "deep.png": encoded(deep, "PNG"),
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
    assert (response.status_code, response.json()) == (
        500,
        {"error": "internal error (RuntimeError); see the server's log"},
    )
    assert response.headers["x-content-type-options"] == "nosniff"


def test_openapi_describes_the_routes_and_no_documentation_page_is_served(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert {"/predict", "/models", "/health", "/results/{token}"} <= schema["paths"].keys()
    form = schema["components"]["schemas"]["Body_predict_predict_post"]["properties"]
    assert form.keys() == {"image", "model", "top_k", "threshold", "objects", "refine", "maps", "keep"}
    for path in ("/docs", "/redoc"):
        assert client.get(path).status_code == 404


def test_an_application_needs_a_model() -> None:
    with pytest.raises(ValueError, match="at least one model"):
        create_app({}, LIMITS)
