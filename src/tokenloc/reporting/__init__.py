"""Images of what a model found."""

from tokenloc.reporting.drawing import (
    draw_localization,
    heatmap,
    one_above_another,
    save_image,
    sheet,
    table_of_images,
    with_boxes,
)

__all__ = [
    "draw_localization",
    "heatmap",
    "one_above_another",
    "save_image",
    "sheet",
    "table_of_images",
    "with_boxes",
]
