"""Pictures of what a model found."""

from tokenloc.reporting.pictures import (
    draw_localization,
    heatmap,
    one_above_another,
    save_picture,
    sheet,
    table_of_pictures,
    with_boxes,
)

__all__ = [
    "draw_localization",
    "heatmap",
    "one_above_another",
    "save_picture",
    "sheet",
    "table_of_pictures",
    "with_boxes",
]
