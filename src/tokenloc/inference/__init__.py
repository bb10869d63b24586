"""From a checkpoint to boxes on a person's own images."""

from tokenloc.inference.localization import Localization, LocalizationRecord
from tokenloc.inference.localizer import Localizer, Prediction, choose_device
from tokenloc.inference.predictor import PredictionOptions

__all__ = ["Localization", "LocalizationRecord", "Localizer", "Prediction", "PredictionOptions", "choose_device"]
