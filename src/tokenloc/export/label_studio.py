"""Label Studio: tasks with predictions as JSON (https://labelstud.io/guide/predictions) and a labeling configuration.

Boxes are x, y, width, height in percent of the image. The score of a region is the probability of its class, that of a
prediction, by which tasks can be sorted, the confidence of its first box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tokenloc._files import atomic_text, write_text
from tokenloc.data.annotations import LOCAL_FILES
from tokenloc.export.base import FORMATS, Destination, Format, JsonArray, WriteImage, absolute, rounded_boxes
from tokenloc.inference.localization import LocalizationRecord

TASKS, CONFIGURATION = "label-studio.json", "label-studio.xml"
TAGS = ("label", "image")  # of _CONFIGURATION
_CONFIGURATION = """\
<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="label" toName="image">
{}
  </RectangleLabels>
</View>
"""


@contextmanager
def _open(destination: Destination) -> Iterator[WriteImage]:
    labels = destination.categories
    with atomic_text(destination.folder / TASKS) as file:
        file.write("[")
        tasks = JsonArray(file)

        def write_image(name: str, records: Sequence[LocalizationRecord]) -> None:
            prediction = task_prediction(records, labels, destination.model_version)
            tasks.append({"data": {"image": image_url(name, destination)}, "predictions": [prediction]})

        yield write_image
        file.write("]\n")
        lines = "\n".join(f"    <Label value={quoteattr(label)}/>" for label in dict.fromkeys(labels))
        write_text(destination.folder / CONFIGURATION, _CONFIGURATION.format(lines))


def task_prediction(
    records: Sequence[LocalizationRecord], labels: Sequence[str], version: str, tags: tuple[str, str] = TAGS
) -> dict[str, Any]:
    """Return the prediction of a task, for one image.

    Args:
        records: of one or several classes, at least one.
        labels: the classes by ``class_index``, as the labeling configuration names them.
        version: of the model.
        tags: the names of ``RectangleLabels`` and ``Image`` in the configuration.
    """
    regions = [region for record in records for region in _regions(record, labels, tags)]
    return {
        "model_version": version,
        "score": round(records[0].first_confidence, 6),
        "result": [{"id": f"box-{rank}", **region} for rank, region in enumerate(regions, start=1)],
    }


def _regions(record: LocalizationRecord, labels: Sequence[str], tags: tuple[str, str]) -> Iterator[dict[str, Any]]:
    width, height = record.size
    for x0, y0, x1, y1 in rounded_boxes(record):
        fractions = {"x": x0 / width, "y": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
        percent = {key: round(100 * fraction, 6) for key, fraction in fractions.items()}
        yield {
            "type": "rectanglelabels",
            "from_name": tags[0],
            "to_name": tags[1],
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(record.score, 6),
            "value": {**percent, "rotation": 0, "rectanglelabels": [labels[record.class_index]]},
        }


def image_url(name: str, destination: Destination) -> str:
    """Return the address at which Label Studio finds an image.

    By default, it is a local file; Label Studio's document root must be the folder above ``destination.root``. After
    ``destination.image_url``, the name is percent-encoded if the address is HTTP or has a query.

    >>> from pathlib import Path
    >>> image_url("a b.jpg", Destination(Path("out"), (), root=Path("/my/photos")))
    '/data/local-files/?d=photos/a%20b.jpg'
    """
    prefix = destination.image_url
    if prefix is None:
        folder = "" if destination.root is None else f"{absolute(destination.root).name}/"
        return LOCAL_FILES + quote(folder + name)
    return prefix + (quote(name) if prefix.startswith(("http:", "https:")) or "?" in prefix else name)


FORMATS.add("label-studio", Format((TASKS, CONFIGURATION), _open))
