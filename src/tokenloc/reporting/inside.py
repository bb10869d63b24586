"""Sheets of what is inside a model for an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokenloc.inference.inspection import Inspection
from tokenloc.reporting.drawing import COLORMAP, draw_map, heatmap, save_titled

LARGEST_MATRIX = 784  # patches; a similarity matrix of a CNN's first stage would have millions of rows


def save_inspection(image: Image.Image, inside: Inspection, folder: Path, channels: int) -> list[Path]:
    """Write the sheets that the model has something for; return their paths."""
    first, convolutional = inside.results[0], not inside.attention and inside.positions is None
    names = [f"stage {index + 1}" for index in range(len(inside.feature_maps))]
    if not convolutional:
        names = ["input", *(f"block {index}" for index in range(1, len(inside.feature_maps)))]
    result = (f"map of {first.label}", draw_map(image, first))
    maps = [("image", image), *((title, heatmap(image, map_)) for title, map_ in inside.maps.items()), result]
    classes = [(f"{each.score:.1%} {each.label}", draw_map(image, each)) for each in inside.results]
    refinement = [("image", image), *((title, heatmap(image, map_)) for title, map_ in inside.refinement.items())]
    sheets = {
        "maps": ("What the map is computed from; each map is scaled from its minimum to its maximum", maps),
        "figures": (
            "Further maps of the paper's figures; each is scaled from its minimum to its maximum",
            [(title, heatmap(image, map_)) for title, map_ in inside.figures.items()],
        ),
        "classes": ("Maps of the most probable classes, with their scores", [("image", image), *classes]),
        "refinement": ("The map in the course of its refinement", refinement if inside.refinement else []),
        "attention": ("Attention of the class token, mean over heads, each block scaled to its range", []),
        "similarity": ("Patches by patches: cosines from 0 (black) to 1 (yellow), distances scaled to their range", []),
        "features": (f"{channels} channels of the patches, evenly chosen, each scaled to its range", []),
    }
    if inside.attention:
        mean = heatmap(image, np.mean(inside.attention, axis=0))
        blocks = [(f"block {index + 1}", heatmap(image, map_)) for index, map_ in enumerate(inside.attention)]
        sheets["attention"][1].extend([("image", image), ("mean of these", mean), result, *blocks])
    sheets["similarity"][1].extend(_matrices(inside, names))
    for name, maps_ in zip(names, inside.feature_maps, strict=True):
        chosen = np.linspace(0, len(maps_) - 1, min(channels, len(maps_))).round().astype(int).tolist()
        sheets["features"][1].extend((f"{name}, channel {index}", _picture(_scaled(maps_[index]))) for index in chosen)
    paths = []
    for name, (title, cells) in sheets.items():
        if cells:
            paths.append(folder / f"{name}.png")
            save_titled(cells, paths[-1], title, columns={"features": channels, "figures": 5}.get(name, 6))
    return paths


def _matrices(inside: Inspection, names: list[str]) -> list[tuple[str, Image.Image]]:
    cells = []
    if inside.positions is not None:
        cells.append(("position embeddings", _picture(inside.positions.clip(0, 1))))
    if len(inside.distances) <= LARGEST_MATRIX:
        cells.append((f"distances, {names[0]}", _picture(_scaled(inside.distances))))
    matrices = zip(names, inside.similarities, strict=True)
    return cells + [(name, _picture(each.clip(0, 1))) for name, each in matrices if len(each) <= LARGEST_MATRIX]


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _picture(values: NDArray[np.float32]) -> Image.Image:
    """Return [h, w] in [0, 1] in the colors of ``heatmap``, each value a square of pixels."""
    colors = COLORMAP(values)[..., :3]
    return Image.fromarray((255 * colors).round().astype(np.uint8))
