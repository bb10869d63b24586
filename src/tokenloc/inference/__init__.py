"""From a checkpoint to boxes on a person's own photographs."""

from tokenloc.inference.localization import Localization
from tokenloc.inference.localizer import Localizer, choose_device
from tokenloc.inference.viewing import Viewing

__all__ = ["Localization", "Localizer", "Viewing", "choose_device"]
