"""Training: from images and their labels to two checkpoints, the best and the last."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor
from torch.utils.data import DataLoader

from tokenloc.data import (
    ImageDataset,
    Preprocessing,
    TrainingImages,
    evaluation_loader,
    evaluation_transform,
    train_transform,
    training_loader,
)
from tokenloc.data.loading import LabelledDataset
from tokenloc.methods import Method, Output
from tokenloc.models.checkpoint import read_metadata
from tokenloc.models.metadata import ModelMetadata
from tokenloc.training.checkpoint_io import AtomicCheckpointIO
from tokenloc.training.compilation import compiled
from tokenloc.training.config import Optimisation, Precision
from tokenloc.training.interruption import Saving, StoppedError, stop_requests
from tokenloc.training.module import DivergedError, LocalizationTask, epoch_seed
from tokenloc.training.placement import Placement, check_precision, check_shares, environments, placed
from tokenloc.training.selection import Selection

CHECKPOINTS = "checkpoints"


class TrainingData(L.LightningDataModule):
    """The training images, in an order that depends on seed and epoch alone, and those that choose the best epoch.

    Args:
        train: labelled images.
        val: held-out labelled images; None to keep the last epoch as the best.
        preprocessing: how they become the network's input.
        batch_size: images that all processes learn from together.
        workers: processes that read images.
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

    @property
    def steps(self) -> int:
        """Batches of an epoch, accumulated ones counted singly."""
        return math.ceil(len(self.train) / self.batch_size)

    def train_dataloader(self) -> DataLoader[Any]:
        """Return what is left of this epoch's batches (the trainer asks again for every epoch)."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        seed = epoch_seed(self.seed, epoch)
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0
        start = done % self.steps  # all are done at the end of an epoch, some where it goes on within one
        options: dict[str, Any] = {"workers": self.readers, "seed": seed, "drop_last": False, "start": start}
        options["rank"], options["world_size"] = self._share()
        return training_loader(self.examples(epoch), self.batch_size, **options)

    @property
    def readers(self) -> int:
        """Processes that read what is trained on."""
        return self.workers

    def examples(self, epoch: int) -> LabelledDataset:
        """Return what an epoch learns from: each image with a crop and perhaps a mirror of its own."""
        return TrainingImages(self.train, train_transform(self.preprocessing), seed=epoch_seed(self.seed, epoch))

    def training_pass(self, model: Method) -> Callable[[Tensor], Output]:
        """Return what of ``model`` is run in a training step, on the first half of what ``examples`` gives."""
        return model.__call__

    def val_dataloader(self) -> Any:
        """Return the held-out images, or nothing."""
        if self.val is None:
            return []
        rank, world = self._share()
        # Fewer images than processes are everyone's: counted world times over, the mean is the same.
        own = self.val.subset(range(rank, len(self.val), world)) if len(self.val) >= world > 1 else self.val
        transform = evaluation_transform(self.preprocessing, "crop")
        return evaluation_loader(own, transform, math.ceil(self.batch_size / world), workers=self.workers)

    def _share(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def fit(
    model: Method,
    images: TrainingData,
    metadata: ModelMetadata,
    optimisation: Optimisation,
    out: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    placement: Placement | None = None,
    precision: Precision = "32-true",
    compile: bool = False,
    save_minutes: float = 15.0,
    selection: Selection | None = None,
) -> Path:
    """Train a model; return the path of its best checkpoint.

    The best epoch is the one with the best classification accuracy on ``images.val`` (boxes play no part), or
    what ``selection`` says, or the last one where there is none. Logs go to OUT/logs, for TensorBoard and as CSV.

    Args:
        model: what is trained, in place; it ends with the weights of the last epoch.
        images: what it is trained on.
        metadata: what the checkpoints are to say of the weights.
        optimisation: epochs, learning rate and so on.
        out: the run's folder.
        seed: of every epoch; the weights that training starts from are the caller's.
        resume: go on from OUT/checkpoints/last.ckpt, as if never interrupted.
        placement: on which devices; None for one, whichever there is.
        precision: float32; or where it is enough bfloat16, or float16 on a GPU.
        compile: let torch compile what a step runs; it learns the same, up to rounding.
        save_minutes: within an epoch, last.ckpt is saved anew after so many minutes.
        selection: by what the best epoch is chosen; None for the labels.

    Raises:
        FileNotFoundError: where there is no checkpoint to resume from.
        ValueError: where the checkpoint to resume from is of another model, loss or weights are no longer numbers, or a
            batch cannot be shared among the processes, or torch cannot compile.
        OSError: where a checkpoint cannot be written; the one before it is still there.
        StoppedError: where SIGINT (Ctrl-C) or SIGTERM asked for an end, and all that was done is saved.
        KeyboardInterrupt: at a second Ctrl-C: training ends at once, and last.ckpt is what it was.
    """
    folder = out / CHECKPOINTS
    last = folder / "last.ckpt"
    selection = selection or Selection()
    placement = placement or placed()
    check_precision(precision, placement)
    check_shares(len(images.train), images.batch_size, placement.world)
    if resume:
        _check_same_model(last, metadata)
    steps = math.ceil(images.steps / optimisation.accumulate)
    task = LocalizationTask(model, optimisation, metadata, steps, seed)
    task.training_pass = images.training_pass(model)
    if compile:
        task.training_pass = compiled(task.training_pass, torch.device(placement.device))
    with _without_advice(), stop_requests() as request:
        keepers = _keepers(folder, selection.logged if images.val is not None else None)
        callbacks = [*selection.callbacks(), *keepers, Saving(last, request, save_minutes), RichProgressBar()]
        _run(_trainer(out, optimisation, callbacks, placement, precision), task, images, last, resume)
        if request.name is not None:
            raise StoppedError(f"training is finished and kept in {folder}")
    return folder / "best.ckpt"


def _trainer(
    out: Path, optimisation: Optimisation, callbacks: list[Callback], placement: Placement, precision: Precision
) -> L.Trainer:
    return L.Trainer(
        accelerator=placement.device,
        devices=placement.devices,
        num_nodes=placement.nodes,
        strategy="auto" if placement.world == 1 else "ddp",
        use_distributed_sampler=False,  # TrainingData shares each batch itself
        precision=precision,
        max_epochs=optimisation.epochs,
        accumulate_grad_batches=optimisation.accumulate,
        gradient_clip_val=optimisation.gradient_clip,
        callbacks=callbacks,
        logger=[TensorBoardLogger(out, name="logs"), CSVLogger(out, name="logs", flush_logs_every_n_steps=1)],
        plugins=[AtomicCheckpointIO(), *environments()],
        default_root_dir=out,
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        log_every_n_steps=10,
        enable_model_summary=False,
    )


def _run(trainer: L.Trainer, task: LocalizationTask, images: TrainingData, last: Path, resume: bool) -> None:
    """Let the trainer train, and tell what ends it early as ``fit`` says."""
    try:
        trainer.fit(task, images, ckpt_path=last if resume else None)
    except DivergedError as error:
        kept = f"the last good checkpoint is {last}" if last.is_file() else "no checkpoint was written yet"
        raise ValueError(
            f"{error}; {kept}. Begin anew, with another --out, and a lower optimisation.lr, optimisation.warmup_epochs "
            "or optimisation.gradient_clip"
        ) from error
    except SystemExit as end:  # Lightning's answer to a second Ctrl-C
        raise KeyboardInterrupt from end


def _keepers(folder: Path, monitored: str | None) -> list[ModelCheckpoint]:
    """Return what keeps best.ckpt and last.ckpt, after every epoch; where nothing is monitored they are the same."""
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    if monitored is None:
        return [ModelCheckpoint(filename="best", save_last=True, **common)]
    best = ModelCheckpoint(filename="best", monitor=monitored, mode="max", **common)
    return [best, ModelCheckpoint(filename="last", **common)]


def _check_same_model(last: Path, metadata: ModelMetadata) -> None:
    stored = read_metadata(last)
    differing = [
        f"{name} (stored {getattr(stored, name)}, now {getattr(metadata, name)})"
        for name in ("model", "classes", "preprocessing")
        if getattr(stored, name) != getattr(metadata, name)
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
    ".*your dataloader is not resumable.*",
    ".*in eval mode at the start of training.*",
    ".*The .grad attribute of a Tensor that is not a leaf.*",  # where what is compiled is in parts
    ".*Grad strides do not match bucket view strides.*",
    ".*Detected call of `lr_scheduler.step\\(\\)` before.*",  # float16 leaves the first steps out until its scale fits
    ".*recommended to use `self.log.*sync_dist=True.*",  # what is logged is of all processes already
)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence Lightning's advice, hardware notes and advertisements; its warnings and errors stay."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in ADVICE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
