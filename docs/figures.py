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
from tokenloc.reporting.drawing import TRUTH, draw_boxes, draw_map, heatmap, image_table, save_image

DOCS = Path(__file__).parent
SCENES = (0, 1, 5)  # rows of the figures of the methods


def localizer(run: Path, *refine: str) -> Localizer:
    """Load the final checkpoint of a run."""
    return Localizer.from_checkpoint(run / "checkpoints/last.ckpt", "cpu", options=PredictionOptions(refine=refine))


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
    return image_table(["scene, true box", *names, "map, box", "refined"], rows)


def main() -> None:
    """Draw the figures of the methods in the demo; the README has the demo's own."""
    demo = Path(sys.argv[1])
    runs = {method: demo / method for method in list_methods()}
    figures = {DOCS / "assets/scenes.png": Image.open(demo / "figures/summary.png")} | {
        DOCS / f"methods/images/{method}.png": maps_of_method(run) for method, run in runs.items() if run.is_dir()
    }
    for path, figure in figures.items():
        save_image(figure.quantize(128), path)
        print(path, path.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
