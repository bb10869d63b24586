"""Metrics: scores of single images, a table of them, and pure functions of that table. Nothing here imports torch."""

from tokenloc.metrics.bootstrap import bootstrap_intervals
from tokenloc.metrics.errors import ERROR_CATEGORIES, error_categories
from tokenloc.metrics.evaluation import Evaluation, Oracle, evaluate
from tokenloc.metrics.images import ImageRow, image_row
from tokenloc.metrics.intervals import iou_by_size
from tokenloc.metrics.reference import constant_box_iou
from tokenloc.metrics.scores import ImageScores, Scorer
from tokenloc.metrics.table import ScoreTable

__all__ = [
    "ERROR_CATEGORIES",
    "Evaluation",
    "ImageRow",
    "ImageScores",
    "Oracle",
    "ScoreTable",
    "Scorer",
    "bootstrap_intervals",
    "constant_box_iou",
    "error_categories",
    "evaluate",
    "image_row",
    "iou_by_size",
]
