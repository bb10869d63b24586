"""``tokenloc export``: a trained model as a file that runs without tokenloc."""

from __future__ import annotations

from pathlib import Path

from tokenloc.commands.console import print_message
from tokenloc.export.onnx_graph import Maps, export_onnx
from tokenloc.models.checkpoint import load_checkpoint


def export(checkpoint: Path, *, out: Path = Path("model.onnx"), maps: Maps = "top", overwrite: bool = False) -> Path:
    """Write a model as an ONNX file, with classes, preprocessing and threshold in it.

    The file takes pixels and gives logits and maps. It is compared with torch before it is kept.

    Args:
        checkpoint: a checkpoint of `tokenloc train`, such as RUN/checkpoints/best.ckpt; a folder that was saved for
            sharing; or hf-hub:USER/NAME.
        out: the file to write.
        maps: top for the map of the most probable class, all for the maps of every class.
        overwrite: replace a file that exists already.

    Returns:
        the file.
    """
    model, metadata = load_checkpoint(checkpoint)
    difference = export_onnx(model, metadata, out, maps, overwrite)
    print_message(f"{out}: agrees with torch to {difference:.1e}")
    return out
