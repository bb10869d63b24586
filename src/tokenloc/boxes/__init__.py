"""Boxes: the frame between original and input pixels, IoU, protocols, and boxes out of maps."""

from tokenloc.boxes.confidence import DetectedBoxes, box_confidence, detect_boxes
from tokenloc.boxes.extraction import BoxScan, Components, find_components, largest_boxes, scan_boxes
from tokenloc.boxes.frame import Frame, Size
from tokenloc.boxes.iou import best_iou, box_faults, box_iou, compared_boxes, possible_boxes, truth_boxes
from tokenloc.boxes.maps import prepare_map, quantised_map, ready_map, scaled_map
from tokenloc.boxes.protocols import Protocol, get_protocol, list_protocols, threshold_grid

__all__ = [
    "BoxScan",
    "Components",
    "DetectedBoxes",
    "Frame",
    "Protocol",
    "Size",
    "best_iou",
    "box_confidence",
    "box_faults",
    "box_iou",
    "compared_boxes",
    "detect_boxes",
    "find_components",
    "get_protocol",
    "largest_boxes",
    "list_protocols",
    "possible_boxes",
    "prepare_map",
    "quantised_map",
    "ready_map",
    "scaled_map",
    "scan_boxes",
    "threshold_grid",
    "truth_boxes",
]
