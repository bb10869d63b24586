"""Training: from photographs and their labels to two checkpoints, the best and the last."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import DataLoader

from tokenloc.data import (
    ImageDataset,
    LabelledPictures,
    Preprocessing,
    evaluation_loader,
    evaluation_transform,
    train_transform,
    training_loader,
)
from tokenloc.methods import Method
from tokenloc.training.checkpoint import Card, WholeCheckpointIO, read_checkpoint
from tokenloc.training.config import Optimisation
from tokenloc.training.module import LocalizationTask, epoch_seed

CHECKPOINTS = "checkpoints"


class Photographs(L.LightningDataModule):
    """The training photographs, in an order that depends on seed and epoch alone, and those that choose the best epoch.

    Args:
        train: labelled photographs.
        val: held-out labelled photographs; None to keep the last epoch as the best.
        preprocessing: how they become the network's input.
        batch_size: photographs per step.
        workers: processes that read pictures.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        train: ImageDataset,
        val: ImageDataset | None,
        preprocessing: Preprocessing,
        batch_size: int,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.preprocessing = preprocessing
        self.batch_size, self.workers, self.seed = batch_size, workers, seed

    def train_dataloader(self) -> DataLoader[Any]:
        """Return this epoch's loader (the trainer asks again for every epoch)."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        pictures = LabelledPictures(self.train, train_transform(self.preprocessing))
        seed = epoch_seed(self.seed, epoch)
        return training_loader(pictures, self.batch_size, workers=self.workers, seed=seed, drop_last=False)

    def val_dataloader(self) -> Any:
        """Return the held-out photographs, or nothing."""
        if self.val is None:
            return []
        transform = evaluation_transform(self.preprocessing, "crop")
        return evaluation_loader(self.val, transform, self.batch_size, workers=self.workers)


def fit(
    model: Method,
    photographs: Photographs,
    card: Card,
    optimisation: Optimisation,
    out: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    device: str = "auto",
    precision: str = "32-true",
) -> Path:
    """Train a model; return the path of its best checkpoint.

    The best epoch is the one with the best classification accuracy on ``photographs.val`` (boxes play no part), or
    the last one where there is none. Logs go to OUT/logs, for TensorBoard and as CSV.

    Args:
        model: what is trained, in place; it ends with the weights of the last epoch.
        photographs: what it is trained on.
        card: what the checkpoints are to say of the weights.
        optimisation: epochs, learning rate and so on.
        out: the run's folder.
        seed: of every epoch; the weights that training starts from are the caller's.
        resume: go on from OUT/checkpoints/last.ckpt, as if never interrupted.
        device: auto, cpu, cuda or mps.
        precision: of Lightning: 32-true, bf16-mixed, 16-mixed.

    Raises:
        FileNotFoundError: where there is no checkpoint to resume from.
        ValueError: where the checkpoint to resume from is of another model.
    """
    folder = out / CHECKPOINTS
    last = folder / "last.ckpt"
    if resume:
        _check_same_model(last, card)
    task = LocalizationTask(model, optimisation, card, seed)
    numbers: dict[str, Any] = {"precision": precision}  # Lightning checks the name
    with _without_advice():
        trainer = L.Trainer(
            accelerator=device,
            devices=1,
            **numbers,
            max_epochs=optimisation.epochs,
            gradient_clip_val=optimisation.gradient_clip,
            callbacks=[*_keepers(folder, photographs.val is not None), RichProgressBar()],
            logger=[TensorBoardLogger(out, name="logs"), CSVLogger(out, name="logs")],
            plugins=[WholeCheckpointIO()],
            reload_dataloaders_every_n_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=10,
            enable_model_summary=False,
        )
        trainer.fit(task, photographs, ckpt_path=last if resume else None)
    return folder / "best.ckpt"


def _keepers(folder: Path, held_out: bool) -> list[ModelCheckpoint]:
    """Return what keeps best.ckpt and last.ckpt, after every epoch; without held-out labels they are the same."""
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    if not held_out:
        return [ModelCheckpoint(filename="best", save_last=True, **common)]
    best = ModelCheckpoint(filename="best", monitor="val/top1_cls", mode="max", **common)
    return [best, ModelCheckpoint(filename="last", **common)]


def _check_same_model(last: Path, card: Card) -> None:
    stored = Card.from_entry(read_checkpoint(last)["tokenloc"])
    differing = [
        f"{name} (stored {getattr(stored, name)}, now {getattr(card, name)})"
        for name in ("model", "classes", "preprocessing")
        if getattr(stored, name) != getattr(card, name)
    ]
    if differing:
        raise ValueError(f"{last} cannot be resumed with another configuration; what differs: {'; '.join(differing)}")


# Settings that were chosen on purpose, and one of Lightning's own uses of torch.
ADVICE = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*exists and is not empty.*",
    ".*Total length of `list` across ranks is zero.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence Lightning's advice, hardware notes and advertisements; its warnings and errors stay."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in ADVICE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(level)
