"""Drawings of localizations, charts, and the HTML report."""

from tokenloc.reporting.drawing import (
    draw_boxes,
    draw_localization,
    draw_map,
    heatmap,
    image_table,
    save_image,
    sheet,
    stack,
)

__all__ = ["draw_boxes", "draw_localization", "draw_map", "heatmap", "image_table", "save_image", "sheet", "stack"]
