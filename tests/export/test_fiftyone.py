"""FiftyOne datasets, if FiftyOne is installed and its database starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.export.examples import localization
from tokenloc.boxes import Frame
from tokenloc.export import fiftyone as adapter
