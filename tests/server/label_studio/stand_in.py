"""A stand-in for Label Studio, and a client that sends to a backend what Label Studio 1.23 was recorded to send."""

from __future__ import annotations

import json
from copy import deepcopy
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from fastapi.testclient import TestClient

from tests.server.conftest import LIMITS, LOCAL_HOSTS
from tokenloc.inference import Localizer
from tokenloc.server.app import create_app
from tokenloc.server.label_studio import open_backend
from tokenloc.server.task_images import TaskImages

RECORDED = Path(__file__).with_name("requests.json").read_text(encoding="utf-8")
LOCAL = "/data/local-files/?d=photos/ILSVRC2012_val_00002294.JPEG"
UPLOAD = "/data/upload/1/6ad2263b-a_b_%C3%A9.jpg"
PERSONAL = "a.personal.token"


class LabelStudio(BaseHTTPRequestHandler):
    """Serves an upload to those with a token."""

    photo: bytes
    asked: list[str]  # of all requests

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.headers["Authorization"] not in ("Token legacy", "Bearer access"):
            self.answer(401, b"")
        elif self.path == "/data/moved.jpg":
            self.answer(302, b"", Location=f"http://localhost:{self.server.server_address[1]}{UPLOAD}")
        else:
            self.answer(200 if self.path == UPLOAD else 404, self.photo)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fits = (self.path, body) == ("/api/token/refresh/", {"refresh": PERSONAL})
        self.answer(200 if fits else 401, b'{"access": "access"}')

    def answer(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


class Client:
    """Sends what Label Studio sends, with the model's classes for its labels."""

    def __init__(self, localizer: Localizer, folder: Path, images: TaskImages) -> None:
        self.context = open_backend({"tiny": localizer}, images, folder, LIMITS)
        self.service = self.context.__enter__()
        app = create_app({"tiny": localizer}, LIMITS, LOCAL_HOSTS, label_studio=self.service)
        self.http = TestClient(app, "http://localhost", raise_server_exceptions=False)
        text = RECORDED.replace("cat", localizer.classes[0]).replace("dog", localizer.classes[1])
        self.recorded: dict[str, Any] = json.loads(text)

    def post(self, route: str, content: Any) -> httpx.Response:
        body = content if isinstance(content, bytes) else json.dumps(content)
        return self.http.post(f"/label-studio/{route}", content=body, headers={"Content-Type": "application/json"})

    def predict(self, *addresses: str) -> httpx.Response:
        request = deepcopy(self.recorded["predict"])
        task = request["tasks"][0]
        request["tasks"] = [{**task, "id": rank, "data": {"image": one}} for rank, one in enumerate(addresses)]
        return self.post("predict", request)

    def submit(self, task: int, label: str, boxes: Any, address: str = LOCAL, **changes: Any) -> httpx.Response:
        event = deepcopy(self.recorded["created"])
        (region,) = event["annotation"]["result"]
        x0, y0, x1, y1 = np.transpose(boxes).astype(float)
        sides = zip(x0, y0, x1 - x0, y1 - y0, strict=True)
        values = [dict(zip(("x", "y", "width", "height"), each, strict=True)) for each in sides]
        event["annotation"]["result"] = [
            {**region, "value": {**one, "rotation": 0, "rectanglelabels": [label]}} for one in values
        ]
        event["annotation"].update({"id": 100 + task, **changes})
        event["task"].update({"id": task, "data": {"image": address}})
        return self.post("webhook", event)

    def close(self) -> None:
        self.http.close()
        self.context.__exit__(None, None, None)
