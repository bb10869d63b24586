"""Annotation files in the formats of other tools, one module per format; ONNX; localization on Ray."""

from tokenloc.export.base import FORMATS, Destination, Format, common_folder, list_formats, write_annotations
from tokenloc.export.coco import COCO
from tokenloc.export.label_studio import LABEL_STUDIO
from tokenloc.export.ray_data import localize_dataset
from tokenloc.export.tables import CSV, PARQUET
from tokenloc.export.voc import VOC
from tokenloc.export.yolo import YOLO

__all__ = [
    "COCO",
    "CSV",
    "FORMATS",
    "LABEL_STUDIO",
    "PARQUET",
    "VOC",
    "YOLO",
    "Destination",
    "Format",
    "common_folder",
    "list_formats",
    "localize_dataset",
    "write_annotations",
]
