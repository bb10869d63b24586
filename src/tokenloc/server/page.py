"""The page, in Gradio: an image and the controls on the left, what is found on the right."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, get_args

from tokenloc._extras import library
from tokenloc._names import one_of, unknown_name
from tokenloc.data.images import IMAGE_SUFFIXES
from tokenloc.inference.localization import Objects
from tokenloc.server.answer import HINT, STYLE, answer, fault
from tokenloc.server.download import image_name, usable_formats, write_annotation
from tokenloc.server.models import MOST_CLASSES, OWN, REFINEMENTS, Models

TITLE = "tokenloc"
INTRODUCTION = "# tokenloc\nBoxes learned from image labels alone. Images stay on this server, for an hour at most."
CSS = (
    STYLE
    + """
footer { display: none !important; }
.gradio-container { width: 100%; max-width: 1240px !important; margin: 0 auto !important; }
#board { display: grid; grid-template: "drop found" auto "controls found" 1fr / 300px minmax(0, 1fr); gap: 1rem; }
#drop { grid-area: drop; } #controls { grid-area: controls; } #found { grid-area: found; }
@media (max-width: 768px) {
  #board { grid-template: "drop" auto "found" auto "controls" auto / minmax(0, 1fr); }
}
"""
)


@dataclass(frozen=True)
class Limits:
    """How much a server takes in.

    Attributes:
        max_bytes: of an uploaded file.
        max_pixels: width times height of an image.
        max_queue: requests that wait; more are told that the server is busy.
    """

    max_bytes: int
    max_pixels: int
    max_queue: int


@dataclass(frozen=True)
class Page:
    """What the page's controls do.

    Args:
        models: that look at images.
        folder: the one folder for uploads and annotations.
    """

    models: Models
    folder: Path

    def show(
        self,
        upload: Mapping[str, Any] | None,
        model: str,
        refinement: str,
        threshold: float,
        objects: str,
        count: float,
        form: str,
        previous: str | None,
    ) -> tuple[str, Any, str | None]:
        """Return what the page shows for an image and the controls as they are set.

        Args:
            upload: what Gradio says of an uploaded file, under ``path`` and ``orig_name``; None for none.
            model: one of ``models``.
            refinement: see ``Models.look``.
            threshold: on the map scaled to [0, 1].
            objects: ``largest`` or ``all``.
            count: how many classes.
            form: annotation format.
            previous: the folder of the session's last annotation, which goes.

        Returns:
            HTML; the download button's new state; and the folder of the annotation.
        """
        self.forget(previous)
        if upload is None:
            return HINT, _button(None), None
        stored = Path(str(upload.get("path")))
        name = image_name(str(upload.get("orig_name") or ""), stored)
        try:
            html, annotation = self._found(stored, name, model, refinement, threshold, objects, int(count), form)
        except FileNotFoundError:
            return fault(f"{name} is no longer kept here; drop it again"), _button(None), None
        except (ValueError, TypeError, OverflowError) as error:
            return fault(str(error).replace(str(stored), name)), _button(None), None
        return html, _button(annotation), str(annotation.parent)

    def _found(
        self,
        stored: Path,
        name: str,
        model: str,
        refinement: str,
        threshold: float,
        objects: str,
        count: int,
        form: str,
    ) -> tuple[str, Path]:
        if not stored.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"{name} was not uploaded here")
        if form not in usable_formats():
            raise unknown_name("format", form, usable_formats())
        every = one_of("objects", objects, Objects) == "all"
        sight = self.models.look(stored, model, refinement, count)
        results = [result.at_threshold(threshold, "all" if every else "largest") for result in sight.results]
        folder = Path(mkdtemp(prefix="annotation-", dir=self.folder))
        version = f"tokenloc {sight.method}"
        return answer(sight, results), write_annotation(results, sight.classes, stored, name, form, folder, version)

    def forget(self, annotation: str | None) -> None:
        """Remove the folder of an annotation that is no longer offered."""
        if annotation is not None and Path(annotation).resolve().parent == self.folder.resolve():
            shutil.rmtree(annotation, ignore_errors=True)

    def usual_threshold(self, model: str) -> float:
        """Return the threshold at which a model's slider begins."""
        return self.models[model].threshold


def make_page(page: Page, limits: Limits) -> Any:
    """Return the ``gradio.Blocks`` of a page.

    Raises:
        ImportError: where Gradio is not installed, with the command that installs it.
    """
    gr = library("gradio", "web")
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.Markdown(INTRODUCTION)
        with gr.Row(elem_id="board"):
            with gr.Column(elem_id="drop", min_width=0):
                upload = _upload(gr, limits)
            with gr.Column(elem_id="found", min_width=0):
                shown = gr.HTML(HINT, js_on_load=None)
            with gr.Column(elem_id="controls", min_width=0):
                controls = _controls(gr, page)
                button = gr.DownloadButton("Download annotation", interactive=False, variant="primary")
        controls = {"upload": upload, **controls}
        _connect(gr, page, controls, [shown, button, gr.State(None, delete_callback=page.forget)])
    blocks.queue(max_size=limits.max_queue, api_open=False, default_concurrency_limit=4)
    return blocks


def _upload(gr: Any, limits: Limits) -> Any:
    most = f"up to {limits.max_bytes / 1e6:g} MB, {limits.max_pixels / 1e6:g} megapixels"
    return gr.File(label=f"ImageInput ({most})", file_types=sorted(IMAGE_SUFFIXES), height=180)


def _controls(gr: Any, page: Page) -> dict[str, Any]:
    """Return what the image is looked at with, by the names and in the order of ``Page.show``'s parameters."""
    models = list(page.models.localizers)
    start = page.usual_threshold(models[0])
    objects = [("one: the largest", "largest"), ("all", "all")]
    return {
        "model": gr.Dropdown(models, value=models[0], label="Model", filterable=False),
        "refinement": gr.Dropdown(list(REFINEMENTS), value=OWN, label="Refinement", filterable=False),
        "threshold": gr.Slider(0, 1, start, step=0.01, label="Threshold", elem_id="threshold"),
        "objects": gr.Radio(objects, value=get_args(Objects)[0], label="Objects"),
        "count": gr.Slider(1, MOST_CLASSES, 1, step=1, label="Classes, best first", elem_id="classes"),
        "form": gr.Dropdown(usable_formats(), value="coco", label="Annotation format", filterable=False),
    }


def _connect(gr: Any, page: Page, controls: dict[str, Any], outputs: list[Any]) -> None:
    """Let every control show the image anew; what needs no network shows no sign of waiting.

    Nothing is named for the API, and values come as the browser sent them: ``Page.show`` checks each.
    """
    shared = {"preprocess": False, "api_visibility": "private"}
    show = {
        "fn": page.show,
        "inputs": [*controls.values(), outputs[-1]],
        "outputs": outputs,
        "trigger_mode": "always_last",
        **shared,
    }
    looking = [controls["upload"].change, controls["refinement"].input, controls["count"].input]
    gr.on(looking, show_progress="minimal", **show)
    gr.on([controls[name].input for name in ("threshold", "objects", "form")], show_progress="hidden", **show)
    model, threshold = controls["model"], controls["threshold"]
    chosen = model.input(page.usual_threshold, model, threshold, show_progress="hidden", **shared)
    chosen.then(show_progress="minimal", **{key: value for key, value in show.items() if key != "trigger_mode"})


def _button(annotation: Path | None) -> Any:
    gr = library("gradio", "web")
    return gr.DownloadButton(value=annotation and str(annotation), interactive=annotation is not None)
