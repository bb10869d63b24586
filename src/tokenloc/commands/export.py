"""``tokenloc export``: a trained model as a file that runs without tokenloc."""

from __future__ import annotations

from pathlib import Path

from tokenloc._files import refuse_unwritable, remove_partial_files
from tokenloc.commands.console import print_message
from tokenloc.export.base import refuse_existing
from tokenloc.export.onnx_graph import Maps, export_onnx
from tokenloc.models.checkpoint import OptionValue, load_checkpoint


def export(
    checkpoint: Path,
    *,
    out: Path = Path("model.onnx"),
    maps: Maps = "top",
    method_options: dict[str, OptionValue] | None = None,
    overwrite: bool = False,
) -> Path:
    """Export a model to ONNX, with its classes, preprocessing and threshold.

    The file turns pixels into logits and maps. It is compared with PyTorch before it is written.

    Args:
        checkpoint: a file such as RUN/checkpoints/best.ckpt, a folder that was saved for sharing, or hf-hub:USER/NAME.
        out: the file to write.
        maps: top for the map of the most probable class, all for the maps of every class.
        method_options: values of the method's test-time options, such as map, instead of those of the training.
        overwrite: replace an existing file.
    """
    refuse_unwritable(out.parent)
    refuse_existing(out, overwrite)
    remove_partial_files(out.parent, locked=False)
    model, metadata = load_checkpoint(checkpoint, method_options)
    difference = export_onnx(model, metadata, out, maps, overwrite)
    print_message(f"{out}: differs from PyTorch by at most {difference:.1e} of the largest value")
    return out
