"""Label Studio: tasks with predictions as JSON, and the labelling configuration that fits them.

Boxes are x, y, width, height in percent of the image, https://labelstud.io/guide/predictions. They stand there as
predictions, which a person accepts or corrects; ``read`` takes the person's annotations where there are some. The score
of a region is its class's probability; that of a prediction, by which tasks can be sorted, is its first box's confidence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from tokenloc._files import atomic_write, write_text
from tokenloc.data.annotations import Annotation
from tokenloc.data.label_studio import LOCAL_FILES, read_label_studio
from tokenloc.export._json_list import JsonList
from tokenloc.export.base import FORMATS, SCORE_DIGITS, AddImage, Destination, Format, absolute, boxes_of
from tokenloc.inference.localization import LocalizationRecord

TASKS = "label-studio.json"
CONFIGURATION = "label-studio.xml"
PERCENT_DIGITS = 6


@contextmanager
def _writing(destination: Destination) -> Iterator[AddImage]:
    """Write one task an image, and the configuration that a project needs to show them."""
    labels = destination.labels
    with atomic_write(destination.folder / TASKS) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write("[")
            tasks = JsonList(file)

            def add(name: str, found: Sequence[LocalizationRecord]) -> None:
                regions = [region for localization in found for region in _regions(localization, labels)]
                prediction = {
                    "model_version": destination.model_version,
                    "score": round(found[0].first_confidence, SCORE_DIGITS),
                    "result": [{"id": f"box-{index + 1}", **region} for index, region in enumerate(regions)],
                }
                tasks.add({"data": {"image": image_url(name, destination)}, "predictions": [prediction]})

            yield add
            file.write("]\n")
        write_text(destination.folder / CONFIGURATION, configuration(labels))


def _regions(localization: LocalizationRecord, labels: Sequence[str]) -> Iterator[dict[str, Any]]:
    width, height = localization.size
    for x0, y0, x1, y1 in boxes_of(localization):
        shares = {"x": x0 / width, "y": y0 / height, "width": (x1 - x0) / width, "height": (y1 - y0) / height}
        yield {
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": round(localization.score, SCORE_DIGITS),
            "value": {
                **{key: round(100 * share, PERCENT_DIGITS) for key, share in shares.items()},
                "rotation": 0,
                "rectanglelabels": [labels[localization.class_index]],
            },
        }


def image_url(name: str, destination: Destination) -> str:
    """Return by which address Label Studio finds an image.

    By default that is its local files: the path below its document root, which is taken to be the folder above
    ``destination.root``, since Label Studio wants a folder below that root as a storage. A given ``image_url`` stands
    before the image's name, which is percent-encoded where ``image_url`` is of HTTP or holds a query.

    >>> image_url("a b.jpg", Destination(Path("out"), (), root=Path("/my/photos")))
    '/data/local-files/?d=photos/a%20b.jpg'
    >>> image_url("a b.jpg", Destination(Path("out"), (), image_url="s3://bucket/"))
    's3://bucket/a b.jpg'
    """
    if destination.image_url is None:
        folder = "" if destination.root is None else f"{absolute(destination.root).name}/"
        return LOCAL_FILES + quote(folder + name)
    encoded = destination.image_url.startswith(("http:", "https:")) or "?" in destination.image_url
    return destination.image_url + (quote(name) if encoded else name)


def configuration(labels: Sequence[str]) -> str:
    """Return the labelling configuration (XML) of a project with these labels."""
    lines = "\n".join(f"    <Label value={quoteattr(label)}/>" for label in dict.fromkeys(labels))
    return (
        '<View>\n  <Image name="image" value="$image"/>\n  <RectangleLabels name="label" toName="image">\n'
        f"{lines}\n  </RectangleLabels>\n</View>\n"
    )


def _read(path: Path) -> list[Annotation]:
    """Return the boxes of every task: those of a person where there are some, else those that were predicted."""
    return read_label_studio(path, predictions=True)


LABEL_STUDIO = FORMATS.add("label-studio", Format((TASKS, CONFIGURATION), _writing, _read))
"""Label Studio: label-studio.json, and label-studio.xml with the labels."""
