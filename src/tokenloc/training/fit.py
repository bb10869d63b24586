"""Training: from images and their labels to the checkpoints best.ckpt and last.ckpt."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from tokenloc.methods import Method
from tokenloc.models.checkpoint import read_checkpoint, read_metadata, save_atomically
from tokenloc.models.metadata import ModelMetadata
from tokenloc.training.cached_features import CachedFeatureData
from tokenloc.training.compilation import ForwardPass, compiled
from tokenloc.training.config import Optimisation, Precision
from tokenloc.training.data import TrainingData
from tokenloc.training.interruption import StepCheckpoint, StoppedError
from tokenloc.training.module import LOSS, DivergedError, LocalizationTask
from tokenloc.training.placement import Placement, check_shares, environments
from tokenloc.training.run_folder import RunFolder
from tokenloc.training.selection import Selection


def fit(
    model: Method,
    data: TrainingData,
    metadata: ModelMetadata,
    optimisation: Optimisation,
    folder: RunFolder,
    *,
    seed: int,
    resume: bool,
    placement: Placement,
    precision: Precision,
    compile: bool,
    save_minutes: float,
    selection: Selection,
) -> None:
    """Train a model in place; write best.ckpt (of the last epoch without validation images), last.ckpt, and logs.

    Raises:
        FileNotFoundError: if there is no checkpoint to resume from.
        ValueError: if that checkpoint is of another model, the loss or weights are not finite, a batch has too few
            images for the processes, or PyTorch cannot compile the model.
        OSError: if a checkpoint cannot be written; the previous one is unchanged.
        StoppedError: after SIGINT (Ctrl-C) or SIGTERM, once all progress is saved.
        KeyboardInterrupt: after a second Ctrl-C, which stops at once and leaves last.ckpt unchanged.
    """
    check_shares(len(data.train), data.batch_size, placement.world)
    last = folder.last
    if resume:
        _check_same_model(last, metadata)
    forward: ForwardPass = data.model.from_pooled if isinstance(data, CachedFeatureData) else model.__call__
    steps = data.steps_per_epoch(optimisation.accumulate)
    task = LocalizationTask(model, optimisation, metadata, steps, seed, compiled(forward) if compile else forward)
    saving = StepCheckpoint(last, save_minutes)
    with _without_advice(), saving:
        checkpoints = _checkpoints(last.parent, selection.logged if data.val is not None else None)
        callbacks = [selection, *checkpoints, saving, TrainingProgress()]
        trainer = _trainer(folder.path, optimisation, callbacks, placement, precision, min(10, steps))
        try:
            trainer.fit(task, data, ckpt_path=last if resume else None)
        except DivergedError as error:
            saved = f"the last good checkpoint is {last}" if last.is_file() else "no checkpoint was written yet"
            raise ValueError(
                f"{error}; {saved}. Start again in another --out with a lower optimisation.lr, with "
                "optimisation.warmup_epochs or with optimisation.gradient_clip"
            ) from error
        except SystemExit as end:  # Lightning's response to a second Ctrl-C
            raise KeyboardInterrupt from end
        if saving.stop_requested:
            raise StoppedError(f"training is finished and saved in {last.parent}")


def _check_same_model(last: Path, metadata: ModelMetadata) -> None:
    stored = read_metadata(last)
    pairs = {name: (getattr(stored, name), getattr(metadata, name)) for name in ("model", "classes", "preprocessing")}
    differing = "; ".join(f"{name} (stored {old}, now {new})" for name, (old, new) in pairs.items() if old != new)
    if differing:
        raise ValueError(f"{last} cannot be resumed with another configuration; differences: {differing}")


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints atomically, and reads them without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; raises as ``save_atomically`` does."""
        del storage_options
        save_atomically(checkpoint, path)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read plain data only."""
        return read_checkpoint(path)


def _trainer(
    out: Path,
    optimisation: Optimisation,
    callbacks: list[Callback],
    placement: Placement,
    precision: Precision,
    log_every: int,
) -> L.Trainer:
    return L.Trainer(
        accelerator=placement.device,
        devices=placement.devices,
        num_nodes=placement.nodes,
        strategy="auto" if placement.world == 1 else "ddp",
        use_distributed_sampler=False,  # TrainingData splits every batch itself
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
        log_every_n_steps=log_every,
        enable_model_summary=False,
    )


class TrainingProgress(RichProgressBar):
    """The progress bar, without the version of the log files."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Any:
        """Return the values that are displayed."""
        values = dict(super().get_metrics(trainer, pl_module))
        values.pop("v_num", None)
        return values


class BestEpoch(ModelCheckpoint):
    """Saves the weights of the best epoch: of equal ones that with the lower validation loss, else the later one."""

    loss = float("inf")  # validation loss of the saved epoch

    @property
    def state_key(self) -> str:
        """The key of the state in last.ckpt: that of the base class, which older versions used."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__)

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        """Return whether the current epoch replaces the saved one."""
        loss = float(trainer.callback_metrics.get(LOSS, self.loss))
        equal = current is not None and self.best_model_score is not None and bool(current == self.best_model_score)
        better = super().check_monitor_top_k(trainer, current) or (equal and loss <= self.loss)
        self.loss = loss if better else self.loss
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the base class, and the loss."""
        return {**super().state_dict(), "loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state; without a loss, as of an older version, the next equal epoch replaces the saved one."""
        super().load_state_dict(state_dict)
        self.loss = state_dict.get("loss", self.loss)


def _checkpoints(folder: Path, monitored: str | None) -> list[ModelCheckpoint]:
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    modes = ("max", "min") if monitored else ("min", "max")  # different, which keeps the states in last.ckpt apart
    best = BestEpoch(filename="best", monitor=monitored, mode=modes[0], save_weights_only=True, **common)
    return [best, ModelCheckpoint(filename="last", mode=modes[1], **common)]  # save_last needs a better epoch


# Advice against deliberate settings, and warnings about Lightning's own use of PyTorch.
ADVICE = (
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    ".*exists and is not empty.*",
    ".*Total length of `list` across ranks is zero.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*your dataloader is not resumable.*",
    ".*in eval mode at the start of training.*",
    ".*The .grad attribute of a Tensor that is not a leaf.*",  # if the compiled graph is in parts
    ".*Grad strides do not match bucket view strides.*",
    ".*Detected call of `lr_scheduler.step\\(\\)` before.*",  # float16 skips the first steps until its scale fits
    ".*recommended to use `self.log.*sync_dist=True.*",  # logged values are already summed over all processes
)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Silence Lightning's advice, hardware notes and advertisements, but not its warnings and errors."""
    levels = {logger: logger.level for logger in map(logging.getLogger, ("lightning.pytorch", "lightning.fabric"))}
    try:
        with warnings.catch_warnings():
            for message in ADVICE:
                warnings.filterwarnings("ignore", message)
            for logger in levels:
                logger.setLevel(logging.WARNING)
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
