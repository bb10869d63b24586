"""The auto-annotation function in CVAT's own driver, where cvat-sdk is installed; a small server stands for CVAT."""

from __future__ import annotations

import importlib.util
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from tokenloc.export import cvat
from tokenloc.inference import Localizer

SIZES = ((90, 60), (40, 80))
IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))
    for seed, size in enumerate(SIZES)
]


def chunk() -> bytes:
    archive = io.BytesIO()
    with ZipFile(archive, "w") as files:
        for index, image in enumerate(IMAGES):
            content = io.BytesIO()
            image.save(content, "PNG")
            files.writestr(f"{index:06d}.png", content.getvalue())
    return archive.getvalue()


class Handler(BaseHTTPRequestHandler):
    """What annotating task 1 asks CVAT for."""

    labels: tuple[str, ...]
    uploaded: dict[str, Any]

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path.rstrip("/"), parse_qs(urlsplit(self.path).query)
        if path == "/api/tasks/1/data" and query["type"] == ["chunk"]:
            self.answer(chunk(), "application/zip")
            return
        count = len(IMAGES)
        task = {
            "id": 1, "size": count, "data_chunk_size": count, "data_original_chunk_type": "imageset",
            "updated_date": "2026-01-01T00:00:00Z", "mode": "annotation", "name": "task", "subset": "",
            "organization": None,
            "jobs": {"url": "", "count": 1, "completed": 0, "validation": 0}, "labels": {"url": ""},
        }  # fmt: skip
        frames = [
            {"name": f"{index}.png", "width": width, "height": height, "related_files": 0}
            for index, (width, height) in enumerate(SIZES)
        ]
        meta = {"image_quality": 100, "size": count, "start_frame": 0, "stop_frame": count - 1, "frames": frames}
        labels = [
            {"id": 100 + index, "name": name, "type": "rectangle", "attributes": [], "sublabels": []}
            for index, name in enumerate(self.labels)
        ]
        found = {
            "/api/tasks/1": task,
            "/api/tasks/1/data/meta": {**meta, "deleted_frames": [], "chunks_updated_date": "2026-01-01T00:00:00Z"},
            "/api/labels": {"count": len(labels), "next": None, "previous": None, "results": labels},
        }
        self.answer(json.dumps(found[path]).encode())

    def do_PATCH(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).uploaded = content
        self.answer(json.dumps({"version": 1, "tags": [], "shapes": [], "tracks": []}).encode())

    def answer(self, content: bytes, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def annotate(tmp_path: Path) -> Iterator[Any]:
    """A function that annotates the task with labels of these names, and returns the uploaded shapes."""
    sdk = pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed: pip install 'tokenloc[cvat]'")
    driver = pytest.importorskip("cvat_sdk.auto_annotation")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def run(function: cvat.DetectionFunction, labels: tuple[str, ...], **options: Any) -> list[dict[str, Any]]:
            Handler.labels = labels
            config = sdk.core.client.Config(cache_dir=tmp_path)
            address = f"http://127.0.0.1:{server.server_port}"
            with sdk.Client(address, config=config, check_server_version=False) as client:
                driver.annotate_task(client, 1, function, **options)
            return list(Handler.uploaded["shapes"])

        yield run
        server.shutdown()


def test_boxes_and_confidences_are_those_of_a_localizer(annotate: Any, run: Path) -> None:
    """The labels of the task come in another order, and the file is loaded as ``--function-file`` does."""
    spec = importlib.util.spec_from_file_location("__cvat_function__", cvat.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    function = module.create(checkpoint=checkpoint, device="cpu", threshold=0.6, objects="all")
    labels = tuple(reversed(function.localizer.classes))
    results = Localizer.from_checkpoint(checkpoint, "cpu", 0.6, "all")(IMAGES)
    expected = [
        (frame, labels[::-1][one.class_index], box, confidence)
        for frame, one in enumerate(results)
        for box, confidence in zip(one.boxes.round(4).tolist(), one.confidence.tolist(), strict=True)
    ]

    shapes = annotate(function, labels)
    assert [(one["type"], one["source"]) for one in shapes] == [("rectangle", "auto")] * len(expected)
    found = [(one["frame"], labels[one["label_id"] - 100], one["points"], one["score"]) for one in shapes]
    assert found == expected
    assert len({frame for frame, *_ in found}) == len(IMAGES)

    least = float(np.median([confidence for *_, confidence in expected]))
    shapes = annotate(function, labels, conf_threshold=least)
    assert [one["score"] for one in shapes] == [one[-1] for one in expected if one[-1] >= least]


def test_labels_that_the_task_lacks_are_reported_or_left_out(annotate: Any, run: Path) -> None:
    function = cvat.create(str(run / "checkpoints" / "best.ckpt"), device="cpu")
    with pytest.raises(Exception, match="is not in dataset"):
        annotate(function, ("other",))
    assert annotate(function, ("other",), allow_unmatched_labels=True) == []
