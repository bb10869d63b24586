"""FiftyOne: detections and heatmaps in a dataset, https://docs.voxel51.com/user_guide/using_datasets.html."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tokenloc._extras import library
from tokenloc.export.base import absolute
from tokenloc.inference import Localization

if TYPE_CHECKING:
    from fiftyone import Dataset, Detections, Heatmap


def add_localizations(dataset: Dataset, results: Iterable[Localization], field: str = "tokenloc") -> None:
    """Store the boxes of results as detections in ``field``, and their maps as heatmaps in ``field_map``.

    A detection has the confidence of its box, and the class's probability as ``score``. An image that is not in the
    dataset is added; of an image that is, both fields are replaced.

    Args:
        dataset: a ``fiftyone.Dataset``.
        results: one for each image file, such as ``localizer(iter(dataset.values("filepath")))``.
        field: a name of letters, digits and underscores.

    Raises:
        ImportError: if FiftyOne is not installed.
    """
    fiftyone = library("fiftyone")
    ids = dict(zip(*dataset.values(["filepath", "id"]), strict=True))
    for result in results:
        path = str(absolute(result.source))
        if path not in ids:
            ids[path] = dataset.add_sample(fiftyone.Sample(filepath=path))
        sample = dataset[ids[path]]
        sample[field], sample[f"{field}_map"] = to_detections(result), to_heatmap(result)
        sample.save()


def to_detections(result: Localization) -> Detections:
    """Return the boxes as ``fiftyone.Detections``, in fractions of the image."""
    fiftyone = library("fiftyone")
    corners = result.boxes / np.tile(result.size, 2)
    found = zip(corners.tolist(), result.confidence.tolist(), strict=True)
    about: dict[str, Any] = {"label": result.label, "score": result.score}
    detections = [
        fiftyone.Detection(bounding_box=[x0, y0, x1 - x0, y1 - y0], confidence=confidence, **about)
        for (x0, y0, x1, y1), confidence in found
    ]
    return fiftyone.Detections(detections=detections)


def to_heatmap(result: Localization) -> Heatmap:
    """Return the map of the whole image as a ``fiftyone.Heatmap``, uint8, with as many pixels as the network input.

    FiftyOne stretches it over the image; its database cannot store maps of the size of large images.
    """
    frame = result.frame.of_original(result.frame.input_size)
    return library("fiftyone").Heatmap(map=(255 * frame.map_to_original(result.map)).round().astype(np.uint8))
