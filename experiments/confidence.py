"""The regression behind the confidence of boxes, and its evaluation: docs/box_confidence.md.

    python experiments/confidence.py measure CHECKPOINT TABLE.npz [--root …] [--split train] [--every 4] [--options …]
    python experiments/confidence.py fit TRAIN.npz …
    python experiments/confidence.py report TEST.npz … [--figure reliability.png]

``measure`` stores the signals of the boxes of the true class at several thresholds, and their IoU with the truth.
``fit`` prints the coefficients of ``tokenloc.boxes.confidence``, fitted to all tables together, each with the same
weight. ``report`` prints AUROC and AURC of boxes with an IoU below 0.5, in percent, for the confidence and for the
product that it replaced, and draws how many boxes are right at each confidence. Protocol standard.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from tokenloc.boxes import box_iou, largest_boxes, prepare_map
from tokenloc.boxes.confidence import WITH_EVIDENCE, WITHOUT_EVIDENCE, evidence_signals, regression, box_signals
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.data import evaluation_loader
from tokenloc.inference import Localizer, PredictionOptions
from tokenloc.inference.evidence import box_mask
from tokenloc.metrics.risk_coverage import aurc
from tokenloc.training.config import DataSource

Array = NDArray[np.float64]
Table = Mapping[str, Array]
"""Signals by name, and ``iou``: [N] each, one box of one image at one threshold."""
EOF_MARK = 0
