"""Metrics: pure statistics of counts, which the torchmetrics class in ``tokenloc.metrics.localization`` adds up.

That class is not imported here, so that scores and statistics need no torch.
"""

from tokenloc.metrics.curves import IouDistribution, iou_by_size, iou_distribution
from tokenloc.metrics.errors import ERROR_CATEGORIES, error_categories, error_category
from tokenloc.metrics.evaluation import Evaluation, Oracle, evaluate
from tokenloc.metrics.reference import constant_box_accuracy
from tokenloc.metrics.scores import BoxScores, ImageScores, score_image, scored_thresholds, top_classes
from tokenloc.metrics.totals import IOU_LEVELS, Totals

__all__ = [
    "ERROR_CATEGORIES",
    "IOU_LEVELS",
    "BoxScores",
    "Evaluation",
    "ImageScores",
    "IouDistribution",
    "Oracle",
    "Totals",
    "constant_box_accuracy",
    "error_categories",
    "error_category",
    "evaluate",
    "iou_by_size",
    "iou_distribution",
    "score_image",
    "scored_thresholds",
    "top_classes",
]
