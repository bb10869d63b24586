"""The ML backend of Label Studio: predictions, the images that it reads, and hostile requests."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.server.conftest import LIMITS
from tests.server.label_studio.stand_in import LOCAL, PERSONAL, UPLOAD, Client, LabelStudio
from tokenloc.export.label_studio import task_prediction
from tokenloc.inference import Localizer
from tokenloc.server import limits
from tokenloc.server.app import create_app
from tokenloc.server.task_images import TaskImages


@pytest.mark.parametrize("token", ["legacy", PERSONAL])
def test_tasks_get_the_boxes_of_a_localizer(
    localizer: Localizer, tmp_path: Path, root: Path, label_studio: str, photo: Path, token: str
) -> None:
    backend = Client(localizer, tmp_path / "corrections", TaskImages(f"{label_studio}/", token, root, 300_000))
    assert backend.http.get("/label-studio/health").json() == {"status": "UP"}
    every = "".join(f'<Label value="{name}"/>' for name in localizer.classes)
    first = f'<Label value="{localizer.classes[0]}"/>'
    configuration = backend.recorded["setup"]["schema"].replace(first, every)
    version = "tiny, threshold 0.4"
    assert backend.post("setup", {**backend.recorded["setup"], "schema": configuration}).json() == {
        "model_version": version
    }
    answer = backend.post("predict", {**backend.recorded["predict"], "label_config": configuration}).json()
    expected = task_prediction([localizer(photo).record()], localizer.classes, version)
    assert answer == {"results": [expected, expected], "model_version": version}
    assert expected["score"] == round(float(localizer(photo).confidence[0]), 6)
    (region,) = expected["result"]
    assert (region["original_width"], region["from_name"], region["to_name"]) == (90, "label", "image")
    assert LabelStudio.asked == [UPLOAD]  # the other one is a local file
    backend.close()


def test_a_class_that_the_project_lacks_gets_no_box(backend: Client, localizer: Localizer, photo: Path) -> None:
    label = localizer(photo).label
    other = next(name for name in localizer.classes if name != label)
    request = backend.recorded["predict"]
    one = '<View><Image name="i" value="$image"/><RectangleLabels name="l" toName="i"><Label value="{}"/>'
    for name, boxes in ((label, 1), (other, 0)):
        request["label_config"] = one.format(name) + "</RectangleLabels></View>"
        results = backend.post("predict", request).json()["results"]
        assert [len(each["result"]) for each in results] == [boxes, boxes]
        assert {region["from_name"] for each in results for region in each["result"]} <= {"l"}


REFUSED = [
    "/data/local-files/?d=../photo.png",
    "/data/local-files/?d=photos/../../photo.png",
    "/data/local-files/?d=/etc/passwd",
    "/data/local-files/?d=%2Fetc%2Fpasswd",
    "/data/local-files/?d=out.png",
    "/data/local-files/?d=pipe.png",
    "/data/local-files/?d=photos",
    "/data/local-files/?d=",
    "/data/local-files/?d=a%00b",
    "/data/local-files/?d=\ud800",
    "/data/../api/projects",
    "/data/%2e%2e/api/projects",
    "/data/%252e%252e/api/projects",
    "/data/..\\api",
    "/api/projects",
    "/data/nothing.jpg",
    "/data/\ud800.jpg",
    "/data/a\r\nX-Injected: 1",
    "file:///etc/passwd",
    "ftp://localhost/data/x",
    "s3://bucket/a.jpg",
    "gopher://[::1]/data/x",
    "http://[",
    "",
    "data:image/png;base64,%%%",
    "data:image/png,x",
    "data:",
]


@pytest.mark.parametrize("address", REFUSED)
def test_other_images_are_refused(backend: Client, address: str) -> None:
    response = backend.predict(address)
    assert response.status_code == 400
    assert response.json()["error"].startswith("1 of 1 image cannot be read; the first: ")
    assert str(backend.service.images._folder) not in response.text
    assert backend.predict(address, LOCAL).json()["results"][0] == []
    assert not [path for path in LabelStudio.asked if not path.startswith("/data/")]


def test_other_hosts_are_never_contacted(backend: Client, label_studio: str, photo: Path) -> None:
    """A second server, which would answer, counts the requests."""
    port = int(label_studio.rpartition(":")[2])
    for address in (
        f"http://localhost:{port}{UPLOAD}",
        f"//localhost:{port}{UPLOAD}",
        f"https://127.0.0.1:{port}{UPLOAD}",
    ):
        assert "images are read from" in backend.predict(address).json()["error"]
    assert LabelStudio.asked == []
    assert "Label Studio answers 302" in backend.predict("/data/moved.jpg").json()["error"]
    assert backend.predict(f"{label_studio}{UPLOAD}").status_code == 200
    assert LabelStudio.asked == ["/data/moved.jpg", UPLOAD]


def test_links_that_stay_inside_and_inline_images_are_read(backend: Client, photo: Path) -> None:
    inline = f"data:image/png;base64,{base64.b64encode(photo.read_bytes()).decode()}"
    first, *others = backend.predict(LOCAL, "/data/local-files/?d=inside.png", inline).json()["results"]
    assert others == [first, first]


def test_a_missing_token_is_named(localizer: Localizer, tmp_path: Path, label_studio: str) -> None:
    for token in (None, "other", "no.such.token"):
        backend = Client(localizer, tmp_path / "corrections", TaskImages(label_studio, token, None, 300_000))
        assert "Label Studio answers 401" in (error := backend.predict(UPLOAD).json()["error"])
        assert "set LABEL_STUDIO_API_KEY to an access token" in error
        backend.close()


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://localhost", "http://", "http://user:x@localhost", "http://a/?b", ""]
)
def test_invalid_addresses_of_label_studio_are_reported(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--label_studio must be an address such as http://localhost:8080"):
        TaskImages(url, None, None, 1)
    with pytest.raises(ValueError, match="--images must be a folder"):
        TaskImages("http://localhost", None, tmp_path / "none", 1)


@pytest.mark.parametrize("route", ["setup", "predict", "webhook"])
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"NaN", b"\xff", b"{}", b'"x"', b"[" * 100_000, b'{"action": 1, "tasks": {}}']
)
def test_malformed_bodies_are_reported(backend: Client, route: str, body: bytes) -> None:
    response = backend.post(route, body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("not a request of Label Studio: ")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from leaves(item, (*path, key))


def test_mutated_requests_are_answered(backend: Client) -> None:
    """Every part of the recorded requests is replaced by other values in turn."""
    odd = [None, True, -1, 1e308, 10**400, "", "\ud800<&", "9" * 3000, [], [[]], {}, {"id": "x"}, [None]]
    chosen = random.Random(0)
    for name, content in backend.recorded.items():
        for path in list(leaves(content))[1:]:
            changed = deepcopy(content)
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = chosen.choice(odd)
            response = backend.post(name if name in ("setup", "predict") else "webhook", changed)
            assert response.status_code in (200, 400), (name, path, response.text)
            assert response.status_code == 200 or response.json()["error"]


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ("<View>", "no element found"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', "document type declaration"),
        ('<?xml version="1.0" encoding="nonsense"?><View/>', ""),
        ("<View/>", "has no RectangleLabels of an Image"),
        ('<View><Image name="i" value="$x"/><RectangleLabels name="l" toName="j"/></View>', "has no RectangleLabels"),
        ('<View><Image name="i" value="$x"/><RectangleLabels name="l" toName="i"><Label value="x"/>'
         "</RectangleLabels></View>", r"no label of the project (x) is a class of the model ("),
    ],
)  # fmt: skip
def test_unsuitable_configurations_are_reported(backend: Client, configuration: str, message: str) -> None:
    response = backend.post("setup", {**backend.recorded["setup"], "schema": configuration})
    assert response.status_code == 400
    assert message in response.json()["error"]


def test_sizes_and_media_types_are_limited(backend: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    json_type = {"Content-Type": "application/json"}
    assert backend.http.post("/predict", content=b"{}", headers=json_type).status_code == 415
    assert backend.http.post("/label-studio/predict", files={"image": b"x"}).status_code == 415
    assert backend.http.post("/label-studio/setup", content=b"{}", headers={"Origin": "http://evil"}).status_code == 403
    monkeypatch.setattr(limits, "JSON_BYTES", 1000)
    response = backend.post("predict", b" " * 1001)
    assert (response.status_code, "select fewer tasks" in response.json()["error"]) == (413, True)
    without = TestClient(create_app({"tiny": backend.service.corrections.localizer}, LIMITS), "http://localhost")
    assert without.post("/label-studio/setup", content=b"{}", headers=json_type).status_code == 404
