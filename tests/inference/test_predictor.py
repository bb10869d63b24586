"""Prediction options: scales, mirrors, ten crops, refinement, precision."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import map_coordinates
from torch import Tensor, nn
from torchvision.transforms import v2

from tests.runs import TINY_VIT, prediction_options
from tokenloc.boxes import get_protocol
from tokenloc.commands.evaluate import calibrate, evaluate
from tokenloc.commands.localize import localize
from tokenloc.commands.thresholds import calibration_note
from tokenloc.data import Preprocessing, create_dataset
from tokenloc.inference import Localizer, Prediction, PredictionOptions, Predictor
from tokenloc.inference.views import View
from tokenloc.methods import Method
from tokenloc.models import create_model
from tokenloc.models.checkpoint import read_metadata
from tokenloc.refinement import refine
from tokenloc.training.config import DataSource

PREPROCESSING = Preprocessing((32, 32), (36, 36), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def make(method: str = "tscam", **options: object) -> Method:
    torch.manual_seed(0)
    return create_model(
        method, "vit_tiny_patch16_224", 4, False, image_size=32, backbone_options=TINY_VIT, **options
    ).eval()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    scenes = create_dataset("scenes", None, "test", size=(90, 61), length=3)
    return [scenes.image(index) for index in range(3)]


def predictor(model: Method, protocol: str = "sat", **flags: Any) -> Predictor:
    return Predictor(model, PREPROCESSING, prediction_options(**flags), get_protocol(protocol))


def class_maps(model: Method, images: list[Image.Image], protocol: str = "sat", **flags: Any) -> tuple[Tensor, Tensor]:
    used = predictor(model, protocol, **flags)
    return logits_and_maps(used, torch.stack([used.transform(image)[0] for image in images]))


def logits_and_maps(used: Predictor, images: Tensor, classes: Tensor | int = 1) -> tuple[Tensor, Tensor]:
    predicted = used.class_maps(images, classes)
    return predicted.logits, predicted.maps


def preprocessed(image: Image.Image, resize: int, crop: int) -> Tensor:
    """Preprocess as in the paper: resize, centre crop, mean and standard deviation 0.5."""
    steps = [v2.Resize((resize, resize), antialias=True), v2.CenterCrop(crop), v2.PILToTensor()]
    return v2.Compose(steps)(image).float()[None] / 255 * 2 - 1


def scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    return (maps - low) / (high - low)


def test_default_options_predict_like_the_model(images: list[Image.Image]) -> None:
    model = make()
    logits, maps = class_maps(model, images)
    with torch.no_grad():
        expected = [model.localize(preprocessed(image, 36, 32)) for image in images]
    torch.testing.assert_close(logits, torch.cat([one for one, _ in expected]))
    torch.testing.assert_close(maps, torch.cat([map_ for _, map_ in expected]))


def test_another_scale_covers_the_same_region(images: list[Image.Image]) -> None:
    model = make()
    logits, maps = class_maps(model, images[:1], scales=(64,))
    with torch.no_grad():
        expected_logits, expected = model.localize(preprocessed(images[0], 72, 64))
    assert maps.shape == (1, 1, 8, 8)
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(maps, expected)
    assert predictor(model, scales=(64,)).transform(images[0])[1] == predictor(model).transform(images[0])[1]


def test_scales_and_mirrors_are_averaged(images: list[Image.Image]) -> None:
    model = make()
    logits, maps = class_maps(model, images[:1], "standard", scales=(32, 64), flip=True)
    large = predictor(model, "standard", scales=(64,)).transform(images[0])[0][None]
    small = F.interpolate(large, (32, 32), mode="bilinear", antialias=True)
    views = [(small, False), (small.flip(-1), True), (large, False), (large.flip(-1), True)]
    with torch.no_grad():
        scores = [model.class_maps(view)[0] for view, _ in views]
        expected_logits = sum(scores) / 4
        index = expected_logits.argmax(1, keepdim=True)
        each = [scaled(model.localize(view, index)[1]) for view, _ in views]
    turned = [map_.flip(-1) if mirrored else map_ for map_, (_, mirrored) in zip(each, views, strict=True)]
    expected = sum(F.interpolate(map_, (8, 8), mode="bilinear") for map_ in turned) / 4
    torch.testing.assert_close(logits, expected_logits)
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize(("scales", "flip", "shifts"), [((32,), False, 2), ((32,), False, 3), ((32, 64), True, 2)])
def test_shifts_are_moved_back_and_averaged(
    images: list[Image.Image], scales: tuple[int, ...], flip: bool, shifts: int
) -> None:
    model, patch = make(), 8
    image = predictor(model, "standard", scales=scales).transform(images[0])[0]
    cells = max(scales) // patch * shifts
    centres, each, scores = (np.arange(cells) + 0.5) / cells, [], []
    offsets = {2: (-2, 2), 3: (-3, 0, 3)}[shifts]  # a half and a third of 8 pixels apart, rounded
    for side in scales:
        view = F.interpolate(image[None], (side, side), mode="bilinear", antialias=True)[0].numpy()
        padded = np.pad(view, ((0, 0), (4, 4), (4, 4)), "reflect")
        for y, x, mirrored in product(offsets, offsets, (False, True)[: 1 + flip]):
            moved = padded[:, 4 - y : 4 - y + side, 4 - x : 4 - x + side][..., :: -1 if mirrored else 1]
            with torch.no_grad():
                logits, maps = model.localize(torch.from_numpy(moved.copy())[None], torch.tensor([[1]]))
            scores.append(logits)
            map_ = scaled(maps)[0, 0].numpy()[:, :: -1 if mirrored else 1]
            rows, columns = ((centres * side + by) / patch - 0.5 for by in (y, x))
            each.append(map_coordinates(map_, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="nearest"))
    used = predictor(model, "standard", scales=scales, flip=flip, shifts=shifts)
    logits, maps = logits_and_maps(used, image[None], torch.tensor([[1]]))
    np.testing.assert_allclose(maps[0, 0], np.mean(each, axis=0), atol=1e-5)
    torch.testing.assert_close(logits, sum(scores) / len(scores))


def test_a_shift_moves_the_map_with_the_image() -> None:
    image = torch.arange(48.0).mul(3)[:, None] + torch.arange(64.0)  # 3 y + x, which patch means and bilinear keep
    patches, view = nn.AvgPool2d(8), View((64, 48), shift=(3, -2))
    found = view.map_back(patches(view.of(image[None, None])), (12, 16))[0, 0]
    expected = nn.AvgPool2d(4)(image[None])[0]
    inside = (slice(2, -2), slice(2, -2))  # beyond the outermost patch centres, maps are constant
    torch.testing.assert_close(found[inside], expected[inside])
    assert not torch.allclose(View((64, 48)).map_back(patches(view.of(image[None, None])), (12, 16))[0, 0], expected)


def test_with_flip_a_mirrored_image_gives_the_mirrored_map(images: list[Image.Image]) -> None:
    used = predictor(make(), flip=True)
    batch = torch.stack([used.transform(image)[0] for image in images])
    logits, maps = logits_and_maps(used, batch)
    mirrored_logits, mirrored = logits_and_maps(used, batch.flip(-1))
    torch.testing.assert_close(mirrored.flip(-1), maps)
    torch.testing.assert_close(mirrored_logits, logits)


def test_ten_crops_change_the_logits_only(images: list[Image.Image]) -> None:
    model = make()
    plain, plain_maps = class_maps(model, images[:1])
    logits, _ = class_maps(model, images[:1], ten_crop=True)
    whole = preprocessed(images[0], 36, 36)
    corners = [whole[..., y : y + 32, x : x + 32] for y, x in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))]
    with torch.no_grad():
        crops = [model.class_maps(view)[0] for crop in corners for view in (crop, crop.flip(-1))]
    mean = torch.stack([scores.softmax(dim=1) for scores in crops]).mean(0)
    torch.testing.assert_close(logits.softmax(dim=1), mean)
    assert not torch.allclose(mean, torch.stack(crops).mean(0).softmax(dim=1), rtol=1e-4)  # of the mean logits
    assert not torch.allclose(logits, plain)
    used = predictor(model, ten_crop=True)
    _, maps = logits_and_maps(used, used.transform(images[0])[0][None], plain.argmax(1, keepdim=True))
    torch.testing.assert_close(maps, plain_maps)


def test_ten_crops_of_a_whole_image_frame(images: list[Image.Image]) -> None:
    used = predictor(make(), "standard", ten_crop=True)
    image, frame = used.transform(images[0])
    _, maps = logits_and_maps(used, image[None])
    assert image.shape == (3, 36, 36)
    assert maps.shape == (1, 1, 4, 4)
    assert frame.input_size == (32, 32)


def test_maps_are_refined_with_the_input_pixels_in_float32(images: list[Image.Image]) -> None:
    model = make()
    _, plain = class_maps(model, images)
    _, refined = class_maps(model, images, refine=("affinity",))
    rgb = torch.cat([preprocessed(image, 36, 32) for image in images]) / 2 + 0.5
    torch.testing.assert_close(refined, refine(plain, rgb, ["affinity"]))
    assert refined.shape == (3, 1, 32, 32)
    assert class_maps(model, images, fast=True, refine=("affinity",))[1].dtype == torch.float32


def test_the_steps_of_a_method_are_the_default(images: list[Image.Image]) -> None:
    model = make("lcar", refinement=["affinity"])
    assert class_maps(model, images)[1].shape[-2:] == (32, 32)
    assert class_maps(model, images, refine=())[1].shape[-2:] == (4, 4)
    torch.testing.assert_close(class_maps(model, images)[1], class_maps(model, images, refine=("affinity",))[1])
    once = {"affinity": {"iterations": 1}}
    changed = class_maps(make("lcar", refinement=[once]), images)[1]
    torch.testing.assert_close(changed, class_maps(model, images, refine=(once,))[1])
    assert not changed.allclose(class_maps(model, images)[1])


def test_rectangular_inputs_keep_their_aspect_ratio(images: list[Image.Image]) -> None:
    used = Predictor(make(), Preprocessing((48, 32), (54, 36)), prediction_options(scales=(64,)))
    image, _ = used.transform(images[0])
    assert image.shape == (3, 64, 96)
    assert used.class_maps(image[None]).maps.shape == (1, 1, 8, 12)


def test_a_scale_that_is_no_multiple_of_the_patch_is_refused(images: list[Image.Image]) -> None:
    with pytest.raises(ValueError, match="60 x 60 pixels.*do not divide into the 8 x 8 patches"):
        class_maps(make(), images, scales=(60,))


def test_more_shifts_than_pixels_of_a_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="at most the 8 pixels of a patch; got 9"):
        predictor(make(), shifts=9)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"scales": (0,)}, r"different sides of at least 1 pixel; got \[0\]"),
        ({"scales": (224, 224)}, r"different sides of at least 1 pixel; got \[224, 224\]"),
        ({"shifts": 0}, "shifts must be at least 1; got 0"),
        ({"refine": ("afinity",)}, "unknown refinement step 'afinity'; did you mean 'affinity'"),
    ],
)
def test_invalid_options_are_refused(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prediction_options(**flags)


def test_python_and_command_line_agree(run: Path, tmp_path: Path, images: list[Image.Image]) -> None:
    checkpoint = run / "checkpoints/best.ckpt"
    options = prediction_options(scales=(32, 48), flip=True, shifts=2, refine=("affinity",))
    result = Localizer.from_checkpoint(checkpoint, "cpu", threshold=0.4, options=options)(images[0])
    images[0].save(tmp_path / "one.png")
    written = localize(checkpoint, [tmp_path / "one.png"], out=tmp_path / "out", threshold=0.4, options=options)
    assert f'"boxes": {result.boxes.round(2).tolist()}'.replace(" ", "") in "".join(written.read_text().split())
    assert result.map.shape == (32, 32)


def test_a_threshold_stores_the_options_it_was_chosen_for(run: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints/copy.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes((run / "checkpoints/best.ckpt").read_bytes())
    calibrate(checkpoint, data=DataSource(), split="val", options=prediction_options(scales=(48,)), device="cpu")
    threshold = read_metadata(checkpoint).threshold
    assert threshold is not None
    assert threshold.options == "scales 48"
    assert "protocol standard, scales 48" in threshold.source
    path = evaluate(checkpoint, data=DataSource(), options=prediction_options(flip=True), device="cpu")
    assert "but for other options (scales 48, not flip)" in path.read_text()
    assert '"viewing": "flip"' in path.read_text()


def test_the_note_on_other_options(run: Path) -> None:
    metadata = read_metadata(run / "checkpoints/best.ckpt")
    assert calibration_note(metadata, PredictionOptions(), ()) == ""
    assert "(plain, not flip)" in calibration_note(metadata, prediction_options(flip=True), ())
    assert calibration_note(metadata, PredictionOptions(fast=True), ()) == ""
    assert calibration_note(metadata, PredictionOptions(refine=()), ()) == ""
    assert "refine none" in calibration_note(metadata, PredictionOptions(refine=()), ("affinity",))
    assert metadata.threshold is not None
    explicit = replace(metadata, threshold=replace(metadata.threshold, options="refine affinity"))
    assert calibration_note(explicit, PredictionOptions(), ("affinity",)) == ""


def test_intermediate_maps_cover_the_image(run: Path, images: list[Image.Image]) -> None:
    localizer = Localizer.from_checkpoint(
        run / "checkpoints/best.ckpt", "cpu", options=prediction_options(scales=(48,), flip=True)
    )
    maps = localizer.intermediate_maps(images[0])
    assert list(maps) == ["attention", "semantic map"]
    for map_ in maps.values():
        assert map_.shape == (61, 90)
        assert (map_.min(), map_.max()) == (pytest.approx(0, abs=0.1), pytest.approx(1, abs=0.1))
    assert (run / "figures/parts.png").is_file()


def test_fast_multiplies_in_bfloat16_and_predicts_nearly_the_same(images: list[Image.Image]) -> None:
    model, products = make(), set()
    for layer in filter(lambda layer: isinstance(layer, torch.nn.Linear), model.modules()):
        layer.register_forward_hook(lambda _layer, _inputs, output: products.add(output.dtype))
    logits, maps = class_maps(model, images, flip=True, fast=True)
    assert products == {torch.bfloat16}
    expected_logits, expected = class_maps(model, images, flip=True)
    assert 0 < (logits.float() - expected_logits).abs().max() < 0.02 * expected_logits.abs().max()
    torch.testing.assert_close(maps.float(), expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("orientation", [1, 6])
def test_fast_decodes_large_images_at_a_reduced_size(
    run: Path, tmp_path: Path, images: list[Image.Image], orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, exif = tmp_path / "large.jpg", Image.Exif()
    exif[0x0112] = orientation
    images[0].resize((1440, 976), Image.Resampling.BICUBIC).save(path, quality=95, exif=exif)
    plain, fast = (
        Localizer.from_checkpoint(run / "checkpoints/best.ckpt", "cpu", options=PredictionOptions(fast=chosen))
        for chosen in (False, True)
    )
    assert fast.options.fast
    sizes: list[tuple[int, int]] = []
    transform = fast.predictor.transform
    monkeypatch.setattr(fast.predictor, "transform", lambda image: (sizes.append(image.size), transform(image))[1])
    expected, result = plain(path), fast(path)
    assert result.size == expected.size == ((1440, 976) if orientation == 1 else (976, 1440))
    np.testing.assert_allclose(result.map, expected.map, atol=0.06)
    np.testing.assert_allclose(result.frame.scale, expected.frame.scale, rtol=1e-12)
    assert sizes == [(180, 122) if orientation == 1 else (122, 180)]
    (found,) = fast.predict([path], keep_images=True)
    assert isinstance(found, Prediction)
    assert found.image is not None
    assert found.image.size == expected.size  # what is drawn on is whole


def test_refinement_maps_end_with_the_map_of_the_prediction(images: list[Image.Image]) -> None:
    model = make("lcar", refinement=[{"affinity": {"iterations": 3}}])
    predictor = Predictor(model, PREPROCESSING, prediction_options(scales=(32, 48)))
    inputs = torch.stack([predictor.transform(image)[0] for image in images])
    maps = predictor.refinement_maps(inputs)
    assert list(maps) == ["map", *(f"affinity, iteration {count}" for count in (1, 2, 3))]
    assert maps["map"].shape == (3, 1, 6, 6)
    assert torch.equal(maps["affinity, iteration 3"], predictor.class_maps(inputs).maps)
