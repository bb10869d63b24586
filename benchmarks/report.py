"""Size and opening time of `tokenloc report`, and the cost of storing the boxes of all thresholds in an evaluation.

    python benchmarks/report.py [--images 5794] [--folder FOLDER] [--protocol standard]

The dataset stands in for CUB's test set: as many images, of 200 classes, with maps of noise around a box. Its images
are links to those in FOLDER, or to generated ones. The browser is Chromium, as in the tests.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from _timing import setting
from PIL import Image
from playwright.sync_api import sync_playwright

from tokenloc._files import write_json
from tokenloc.boxes import Frame, get_protocol
from tokenloc.commands.report import report
from tokenloc.data import ImageDataset, Sample, find_images
from tokenloc.data.base import as_boxes
from tokenloc.inference.evaluation import evaluate_scores
from tokenloc.metrics import ImageScores, Scorer
from tokenloc.reporting.charts import save_curves

CLASSES = 200
SIZE = (500, 375)
BOX = [130.0, 90.0, 380.0, 300.0]
MOVES = 60


def generate_images(folder: Path, count: int = 40) -> list[Path]:
    generator = np.random.default_rng(0)
    folder.mkdir()
    for index in range(count):
        coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize(SIZE, Image.Resampling.BICUBIC).save(folder / f"{index}.jpg", quality=90)
    return sorted(folder.iterdir())


def link_images(images: list[Path], folder: Path, count: int) -> list[str]:
    ids = [f"class_{index % CLASSES:03d}/image_{index:06d}.jpg" for index in range(count)]
    for index, id_ in enumerate(ids):
        (folder / id_).parent.mkdir(parents=True, exist_ok=True)
        (folder / id_).symlink_to(images[index % len(images)].resolve())
    return ids


def score_maps(scorer: Scorer, count: int, seed: int) -> list[ImageScores]:
    """Return the scores of some images, which the evaluation repeats."""
    generator, frame = np.random.default_rng(seed), Frame.resized(SIZE, (224, 224))
    scores = []
    for index in range(count):
        map_ = generator.random((14, 14)) * generator.random()
        map_[3:11, 4:11] += generator.random() * generator.random((8, 7))
        label = index % CLASSES
        top = [label if generator.random() < 0.8 else (label + 1) % CLASSES, 3, 4, 5, 6]
        scores.append(scorer.score(map_, label, top, frame=frame, boxes=[BOX]))
    return scores


def write_evaluation(folder: Path, dataset: ImageDataset, scorer: Scorer, root: Path, seed: int) -> dict[str, float]:
    """Write an evaluation's files; return the processor time per image of scoring, and of evaluating with all boxes."""
    began = time.process_time()
    some = score_maps(scorer, 300, seed)
    scoring = (time.process_time() - began) / len(some)
    images = (replace(some[i % len(some)], id=sample.id, label=sample.label) for i, sample in enumerate(dataset))
    began = time.process_time()
    result = evaluate_scores(images, dataset, scorer, folder / "boxes.npz")
    storing = (time.process_time() - began) / len(dataset)
    data = {"name": "folder", "root": str(root), "split": "all", "options": {}}
    write_json(folder / "metrics.json", {**result.to_dict(), "data": data})
    result.save_images(folder / "images.csv")
    save_curves(folder, result.evaluation.curve)
    return {"scoring": 1e3 * scoring, "storing": 1e3 * storing, "size": (folder / "boxes.npz").stat().st_size / 1e6}


OPENING = """() => {
  const timing = performance.getEntriesByType('navigation')[0];
  const paint = performance.getEntriesByName('first-contentful-paint')[0];
  return [paint ? paint.startTime : NaN, timing.loadEventEnd];
}"""
MOVING = """async (moves) => {
  const slider = document.querySelector('.slider input'), times = [];
  for (let move = 0; move < moves; move++) {
    const start = performance.now();
    slider.value = (37 * move) % Number(slider.max);
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    times.push(performance.now() - start);
  }
  return times.sort((a, b) => a - b)[Math.floor(moves / 2)];
}"""


def measure_page(path: Path) -> list[float]:
    """Return first paint, load event and a slider's move until it is drawn, in milliseconds: medians of three."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    runs = []
    with sync_playwright() as playwright:
        for _ in range(3):
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(path.as_uri(), timeout=300_000)
            page.wait_for_timeout(200)
            runs.append([*page.evaluate(OPENING), page.evaluate(MOVING, MOVES)])
            browser.close()
    return np.median(runs, axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5794)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--protocol", default="standard")
    given = parser.parse_args()
    protocol = get_protocol(given.protocol)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = find_images(given.folder) if given.folder else None
        ids = link_images(images or generate_images(folder / "generated"), folder / "images", given.images)
        samples = [Sample(id_, None, index % CLASSES, as_boxes([BOX])) for index, id_ in enumerate(ids)]
        dataset = ImageDataset("test", [f"class_{index:03d}" for index in range(CLASSES)], samples)
        for seed, run in enumerate("ab"):
            cost = write_evaluation(folder / run, dataset, Scorer(protocol, 0.2), folder / "images", seed)
        print(f"{given.images} images, protocol {protocol.name}; {setting()}\n")
        print("per image: scoring {scoring:.2f} ms, evaluating {storing:.2f} ms".format(**cost))
        print("boxes.npz: {size:.1f} MB\n".format(**cost))
        print("| runs | images | written in (s) | size (MB) | first paint (ms) | loaded (ms) | slider (ms) |")
        print("|---|---|---|---|---|---|---|")
        for runs, images_each in (("a", 24), ("ab", 24), ("a", "all")):
            began = time.perf_counter()
            path = report([folder / run for run in runs], out=folder / "report.html", images=images_each)
            taken, size = time.perf_counter() - began, path.stat().st_size / 1e6
            numbers = " | ".join(f"{number:.0f}" for number in measure_page(path))
            print(f"| {len(runs)} | {images_each} | {taken:.1f} | {size:.1f} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
