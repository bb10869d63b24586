"""The choice of the best epoch: by validation labels, by evidence, which needs these alone, or by validation boxes."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from tokenloc.boxes import Protocol
from tokenloc.data import ImageDataset, Preprocessing
from tokenloc.inference.calibration import evidence_beyond_area, evidence_tables
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.methods import Method
from tokenloc.metrics import Scorer
from tokenloc.metrics.scores import BestThreshold
from tokenloc.training.config import DataConfig, Select
from tokenloc.training.module import LocalizationTask

THRESHOLDS = (0.1, 0.2, 0.3, 0.45)  # of the evidence of an epoch, which is that at the best of them
WATCHED = 48  # validation images, at most, for the evidence of an epoch


class Selection(Callback):
    """Logs ``val/METRIC``, which chooses the best epoch; raises ValueError if it needs boxes and there are none."""

    def __init__(
        self, data: DataConfig, val: ImageDataset | None, preprocessing: Preprocessing, protocol: Protocol, workers: int
    ) -> None:
        self.metric, self.logged = data.select, f"val/{data.select}"
        self.val, self.preprocessing, self.workers = val, preprocessing, workers
        self.scorer = Scorer(protocol, best=best_threshold(data.select))
        what = "images" if self.metric == "evidence" else "boxes"
        if self.metric != "top1_cls" and (val is None or (what == "boxes" and not val.has_boxes)):
            lacking = "data.val_split is not set" if val is None else f"{val.split} of {val.name} has no boxes"
            raise ValueError(f"data.select={self.metric!r} chooses the best epoch by validation {what}, but {lacking}")

    def on_validation_epoch_end(self, _: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the metric of the epoch; ``LocalizationTask`` logs ``top1_cls``."""
        if self.metric != "top1_cls" and self.val is not None and isinstance(pl_module, LocalizationTask):
            pl_module.log(self.logged, self._measured(pl_module.model, self.val), prog_bar=True)

    def _measured(self, model: Method, val: ImageDataset) -> float:
        """Return the metric, in percent."""
        if self.metric == "evidence":
            settings: dict[str, Any] = {"thresholds": THRESHOLDS, "most": WATCHED, "workers": self.workers}
            tables = evidence_tables(model, val, self.preprocessing, self.scorer.protocol, **settings)
            return 100.0 * float(evidence_beyond_area(tables).max())
        result = evaluate_model(model, val, self.preprocessing, self.scorer, workers=self.workers)
        return float(getattr(result.evaluation, self.metric))


def best_threshold(select: Select) -> BestThreshold:
    """Return what the best map threshold maximizes if ``select`` chooses the epoch."""
    return select if select == "gt_known_plus_top1_loc" else "gt_known"


def describe_selection(config: DataConfig) -> str:
    """Return how the best epoch is chosen, marked as an oracle if that uses the test images."""
    if config.val_split is None:
        return "the last one"
    oracle = "; chosen on the very images that are measured, as an oracle"
    chosen = f"the best {config.select} on {config.val_split} of {config.name}"
    return chosen + (oracle if config.val_split == config.test_split else "")
