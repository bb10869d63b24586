"""Draw the pictures of the methods' pages from a finished demo, whose scenes are free of anyone's rights.

tokenloc demo --out runs/demo
python docs/pictures.py runs/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image
from tokenloc.reporting.pictures import FOUND, TRUTH

from tokenloc.commands.demo import STEPS, scenes
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.methods import list_methods
from tokenloc.reporting import heatmap, save_picture, table_of_pictures, with_boxes

SCENES = (0, 1, 5)


def picture_of(run: Path) -> Image.Image:
    """Return a row for each scene: what the map is made of, the map and the refined map with their boxes."""
    checkpoint = run / "checkpoints/last.ckpt"
    plain = Localizer.from_checkpoint(checkpoint, "cpu", options=PredictionOptions(refine=()))
    refined = Localizer.from_checkpoint(checkpoint, "cpu", options=PredictionOptions(refine=STEPS))
    test, rows, names = scenes("test", 0), [], []
    for index in SCENES:
        scene = test.image(index)
        parts = plain.intermediate_maps(scene)
        names = list(parts)
        row = [with_boxes(scene, test[index].boxes, TRUTH), *(heatmap(scene, part) for part in parts.values())]
        for localizer in (plain, refined):
            found = localizer(scene)
            row.append(with_boxes(heatmap(scene, found.map_on_picture()), found.boxes, FOUND))
        rows.append((test.classes[test[index].label], row))
    return table_of_pictures(["scene, true box", *names, "map, box", "refined"], rows, side=112)


def main() -> None:
    """Draw every method's picture."""
    for method in list_methods():
        path = Path(__file__).parent / "methods" / "pictures" / f"{method}.png"
        save_picture(picture_of(Path(sys.argv[1]) / method).quantize(128), path)
        print(path, path.stat().st_size // 1024, "KiB")


if __name__ == "__main__":
    main()
