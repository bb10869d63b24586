"""``tokenloc inspect``: drawings of what is inside a model for an image."""

from __future__ import annotations

from pathlib import Path

from tokenloc._files import UniqueNames, refuse_unwritable
from tokenloc.commands.console import print_message
from tokenloc.data import find_images, read_image
from tokenloc.export.base import valid_text
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.inference.inspection import inspect_image
from tokenloc.inference.options import DEFAULT_OPTIONS
from tokenloc.models.checkpoint import OptionValue
from tokenloc.reporting.drawing import reduced
from tokenloc.reporting.inside import save_inspection


def inspect(
    checkpoint: Path,
    inputs: list[Path],
    *,
    out: Path,
    method_options: dict[str, OptionValue] | None = None,
    options: PredictionOptions = DEFAULT_OPTIONS,
    classes: int = 5,
    channels: int = 8,
    device: str = "auto",
) -> Path:
    """Draw what is inside a model for images: maps, attention of each block, similarity of patches, and features.

    Writes into a folder for each image maps.png, the method's intermediate maps; figures.png, further maps of the
    paper's figures, such as SCM's Figs. 8 and 9; classes.png; refinement.png, the stages of the steps of refinement;
    attention.png; similarity.png; and features.png, as far as the model has them.

    Args:
        checkpoint: a file such as RUN/checkpoints/best.ckpt, a folder that was saved for sharing, or hf-hub:USER/NAME.
        inputs: images and folders of images.
        out: the output folder; it is created.
        method_options: values of the method's test-time options, such as map, instead of those of the training.
        options: test-time augmentation, refinement and precision, of classes.png and refinement.png.
        classes: number of classes in classes.png, the most probable ones.
        channels: number of channels of each block in features.png.
        device: auto, cpu, cuda or mps.
    """
    if classes < 1 or channels < 1:
        raise ValueError(f"classes and channels must be at least 1; got {classes} and {channels}")
    files, names = find_images(inputs), UniqueNames("", longest=240)
    refuse_unwritable(out)
    localizer = Localizer.from_checkpoint(checkpoint, device, options=options, method_options=method_options)
    for file in files:
        folder = out / names.take(valid_text(file.stem))
        image = reduced(read_image(file))
        paths = save_inspection(image, inspect_image(localizer, image, classes), folder, channels)
        print_message(f"{folder}: {', '.join(path.name for path in paths)}")
    return out
