"""From a checkpoint to boxes on a person's own photographs."""

from tokenloc.inference.localization import Finding, Localization
from tokenloc.inference.localizer import Found, Localizer, choose_device
from tokenloc.inference.viewing import Viewing

__all__ = ["Finding", "Found", "Localization", "Localizer", "Viewing", "choose_device"]
