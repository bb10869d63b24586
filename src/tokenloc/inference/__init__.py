"""Prediction with a trained model: from images to boxes."""

from tokenloc.inference.device import choose_device
from tokenloc.inference.localization import Localization, LocalizationRecord, Prediction
from tokenloc.inference.localizer import Localizer
from tokenloc.inference.options import PredictionOptions, TestTimeAugmentation
from tokenloc.inference.predictor import Predictor

__all__ = [
    "Localization",
    "LocalizationRecord",
    "Localizer",
    "Prediction",
    "PredictionOptions",
    "Predictor",
    "TestTimeAugmentation",
    "choose_device",
]
