"""The choice of the best epoch: by validation labels, or by validation boxes."""

from __future__ import annotations

from collections.abc import Callable

import lightning as L
from lightning.pytorch.callbacks import Callback

from tokenloc.boxes import Protocol
from tokenloc.data import ImageDataset, Preprocessing
from tokenloc.inference.evaluation import evaluate_model
from tokenloc.methods import Method
from tokenloc.metrics import Scorer
from tokenloc.training.config import DataConfig
from tokenloc.training.module import LocalizationTask


class Selection(Callback):
    """The validation metric that chooses the best epoch; larger is better.

    Args:
        metric: its name; it is logged as ``val/METRIC``.
        evaluate: returns the metric of a model; None for ``top1_cls``, which ``LocalizationTask`` logs.
    """

    def __init__(self, metric: str = "top1_cls", evaluate: Callable[[Method], float] | None = None) -> None:
        self.logged = f"val/{metric}"
        self.evaluate = evaluate

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the metric of the epoch."""
        del trainer
        if self.evaluate is not None and isinstance(pl_module, LocalizationTask):
            pl_module.log(self.logged, self.evaluate(pl_module.model), prog_bar=True)


def selection_of(
    config: DataConfig, val: ImageDataset | None, preprocessing: Preprocessing, protocol: Protocol, workers: int
) -> Selection:
    """Return the selection by ``config.select``.

    Raises:
        ValueError: if it needs boxes and the validation images have none.
    """
    if config.select == "top1_cls":
        return Selection()
    if val is None or not val.has_boxes:
        lacking = "data.val_split is not set" if val is None else f"{val.split} of {val.name} has no boxes"
        raise ValueError(f"data.select={config.select!r} chooses the best epoch by validation boxes, but {lacking}")
    images: ImageDataset = val

    def evaluate(model: Method) -> float:
        result = evaluate_model(model, images, preprocessing, Scorer(protocol), workers=workers)
        return float(getattr(result.evaluation, config.select))

    return Selection(config.select, evaluate)


def describe_selection(config: DataConfig) -> str:
    """Return how the best epoch is chosen, marked as an oracle if that uses the test images."""
    if config.val_split is None:
        return "the last one"
    oracle = "; chosen on the very images that are measured, as an oracle"
    mark = oracle if config.val_split == config.test_split else ""
    return f"the best {config.select} on {config.val_split} of {config.name}{mark}"
