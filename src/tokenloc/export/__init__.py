"""Annotation files in the formats of other tools, one module per format; ONNX; localization on Ray."""

from importlib import import_module

from tokenloc.export.base import FORMATS, Destination, Format, common_folder, write_annotations
from tokenloc.export.ray_data import localize_dataset
from tokenloc.export.tables import to_pandas

__all__ = ["FORMATS", "Destination", "Format", "common_folder", "localize_dataset", "to_pandas", "write_annotations"]

for _format in ("coco", "label_studio", "tables", "voc", "yolo"):
    import_module(f"{__name__}.{_format}")  # registers the format
