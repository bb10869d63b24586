"""Models that look at images for a page, and remember what they saw in the last ones."""

from __future__ import annotations

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tokenloc._names import unknown_name
from tokenloc.data import read_image
from tokenloc.inference import Localization, Localizer, PredictionOptions
from tokenloc.refinement import list_steps
from tokenloc.reporting.drawing import heatmap

OWN = "the method's own"
REFINEMENTS: dict[str, tuple[str, ...] | None] = {
    OWN: None,
    "none": (),
    **{step: (step,) for step in list_steps()},
    "affinity, reprediction": ("affinity", "reprediction"),
}
"""What may be chosen on the page, and the steps that it means; see `PredictionOptions.refine`."""

MOST_CLASSES = 10
SHOWN_SIDE = 960
KEPT = 16


@dataclass(frozen=True, eq=False)
class Sight:
    """What a model saw in an image: all that a page needs to show it at any threshold.

    Attributes:
        results: of the most probable classes, the most probable first.
        classes: of the model.
        method: of the model.
        image: the upright image, at most ``SHOWN_SIDE`` pixels long, as a ``data:`` address.
        heatmaps: the same with the map of each of ``results`` over it.
    """

    results: Sequence[Localization]
    classes: tuple[str, ...]
    method: str
    image: str
    heatmaps: Sequence[str]


class Models:
    """Models by the names that a page shows, for many threads at once.

    One image at a time passes a network, which uses all cores for it; what was seen in the last ``KEPT`` images is
    kept, so that another threshold costs nothing.

    Args:
        localizers: by name, in the order in which they are shown.
        max_pixels: largest width times height of an image.
    """

    def __init__(self, localizers: Mapping[str, Localizer], max_pixels: int) -> None:
        self.localizers = dict(localizers)
        self.max_pixels = max_pixels
        self._seen: OrderedDict[tuple[Path, str, str, int], Sight] = OrderedDict()
        self._lock = threading.Lock()
        self._network = threading.Lock()

    def __getitem__(self, name: str) -> Localizer:
        if name not in self.localizers:
            raise unknown_name("model", name, self.localizers)
        return self.localizers[name]

    def look(self, image: Path, model: str, refinement: str = OWN, count: int = 1) -> Sight:
        """Return what a model sees in an image, remembered or anew.

        Args:
            image: a file, which never changes.
            model: one of ``localizers``.
            refinement: one of ``REFINEMENTS``.
            count: how many classes, from 1 to ``MOST_CLASSES``; fewer where the model has fewer.

        Raises:
            FileNotFoundError, ValueError: an image that cannot be read or is too large, an unknown name, or a
                ``count`` out of range.
        """
        key = image, model, refinement, count
        if (known := self._known(key)) is not None:
            return known
        with self._network:
            known = self._known(key)  # another thread may have looked meanwhile
            return known or self._keep(key, self._look(*key))

    def _known(self, key: tuple[Path, str, str, int]) -> Sight | None:
        with self._lock:
            if key in self._seen:
                self._seen.move_to_end(key)
            return self._seen.get(key)

    def _keep(self, key: tuple[Path, str, str, int], sight: Sight) -> Sight:
        with self._lock:
            self._seen[key] = sight
            while len(self._seen) > KEPT:
                self._seen.popitem(last=False)
        return sight

    def _look(self, path: Path, model: str, refinement: str, count: int) -> Sight:
        localizer = self._localizer(model, refinement)
        if not 1 <= count <= MOST_CLASSES:
            raise ValueError(f"the number of classes must lie in 1 … {MOST_CLASSES}; got {count}")
        image = read_image(path, self.max_pixels)
        results = localizer.top(image, min(count, localizer.model.num_classes))
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        frames = [result.frame.of_original(image.size) for result in results]
        maps = [frame.map_to_original(result.map) for frame, result in zip(frames, results, strict=True)]
        heatmaps = [_address(heatmap(image, shown)) for shown in maps]
        return Sight(results, localizer.metadata.classes, localizer.metadata.model.method, _address(image), heatmaps)

    def _localizer(self, model: str, refinement: str) -> Localizer:
        if refinement not in REFINEMENTS:
            raise unknown_name("refinement", refinement, REFINEMENTS)
        usual = self[model]
        options = PredictionOptions(refine=REFINEMENTS[refinement])
        return Localizer(usual.model, usual.metadata, usual.threshold, options=options, protocol=usual.protocol)


def load_models(checkpoints: Sequence[Path], device: str, max_pixels: int) -> Models:
    """Load checkpoints; each is called by its method and its run's folder.

    Raises:
        FileNotFoundError, ValueError: as ``Localizer.from_checkpoint``; and where one is given twice.
    """
    localizers: dict[str, Localizer] = {}
    for path in checkpoints:
        localizer = Localizer.from_checkpoint(path, device)
        name = f"{localizer.metadata.model.method} · {_run_of(path)}"
        localizers[f"{name} ({path})" if name in localizers else name] = localizer
    if len(localizers) < len(checkpoints):
        raise ValueError(f"a checkpoint is given twice: {', '.join(map(str, checkpoints))}")
    return Models(localizers, max_pixels)


def _run_of(path: Path) -> str:
    """Return what people call a checkpoint by.

    >>> _run_of(Path("runs/sat-0/checkpoints/best.ckpt")), _run_of(Path("sat.ckpt"))
    ('sat-0/best', 'sat')
    """
    folder = path.absolute().parent
    return f"{folder.parent.name}/{path.stem}" if folder.name == "checkpoints" else path.stem


def _address(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
