"""A real Label Studio with tokenloc as its ML backend: predictions, corrections, and the predictions after them.

    python -m venv ls && ls/bin/pip install label-studio
    python experiments/label_studio.py CHECKPOINT --label_studio ls/bin/label-studio [--tasks 100] [--corrections 49]

The checkpoint's dataset must have boxes. Starts Label Studio (SQLite, in OUT) and `tokenloc serve`, creates a project
with images of the dataset and connects the backend, all by Label Studio's API. The first correction is submitted in
Chromium, the others (the true boxes of other images) by the API. Prints GT-known of the predictions that Label Studio
holds for the first `--tasks` images before and after, and writes screenshots to OUT.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import httpx
import numpy as np
from playwright.sync_api import Page, sync_playwright

from tokenloc._plain import read_json
from tokenloc.boxes import box_iou
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.data import ImageDataset
from tokenloc.data.annotations import region_box
from tokenloc.models.checkpoint import load_checkpoint
from tokenloc.training.config import DataSource

USER, PASSWORD = "annotator@example.com", "experiment-1"
TAGS = {"from_name": "label", "to_name": "image", "type": "rectanglelabels"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running(command: Sequence[str], log: Path, url: str, **environment: str) -> Iterator[None]:
    """Run a server until the block ends; wait until it answers."""
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})
        try:
            for _ in range(600):
                try:
                    httpx.get(url, timeout=5)
                    break
                except httpx.TransportError:
                    if process.poll() is not None:
                        raise RuntimeError(f"{command[0]} ended; see {log}") from None
                    time.sleep(1)
            yield
        finally:
            process.terminate()
            process.wait()


class Annotator:
    """A user of Label Studio, by its API."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=600, follow_redirects=True)
        self.http.get("/user/login/")
        form = {"email": USER, "password": PASSWORD, "csrfmiddlewaretoken": self.http.cookies["csrftoken"]}
        self.http.post("/user/login/", data=form, headers={"Referer": url})
        self.http.headers.update({"X-CSRFToken": self.http.cookies["csrftoken"], "Referer": url})

    def post(self, path: str, content: Any) -> Any:
        return self.http.post(path, json=content).raise_for_status().json()

    def token(self) -> str:
        return str(self.post("/api/token/", {})["token"])

    def predictions(self, project: int, tasks: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Ask for predictions of tasks; return the newest of each."""
        chosen = {"selectedItems": {"all": False, "included": list(tasks)}, "project": project}
        self.post(f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", chosen)
        every = self.http.get("/api/predictions/", params={"project": project}).raise_for_status().json()
        return {one["task"]: one for one in sorted(every, key=lambda one: int(one["id"]))}

    def annotate(self, task: int, label: str, size: tuple[int, int], boxes: np.ndarray) -> None:
        corners = 100 * boxes / np.tile(size, 2)
        values = [
            dict(zip(("x", "y", "width", "height"), [*box[:2], *(box[2:] - box[:2])], strict=True)) for box in corners
        ]
        about = {**TAGS, "original_width": size[0], "original_height": size[1], "image_rotation": 0}
        result = [{**about, "value": {**one, "rotation": 0, "rectanglelabels": [label]}} for one in values]
        self.post(f"/api/tasks/{task}/annotations/", {"result": result})


def gt_known(predictions: dict[int, dict[str, Any]], tasks: Sequence[int], dataset: ImageDataset) -> float:
    """Return the percentage of tasks whose predicted box has IoU ≥ 0.5 with a true one; task i is image i."""
    hits = 0
    for index, task in enumerate(tasks):
        boxes = [region_box(region)[1] for region in predictions[task]["result"]]
        hits += bool(boxes) and bool(box_iou(boxes[:1], dataset[index].boxes).max(initial=0) >= 0.5)
    return 100 * hits / len(tasks)


def open_task(page: Page, url: str, project: int, task: int, picture: Path) -> None:
    """Open a task as an annotator does, wait for its box, and take a screenshot."""
    page.goto(f"{url}/projects/{project}/data?task={task}")
    page.get_by_text("Regions").first.wait_for(timeout=120_000)
    page.locator("canvas").first.wait_for()
    page.wait_for_timeout(5_000)  # the image is loaded, and the box drawn
    page.screenshot(path=picture)


def log_in(page: Page, url: str) -> None:
    page.goto(f"{url}/user/login/")
    page.locator("input[name=email]").fill(USER)
    page.locator("input[name=password]").fill(PASSWORD)
    page.locator("button[type=submit]").click()
    page.wait_for_url("**/")


def corrections_in(folder: Path) -> list[dict[str, Any]]:
    """Return the corrections that the backend has measured."""
    path = folder / "corrections.json"
    return [one for one in read_json(path)["corrections"] if one["iou"]] if path.exists() else []


def wait_for(folder: Path, count: int) -> None:
    for _ in range(120):
        if len(corrections_in(folder)) >= count:
            return
        time.sleep(1)
    raise RuntimeError(f"{len(corrections_in(folder))} of {count} corrections arrived; see the logs")


def create_project(
    user: Annotator, dataset: ImageDataset, root: Path, count: int, backend: str
) -> tuple[int, list[int]]:
    """Copy images below the document root, create a project with a task for each, and connect the backend."""
    labels = "".join(f"<Label value={quoteattr(name)}/>" for name in dataset.classes)
    configuration = f'<Image name="image" value="$image"/><RectangleLabels name="label" toName="image">{labels}'
    configuration = f"<View>{configuration}</RectangleLabels></View>"
    project = int(user.post("/api/projects/", {"title": "tokenloc", "label_config": configuration})["id"])
    (root / "photos").mkdir(parents=True)
    storage = {"project": project, "path": str(root / "photos"), "title": "photos", "use_blob_urls": False}
    user.post("/api/storages/localfiles", storage)
    for index in range(count):
        dataset.image(index).save(root / "photos" / f"{index:04d}.png")
    tasks = [{"image": f"/data/local-files/?d=photos/{index:04d}.png"} for index in range(count)]
    user.post(f"/api/projects/{project}/import", tasks)
    user.post("/api/ml/", {"url": backend, "project": project, "title": "tokenloc"})
    listed = user.http.get("/api/tasks", params={"project": project, "page_size": count}).raise_for_status().json()
    return project, sorted(int(task["id"]) for task in listed["tasks"])


def run(arguments: argparse.Namespace, dataset: ImageDataset, stack: ExitStack) -> None:
    out = arguments.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    port, own = free_port(), free_port()
    url, root, kept = f"http://127.0.0.1:{port}", out / "root", out / "corrections"
    settings = {
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true", "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(root),
        "ML_TIMEOUT_PREDICT": "3000",
        "ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false", "COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_USERNAME": USER, "LABEL_STUDIO_PASSWORD": PASSWORD, "LATEST_VERSION_CHECK": "false",
    }  # fmt: skip
    start = [arguments.label_studio, "start", "--no-browser", "--port", str(port), "--data-dir", str(out / "data")]
    stack.enter_context(running(start, out / "label-studio.log", f"{url}/health", **settings))
    user = Annotator(url)
    root.mkdir()
    serve = [sys.executable, "-m", "tokenloc.cli", "serve", str(arguments.checkpoint), "--port", str(own)]
    serve += ["--label_studio", url, "--corrections", str(kept)] + (["--images", str(root)] if arguments.local else [])
    backend = f"http://127.0.0.1:{own}/label-studio"
    stack.enter_context(running(serve, out / "tokenloc.log", f"{backend}/health", LABEL_STUDIO_API_KEY=user.token()))

    project, tasks = create_project(user, dataset, root, arguments.tasks + arguments.corrections, backend)
    measured, corrected = tasks[: arguments.tasks], tasks[arguments.tasks :]
    before = user.predictions(project, measured)
    print(f"{before[measured[0]]['model_version']}: GT-known {gt_known(before, measured, dataset):.1f}", flush=True)

    program = shutil.which("chromium") or shutil.which("google-chrome")
    browser = stack.enter_context(sync_playwright()).chromium.launch(executable_path=program, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    log_in(page, url)
    open_task(page, url, project, corrected[0], out / "prediction.png")
    page.get_by_role("button", name="Submit").click()
    wait_for(kept, 1)
    print(f"submitted in the browser: {corrections_in(kept)[0]['boxes']} percent", flush=True)
    for count, task in enumerate(corrected[1:], start=2):
        index = arguments.tasks + count - 1
        sample = dataset[index]
        user.annotate(task, dataset.classes[sample.label], dataset.image(index).size, sample.boxes)
        wait_for(kept, count)
        if count % 5 == 0:
            version = httpx.post(f"{backend}/webhook", json={"action": "NONE"}).json()["model_version"]
            print(f"{count} corrections: {version}", flush=True)
    after = user.predictions(project, measured)
    print(f"{after[measured[0]]['model_version']}: GT-known {gt_known(after, measured, dataset):.1f}", flush=True)
    open_task(page, url, project, measured[arguments.show], out / "after.png")
    browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--label_studio", default="label-studio", help="the program")
    parser.add_argument("--tasks", type=int, default=100, help="images that are measured")
    parser.add_argument("--corrections", type=int, default=49)
    parser.add_argument("--show", type=int, default=0, help="the measured image of the last screenshot")
    parser.add_argument("--local", action="store_true", help="read images from the document root, not by HTTP")
    parser.add_argument("--out", type=Path, default=Path("runs/label_studio"))
    arguments = parser.parse_args()
    _, metadata = load_checkpoint(arguments.checkpoint)
    dataset = open_data(data_of(metadata, DataSource(), None, "measured"), metadata.classes)
    count = arguments.tasks + arguments.corrections
    dataset = dataset.subset(np.random.default_rng(0).permutation(len(dataset))[:count])
    with ExitStack() as stack:
        run(arguments, dataset, stack)


if __name__ == "__main__":
    main()
