"""From a checkpoint to boxes on a person's own photographs."""

from tokenloc.inference.localization import Localization
from tokenloc.inference.localizer import Localizer, choose_device

__all__ = ["Localization", "Localizer", "choose_device"]
