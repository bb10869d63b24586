"""Pictures of what a model found."""

from tokenloc.reporting.pictures import (
    draw_localization,
    heatmap,
    save_picture,
    sheet,
    table_of_pictures,
    with_boxes,
)

__all__ = ["draw_localization", "heatmap", "save_picture", "sheet", "table_of_pictures", "with_boxes"]
