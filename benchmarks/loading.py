"""Images per second that one thread loads for training.

    python benchmarks/loading.py [--images 64] [--repeats 5] [--root FOLDER] [--listed 1000000] [--device cuda]

Generated JPEGs of two sizes, and with --root real ones from a folder of class subfolders, are read from files and from
a Hugging Face dataset as `tokenloc train` does, which must give the same tensors, and with a plain ImageFolder and the
same transforms. Also measured: other decoders and resizes with their pixel differences, opening a Hugging Face dataset
of --listed images, and the images per second of training steps. Processor time of one thread: neither disk nor network
is measured, since all files have been read before.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import datasets
import numpy as np
import PIL
import torch
from _timing import best_time, setting
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from tokenloc.data import ImageDataset, Preprocessing, TrainingImages, create_dataset, train_transform
from tokenloc.data.hf import HfDataset
from tokenloc.models import create_model
from tokenloc.training.config import Optimisation
from tokenloc.training.optimisation import make_optimiser

PREPROCESSING = Preprocessing()
SIZES = ("500x375", "4000x3000")
CLASSES = 4
BATCH = 16


def write_images(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """Write JPEGs with detail at every scale, as photographs have."""
    generator = np.random.default_rng(0)
    for number in range(count):
        scene = np.zeros((size[1], size[0], 3), np.float32)
        for cells, height in ((4, 120), (16, 50), (64, 30), (256, 14)):
            coarse = generator.random((cells * size[1] // size[0] + 1, cells, 3), np.float32) - 0.5
            planes = [Image.fromarray(height * coarse[..., c]).resize(size, Image.Resampling.BICUBIC) for c in range(3)]
            scene += np.stack([np.asarray(plane) for plane in planes], axis=2)
        scene += generator.normal(128, 3, (size[1], size[0], 1)).astype(np.float32)
        path = folder / "train" / f"class-{number % CLASSES}" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.clip(0, 255).astype(np.uint8)).save(path, quality=95)
    return folder


resize = v2.Resize(PREPROCESSING.resize[::-1], antialias=True)


def rate(call: Callable[[], object], count: int, repeats: int) -> float:
    return 1e3 * count / best_time(call, repeats)


def stages(dataset: ImageDataset, repeats: int) -> dict[str, float]:
    """Return images per second of decoding, of resizing, and of the whole transform."""
    transform = train_transform(PREPROCESSING)
    rows = range(len(dataset))
    images = [dataset.image(row) for row in rows]
    calls: dict[str, Callable[[], object]] = {
        "decode": lambda: [dataset.image(row) for row in rows],
        "resize": lambda: [resize(image) for image in images],
        "decode, resize": lambda: [resize(dataset.image(row)) for row in rows],
        "decode, whole transform": lambda: [transform(dataset.image(row)) for row in rows],
    }
    return {name: rate(call, len(dataset), repeats) for name, call in calls.items()}


def by_opencv(content: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def by_torch(pixels: np.ndarray) -> np.ndarray:
    batch = torch.from_numpy(pixels).movedim(2, 0)[None]
    return functional.interpolate(batch, (256, 256), mode="bilinear", antialias=True)[0].movedim(0, 2).numpy()


def alternatives(dataset: ImageDataset, repeats: int) -> dict[str, str]:
    """Return images per second, and pixel differences, of other decoders and resizes."""
    rows = range(len(dataset))
    files = [sample.path.read_bytes() for sample in dataset]
    whole = [np.array(dataset.image(row)) for row in rows]
    small = [np.asarray(resize(Image.fromarray(pixels))) for pixels in whole]
    ways: dict[str, tuple[Callable[[int], np.ndarray], list[np.ndarray]]] = {
        "decode by Pillow alone": (lambda row: Image.open(io.BytesIO(files[row])).convert("RGB"), whole),
        "decode by OpenCV": (lambda row: by_opencv(files[row]), whole),
        "resize by torch, of bytes": (lambda row: by_torch(whole[row]), small),
        "decode at reduced size, resize": (lambda row: resize(dataset.image(row, PREPROCESSING.resize)), small),
    }
    results = {}
    for name, (way, expected) in ways.items():
        off = [np.abs(np.asarray(way(row), np.float64) - expected[row]) for row in rows]
        speed = rate(lambda way=way: [way(row) for row in rows], len(dataset), repeats)
        results[name] = (
            f"{speed:.0f} (off by {np.mean([each.mean() for each in off]):.3f}, at most {max(map(np.max, off)):.0f})"
        )
    return results


def plain_loader(root: Path) -> DataLoader[tuple[torch.Tensor, int]]:
    """Return the usual loader of torchvision."""
    steps = [v2.Resize((256, 256)), v2.RandomCrop(224), v2.RandomHorizontalFlip(), v2.PILToTensor()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(PREPROCESSING.mean), list(PREPROCESSING.std))]
    return DataLoader(ImageFolder(str(root / "train"), v2.Compose(steps)), BATCH)


def some_of(images: Path, folder: Path, count: int) -> Path:
    """Link ``count`` images, spread evenly over the classes."""
    found = sorted(images.glob("*/*.jpg"))
    for path in found[:: max(1, len(found) // count)][:count]:
        link = folder / "train" / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return folder


def loader(dataset: ImageDataset) -> DataLoader[tuple[torch.Tensor, int]]:
    return DataLoader(TrainingImages(dataset, train_transform(PREPROCESSING), seed=0), BATCH)


def sources(root: Path, folder: Path) -> dict[str, ImageDataset]:
    """Return the same images as a folder and as a Hugging Face dataset."""
    images = create_dataset("folder", root, "train", val_fraction=0, test_fraction=0)
    write_table([sample.path.read_bytes() for sample in images], images.labels, images.classes, folder / "hf")
    return {"folder": images, "hf": HfDataset(folder / "hf", "train")}


def write_table(contents: list[bytes], labels: np.ndarray, classes: tuple[str, ...], folder: Path) -> None:
    """Write image files as a Hugging Face dataset."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(classes))}
    rows = {"image": [{"bytes": content, "path": None} for content in contents], "label": labels}
    datasets.Dataset.from_dict(rows, datasets.Features(features)).save_to_disk(folder)


def by_source(root: Path, repeats: int) -> dict[str, float]:
    """Return images per second from each source."""
    with tempfile.TemporaryDirectory() as folder:
        found = sources(root, Path(folder))
        batches = {name: [images for images, _ in loader(dataset)] for name, dataset in found.items()}
        if not all(map(torch.equal, batches["folder"], batches["hf"])):
            raise RuntimeError("the Hugging Face dataset gives other tensors than the folder")
        plain = plain_loader(root)
        speed = {"plain ImageFolder": rate(lambda: list(plain), len(found["folder"]), repeats)}
        for name, dataset in found.items():
            speed[name] = rate(lambda dataset=dataset: list(loader(dataset)), len(dataset), repeats)
        return speed


def step_rate(backbone: str, repeats: int, device: str) -> float:
    """Return images per second of float32 training steps of TS-CAM."""
    model = create_model("tscam", backbone, 200, pretrained=False).train().to(device)
    optimiser = make_optimiser(model, Optimisation())
    images, labels = torch.randn(BATCH, 3, 224, 224, device=device), torch.randint(200, (BATCH,), device=device)

    def step() -> None:
        model.loss(model(images), labels)["total"].backward()
        optimiser.step()
        optimiser.zero_grad()

    return 1e3 * BATCH / best_time(step, repeats, device)


def listing(count: int) -> str:
    """Return the time to open a Hugging Face dataset of ``count`` empty images with labels."""
    with tempfile.TemporaryDirectory() as name:
        classes = tuple(f"n{row:08d}" for row in range(1000))
        write_table([b""] * count, np.arange(count) % 1000, classes, Path(name))
        start = time.process_time()
        dataset = HfDataset(name, "train")
        return f"a Hugging Face dataset of {len(dataset):,} images is opened in {time.process_time() - start:.1f} s"


def table(title: str, columns: dict[str, dict[str, float]] | dict[str, dict[str, str]]) -> None:
    print(f"| {title} | " + " | ".join(columns) + " |\n" + "|---" * (1 + len(columns)) + "|")
    for name in next(iter(columns.values())):
        cells = (column[name] for column in columns.values())
        print(f"| {name} | " + " | ".join(cell if isinstance(cell, str) else f"{cell:.0f}" for cell in cells) + " |")
    print(flush=True)


def images_to_read(folder: Path, given: argparse.Namespace) -> dict[str, Path]:
    """Return folders of images by name."""
    roots = {given.root.name: some_of(given.root, folder / "real", given.images)} if given.root else {}
    for label in given.sizes:
        size = (int(label.partition("x")[0]), int(label.partition("x")[2]))
        count = given.images if size[0] < 1000 else max(CLASSES, given.images // 8)
        roots[label] = write_images(folder / label, count, size)
    return roots


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="an eighth as many of large ones")
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--root", type=Path, help="a folder by class of real images")
    parser.add_argument("--backbones", nargs="*", default=["vit_tiny_patch16_224", "deit_small_patch16_224"])
    parser.add_argument("--device", default="cpu", help="of the training steps")
    parser.add_argument("--listed", type=int, default=1_000_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{setting(given.device)}, Pillow {PIL.__version__}\n\n{listing(given.listed)}\n", flush=True)
    by_stage, by_read, by_other = {}, {}, {}
    with tempfile.TemporaryDirectory() as name:
        for label, root in images_to_read(Path(name), given).items():
            dataset = create_dataset("folder", root, "train", val_fraction=0, test_fraction=0)
            by_stage[label], by_other[label] = stages(dataset, given.repeats), alternatives(dataset, given.repeats)
            by_read[label] = by_source(root, given.repeats)
            kilobytes = sum(sample.path.stat().st_size for sample in dataset) / len(dataset) / 1000
            print(f"{label}: {kilobytes:.0f} KB each", flush=True)
    print()
    table("images per second and core", by_stage)
    table("read from", by_read)
    table("other ways", by_other)
    for backbone in given.backbones:
        speed = step_rate(backbone, given.repeats, given.device)
        print(f"training steps of TS-CAM on {backbone}: {speed:.1f} images per second", flush=True)


if __name__ == "__main__":
    main()
