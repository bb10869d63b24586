"""Which epoch is kept as the best: by held-out labels alone, or, said so, by held-out boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
from lightning.pytorch.callbacks import Callback

from tokenloc.methods import Method
from tokenloc.training.module import LocalizationTask


@dataclass(frozen=True)
class Selection:
    """By what the best epoch is chosen.

    Attributes:
        metric: which of an epoch; larger is better. ``top1_cls`` is known from the labels.
        judge: gives any other one of a model, in percent; None where the labels suffice.
    """

    metric: str = "top1_cls"
    judge: Callable[[Method], float] | None = None

    @property
    def logged(self) -> str:
        """Under which name it stands in the logs."""
        return f"val/{self.metric}"

    def callbacks(self) -> list[Callback]:
        """Return what measures it after every epoch."""
        return [] if self.judge is None else [_Judging(self.logged, self.judge)]


class _Judging(Callback):
    def __init__(self, name: str, judge: Callable[[Method], float]) -> None:
        self.name, self.judge = name, judge

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the metric of the epoch that has just ended."""
        del trainer
        if isinstance(pl_module, LocalizationTask):
            pl_module.log(self.name, self.judge(pl_module.model), prog_bar=True)
