"""The choice of the best epoch: by validation labels, or by validation boxes."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback

from tokenloc.boxes import Protocol
from tokenloc.data import ImageDataset, Preprocessing
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.metrics import Scorer
from tokenloc.metrics.scores import BestThreshold
from tokenloc.training.config import DataConfig, Select
from tokenloc.training.module import LocalizationTask


class Selection(Callback):
    """Logs ``val/METRIC``, which chooses the best epoch; raises ValueError if it needs boxes and there are none."""

    def __init__(
        self, data: DataConfig, val: ImageDataset | None, preprocessing: Preprocessing, protocol: Protocol, workers: int
    ) -> None:
        self.metric, self.logged = data.select, f"val/{data.select}"
        self.val, self.preprocessing, self.workers = val, preprocessing, workers
        self.scorer = Scorer(protocol, best=best_threshold(data.select))
        if self.metric != "top1_cls" and (val is None or not val.has_boxes):
            lacking = "data.val_split is not set" if val is None else f"{val.split} of {val.name} has no boxes"
            raise ValueError(f"data.select={self.metric!r} chooses the best epoch by validation boxes, but {lacking}")

    def on_validation_epoch_end(self, _: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the metric of the epoch; ``LocalizationTask`` logs ``top1_cls``."""
        if self.metric != "top1_cls" and self.val is not None and isinstance(pl_module, LocalizationTask):
            model = pl_module.model
            result = evaluate_model(model, self.val, self.preprocessing, self.scorer, workers=self.workers)
            pl_module.log(self.logged, float(getattr(result.evaluation, self.metric)), prog_bar=True)


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
