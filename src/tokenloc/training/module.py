"""The Lightning side of training: steps, logs, and what goes into a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from tokenloc.data import EvaluationBatch
from tokenloc.data.base import shorten
from tokenloc.methods import Method, Output
from tokenloc.methods.global_batch import global_sum
from tokenloc.models.metadata import METADATA_KEY, ModelMetadata
from tokenloc.training.config import Optimisation
from tokenloc.training.optimisation import make_optimiser, make_schedule

Batch = tuple[Tensor, Tensor]


class LocalizationTask(L.LightningModule):
    """Trains a method on class labels alone.

    Args:
        model: what is trained.
        optimisation: how.
        metadata: what the checkpoints are to say of the weights.
        steps_per_epoch: optimiser steps, by which the schedule goes.
        seed: every step starts from a random state of its own, so that a resumed run repeats an unbroken one.

    Attributes:
        training_pass: what is run on a batch's images: the whole model, until it is set to a part of it.
    """

    def __init__(
        self, model: Method, optimisation: Optimisation, metadata: ModelMetadata, steps_per_epoch: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.model = model
        self.optimisation = optimisation
        self.metadata = metadata
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.training_pass: Callable[[Tensor], Output] = model.__call__
        self._validated = torch.zeros(3)  # right classes, cross-entropy and images, summed

    def on_train_batch_start(self, batch: Batch, batch_index: int) -> None:
        """Seed the step's dropout and drop path."""
        del batch
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch) * 1_000_003 + batch_index * 1009 + self.global_rank)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """Return the loss of a batch (images [B, 3, h, w], or what ``training_pass`` takes, labels [B]); log its terms.

        Raises:
            DivergedError: where it is no number.
        """
        images, labels = batch
        output = self.training_pass(images)
        terms = self.model.loss(output, labels)
        right = output.logits.argmax(dim=1) == labels
        correct, count = global_sum(torch.stack([right.sum(), right.new_ones(len(labels)).sum()])).tolist()
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()}, batch_size=count)
        accuracy = 100 * correct / count
        self.log("train/top1_cls", accuracy, prog_bar=True, on_step=False, on_epoch=True, batch_size=count)
        total = terms["total"]
        if not torch.isfinite(total):
            raise DivergedError(self._diverged(terms, batch_index))
        self.log("loss", total.detach(), prog_bar=True, logger=False, batch_size=count)
        return total

    def _diverged(self, terms: dict[str, Tensor], batch_index: int) -> str:
        values = ", ".join(f"{name} {float(term.detach()):g}" for name, term in terms.items())
        return f"the loss is no longer a number in step {batch_index + 1} of epoch {self.current_epoch + 1}: {values}"

    def on_train_epoch_end(self) -> None:
        """Log what the method wants to be followed over training, such as SCM's lambda and beta (its Fig. 7)."""
        self.log_dict({f"learned/{name}": value for name, value in self.model.scalars().items()})

    def validation_step(self, batch: EvaluationBatch, batch_index: int) -> None:
        """Count a batch's right classes; boxes play no part in choosing the best epoch."""
        del batch_index
        if not len(batch):
            return
        labels = batch.labels
        logits, _ = self.model.class_maps(batch.images)  # what inference would say; SCM trains in another form
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        correct = (logits.argmax(dim=1) == labels).sum()
        self._validated = self._validated + torch.stack([correct, loss, loss.new_tensor(len(labels))])

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self._validated = torch.zeros(3, device=self.device)

    def on_validation_epoch_end(self) -> None:
        """Log accuracy and cross-entropy over the images of all processes."""
        correct, loss, count = global_sum(self._validated).tolist()
        if count:
            self.log("val/top1_cls", 100 * correct / count, prog_bar=True)
            self.log("val/cross_entropy", loss / count)

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule, which advances with every step."""
        optimiser = make_optimiser(self.model, self.optimisation)
        schedule = make_schedule(optimiser, self.optimisation, self.steps_per_epoch)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the weights need to be used.

        Raises:
            DivergedError: where a weight is no number; the checkpoint is not written then.
        """
        broken = [name for name, value in checkpoint["state_dict"].items() if not torch.isfinite(value).all()]
        if broken:
            raise DivergedError(
                f"weights are no longer numbers after epoch {self.current_epoch + 1}: {shorten(broken)}"
            )
        checkpoint[METADATA_KEY] = self.metadata.to_dict()


class DivergedError(ValueError):
    """What was learned is no longer a number."""


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the random seed of an epoch, the same whether or not the run was interrupted before it."""
    return (seed * 1_000_003 + epoch * 101) % 2**31
