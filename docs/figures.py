"""Draw the figures of the README and the method pages from a finished demo, whose scenes are free of copyright.

tokenloc demo --out runs/demo
python docs/figures.py runs/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from tokenloc.commands.demo import STEPS, scenes
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.methods import list_methods
from tokenloc.reporting.drawing import PREDICTED, TRUTH, draw_boxes, draw_map, heatmap, image_table, save_image, stack

DOCS = Path(__file__).parent
SCENES = (0, 1, 5)  # rows of the figures of the methods
FIRST = range(8)  # columns of the figure of the README
SIDE = 112  # pixels of a cell


def localizer(run: Path, *refine: str) -> Localizer:
    """Load the final checkpoint of a run."""
    return Localizer.from_checkpoint(run / "checkpoints/last.ckpt", "cpu", options=PredictionOptions(refine=refine))


def overview(run: Path) -> Image.Image:
    """Return the first scenes with true and predicted boxes, above their maps."""
    test, plain = scenes("test", 0), localizer(run)
    images, maps = [], []
    for index in FIRST:
        scene = test.image(index)
        result = plain(scene)
        boxes = draw_boxes(draw_boxes(scene, test[index].boxes, TRUTH), result.boxes, PREDICTED)
        images.append(boxes.resize((SIDE, SIDE)))
        maps.append(heatmap(scene, result.map_on_image()).resize((SIDE, SIDE)))
    return stack([stack(images), stack(maps)], vertical=True)


def maps_of_method(run: Path) -> Image.Image:
    """Return a row per scene: the intermediate maps, the map and the refined map with their boxes."""
    plain, refined = localizer(run), localizer(run, *STEPS)
    test, rows, names = scenes("test", 0), [], []
    for index in SCENES:
        scene = test.image(index)
        intermediate = plain.intermediate_maps(scene)
        names = list(intermediate)
        row = [draw_boxes(scene, test[index].boxes, TRUTH), *(heatmap(scene, map_) for map_ in intermediate.values())]
        row += [draw_map(scene, each(scene)) for each in (plain, refined)]
        rows.append((test.classes[test[index].label], row))
    return image_table(["scene, true box", *names, "map, box", "refined"], rows, side=SIDE)


def main() -> None:
    """Draw the figures of the methods in the demo, and the README's if SCM is among them."""
    runs = {method: Path(sys.argv[1]) / method for method in list_methods()}
    figures = {
        DOCS / f"methods/images/{method}.png": maps_of_method(run) for method, run in runs.items() if run.is_dir()
    }
    if runs["scm"].is_dir():
        figures[DOCS / "assets/scenes.png"] = overview(runs["scm"])
    for path, figure in figures.items():
        save_image(figure.quantize(128), path)
        print(path, path.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
