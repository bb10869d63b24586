"""Boxes in the formats of annotation tools: one file each, written as images come, whole or not at all."""

from tokenloc.export.base import (
    FORMATS,
    Destination,
    Format,
    Result,
    check_writing,
    common_folder,
    list_formats,
    writing,
)
from tokenloc.export.coco import COCO
from tokenloc.export.csv_table import CSV
from tokenloc.export.label_studio import LABEL_STUDIO
from tokenloc.export.parquet import PARQUET
from tokenloc.export.ray_data import localize_dataset
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
    "Result",
    "check_writing",
    "common_folder",
    "list_formats",
    "localize_dataset",
    "writing",
]
