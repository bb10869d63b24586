"""Transforms: equal to the fixtures, with the frame of the actual crop."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tokenloc.boxes.frame import Frame
from tokenloc.data import Preprocessing, read_image, transforms

HALF = (0.5, 0.5, 0.5)


def _image(size: tuple[int, int] = (50, 37)) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def test_the_centre_crop_equals_the_fixtures(parity_dir: Path, shared_dir: Path) -> None:
    inputs = np.load(parity_dir / "inputs.npz")
    transform = transforms.evaluation_transform(Preprocessing(mean=HALF, std=HALF), "crop")
    for expected, name in zip(inputs["images"], inputs["files"], strict=True):
        image = read_image(shared_dir / "data/cub10/CUB_200_2011/images" / str(name))
        tensor, frame = transform(image)
        assert tensor.dtype == torch.float32
        assert np.abs(tensor.numpy() - expected).max() < 1e-6
        assert frame == Frame.center_cropped(image.size, (256, 256), (224, 224))


@pytest.mark.parametrize("kind", ["crop", "resize"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_pixels_are_those_of_pillow(kind: str, interpolation: str) -> None:
    """The oracle: Pillow's resize, a slice, and arithmetic."""
    preprocessing = Preprocessing((20, 30), (26, 37), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7), interpolation)
    tensor, frame = transforms.evaluation_transform(preprocessing, "crop" if kind == "crop" else "resize")(_image())
    method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[interpolation]
    resized = np.asarray(_image().resize((26, 37) if kind == "crop" else (20, 30), method))
    if kind == "crop":
        top, left = round((37 - 30) / 2), round((26 - 20) / 2)
        resized = resized[top : top + 30, left : left + 20]
    expected = (resized / 255 - preprocessing.mean) / preprocessing.std
    assert tensor.shape == (3, 30, 20)
    np.testing.assert_allclose(tensor.numpy().transpose(1, 2, 0), expected, atol=1e-5)
    assert frame.input_size == (20, 30)
    assert frame.original_size == (50, 37)


@pytest.mark.parametrize("kind", ["crop", "resize"])
def test_the_frame_maps_boxes_onto_the_input(kind: str) -> None:
    """A white rectangle's box, mapped by the frame, is its box in the input."""
    image = Image.new("RGB", (401, 299))
    image.paste((255, 255, 255), (150, 80, 230, 190))
    preprocessing = Preprocessing((96, 64), (110, 80), HALF, HALF)
    tensor, frame = transforms.evaluation_transform(preprocessing, "crop" if kind == "crop" else "resize")(image)
    rows, columns = np.nonzero(tensor[0].numpy() > 0)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(frame.to_input([[150, 80, 230, 190]])[0], found, atol=0.6)


def test_training_crops_and_mirrors_randomly() -> None:
    preprocessing = Preprocessing((20, 30), (26, 37), HALF, HALF)
    transform = transforms.train_transform(preprocessing)
    torch.manual_seed(3)
    tensors = [transform(_image()) for _ in range(64)]
    assert {tuple(tensor.shape) for tensor in tensors} == {(3, 30, 20)}
    resized = np.asarray(_image().resize((26, 37), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 127.5 - 1
    crops = set()
    for tensor in tensors:
        for mirrored, top, left in np.ndindex(2, 8, 7):
            window = resized[:, top : top + 30, left : left + 20]
            if np.abs((window[..., ::-1] if mirrored else window) - tensor.numpy()).max() < 1e-5:
                crops.add((mirrored, top, left))
                break
        else:
            pytest.fail("a training image is not a crop of the resized image")
    assert {mirrored for mirrored, _, _ in crops} == {0, 1}
    assert len(crops) > 30
    torch.manual_seed(3)
    torch.testing.assert_close(transform(_image()), tensors[0], rtol=0, atol=0)


def test_values_are_bit_identical_to_torchvision() -> None:
    preprocessing = Preprocessing((20, 30), (20, 30))
    plain = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    plain.append(v2.Normalize(list(preprocessing.mean), list(preprocessing.std)))
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), np.uint8)
    tensor, _ = transforms.evaluation_transform(preprocessing, "resize")(Image.fromarray(pixels))
    assert torch.equal(tensor, v2.Compose(plain)(Image.fromarray(pixels)))


def test_preprocessing_survives_json() -> None:
    preprocessing = Preprocessing((20, 30), (26, 37), (0.1, 0.2, 0.3), HALF, "bicubic")
    read = Preprocessing(**json.loads(json.dumps(asdict(preprocessing))))
    assert read == preprocessing
    assert hash(read) == hash(preprocessing)


def test_the_evaluation_transform_is_picklable() -> None:
    transform = transforms.evaluation_transform(Preprocessing((20, 30), (26, 37)), "crop")
    tensor, frame = pickle.loads(pickle.dumps(transform))(_image())
    torch.testing.assert_close(tensor, transform(_image())[0], rtol=0, atol=0)
    assert frame == transform(_image())[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": (0, 224)}, r"size must be \(width, height\).*got \(0, 224\)"),
        ({"size": (448, 224)}, r"resize \(256, 256\) must be at least size \(448, 224\).*\(512, 256\) has the usual"),
        ({"mean": (0.5, 0.5)}, r"mean must be three numbers, got \(0.5, 0.5\)"),
        ({"std": (0.5, 0.0, 0.5)}, r"std must be three numbers above 0, got"),
        ({"interpolation": "bilinar"}, r"unknown interpolation 'bilinar'; did you mean 'bilinear'\?"),
    ],
)
def test_preprocessing_out_of_range_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


def test_unknown_names_are_refused() -> None:
    unknown: dict[str, object] = {"frame_kind": "corp"}
    with pytest.raises(ValueError, match=r"unknown frame kind 'corp'; did you mean 'crop'\? Valid: crop, resize"):
        transforms.evaluation_transform(Preprocessing(), **unknown)


@pytest.mark.parametrize("size", [(590, 169), (224, 257), (300, 300)])
@pytest.mark.parametrize("margin", [False, True])
def test_the_shorter_side_crop_is_where_its_frame_says(size: tuple[int, int], margin: bool) -> None:
    width, height = size
    ramp = np.linspace(0, 255, width)[None].repeat(height, axis=0).round().astype(np.uint8)
    preprocessing = Preprocessing((224, 224), (256, 256), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    image, frame = transforms.evaluation_transform(preprocessing, "shorter_side", margin=margin)(
        Image.fromarray(ramp).convert("RGB")
    )
    assert image.shape == ((3, 256, 256) if margin else (3, 224, 224))
    inner = image[0, 100, 16:240] if margin else image[0, 100]
    original = (np.arange(224) + 0.5 + frame.offset[0]) / frame.scale[0] - 0.5
    inside = (original > 2) & (original < width - 3)
    expected = original / (width - 1)
    np.testing.assert_allclose(inner.numpy()[inside], expected[inside], atol=1.5 / width + 1 / 255)
