"""The Lightning module: training and validation steps, logging, and the checkpoint's metadata."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from tokenloc.data import EvaluationBatch
from tokenloc.data.base import shorten
from tokenloc.methods import Method
from tokenloc.methods.global_batch import global_sum
from tokenloc.models.metadata import METADATA_KEY, ModelMetadata
from tokenloc.training.compilation import ForwardPass
from tokenloc.training.config import Optimisation
from tokenloc.training.data import epoch_seed
from tokenloc.training.optimisation import lr_factor, make_optimiser

LOSS = "val/cross_entropy"


class DivergedError(ValueError):
    """The loss or a weight is not finite."""


class LocalizationTask(L.LightningModule):
    """Trains a method on class labels; ``forward`` takes images [B, 3, h, w] or pooled features [B, ...]."""

    def __init__(
        self,
        model: Method,
        optimisation: Optimisation,
        metadata: ModelMetadata,
        steps_per_epoch: int,
        seed: int,
        forward: ForwardPass,
    ) -> None:
        super().__init__()
        self.model, self.optimisation, self.metadata = model, optimisation, metadata
        self.steps_per_epoch, self.seed = steps_per_epoch, seed
        self._training_forward = forward

    def on_train_batch_start(self, _: Any, batch_index: int) -> None:
        """Seed dropout and drop path of this step, so that a resumed run repeats an uninterrupted one."""
        torch.manual_seed(epoch_seed(self.seed, self.current_epoch) * 1_000_003 + batch_index * 1009 + self.global_rank)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        """Return the loss of a batch of inputs and labels [B], and log its terms; raises DivergedError."""
        inputs, labels = batch
        output = self._training_forward(inputs)
        terms = self.model.loss(output, labels)
        hits = output.logits.argmax(dim=1) == labels
        counts = global_sum(torch.stack([hits.sum(), hits.new_ones(len(labels)).sum()]))
        # One copy is the only wait for a GPU in a step: the progress bar would read other tensors one by one.
        correct, count, *found = torch.stack([*counts, *(term.detach() for term in terms.values())]).cpu()
        losses: dict[str, Tensor] = dict(zip(terms, found, strict=True))
        common: dict[str, Any] = {"batch_size": int(count)}
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, **common)
        self.log("train/top1_cls", 100 * correct / count, prog_bar=True, on_step=False, on_epoch=True, **common)
        if not losses["total"].isfinite():
            values = ", ".join(f"{name} {float(loss):g}" for name, loss in losses.items())
            step = f"step {batch_index + 1} of epoch {self.current_epoch + 1}"
            raise DivergedError(f"the loss is not finite in {step}: {values}")
        self.log("loss", losses["total"], prog_bar=True, logger=False, **common)
        return terms["total"]

    def on_train_epoch_end(self) -> None:
        """Log the method's learned scalars, such as SCM's lambda and beta (its Fig. 7)."""
        self.log_dict({f"learned/{name}": value for name, value in self.model.scalars().items()})

    def on_validation_epoch_start(self) -> None:
        """Reset the sums of correct predictions, cross-entropy and images."""
        self._validation_sums = torch.zeros(3, device=self.device)

    def validation_step(self, batch: EvaluationBatch, _: int) -> None:
        """Add a batch's classification results, as at inference; boxes are not used."""
        if not len(batch):
            return
        labels = batch.labels
        logits = self.model.class_maps(batch.images)[0]  # SCM's training forward pass differs from inference
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        correct = (logits.argmax(dim=1) == labels).sum()
        self._validation_sums = self._validation_sums + torch.stack([correct, loss, torch.full_like(loss, len(labels))])

    def on_validation_epoch_end(self) -> None:
        """Log accuracy and cross-entropy over the images of all processes."""
        correct, loss, count = global_sum(self._validation_sums).tolist()
        if count:
            self.log("val/top1_cls", 100 * correct / count, prog_bar=True)
            self.log(LOSS, loss / count)

    def configure_optimizers(self) -> Any:
        """Return AdamW and its schedule, which advances with every step."""
        optimiser = make_optimiser(self.model, self.optimisation)
        schedule = LambdaLR(optimiser, lr_factor(self.optimisation, self.steps_per_epoch))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the metadata; raises DivergedError if a weight is not finite, and the checkpoint is not written."""
        broken = [name for name, value in checkpoint["state_dict"].items() if not torch.isfinite(value).all()]
        if broken:
            raise DivergedError(f"weights are not finite after epoch {self.current_epoch + 1}: {shorten(broken)}")
        checkpoint[METADATA_KEY] = self.metadata.to_dict()
