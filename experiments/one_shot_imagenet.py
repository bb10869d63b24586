"""ImageNet with one image of each class: a folder in ILSVRC's layout, with links to existing images.

    python experiments/one_shot_imagenet.py [--shared ../shared] [--out runs/one_shot/ilsvrc]

For `recipes/one_shot`. `train` is `imagenet_1shot`, one image of each of the 1000 classes; `val` is `tiny_imagenet`,
2,020 validation images of 203 classes at 64x64, each with one box from its annotations. Nothing is copied.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path


def lay_out(shared: Path, out: Path) -> None:
    """Write ``out`` in ILSVRC's layout: class folders in train and val, and the box list of released code."""
    one_shot, tiny = shared.resolve() / "data" / "imagenet_1shot", shared.resolve() / "data" / "tiny_imagenet"
    (out / "ILSVRC2012_list").mkdir(parents=True)
    (out / "train").symlink_to(one_shot / "train")
    for folder in sorted((one_shot / "train").iterdir()):
        (out / "val" / folder.name).mkdir(parents=True)
    lines = []
    with (tiny / "annotations.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            (out / "val" / row["wnid"] / row["file"]).symlink_to(tiny / "images" / row["file"])
            corners = " ".join(row[name] for name in ("x0", "y0", "x1", "y1"))
            lines.append(f"{row['wnid']}/{row['file']} {row['imagenet_index']} {corners}\n")
    (out / "ILSVRC2012_list" / "val_folder_new.txt").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--out", type=Path, default=Path("runs/one_shot/ilsvrc"))
    given = parser.parse_args()
    lay_out(given.shared, given.out)
    print(f"wrote {given.out}: tokenloc train --config recipes/one_shot/sat.yaml")


if __name__ == "__main__":
    main()
