"""Stopping a training early: finish the current step and save everything, so that it can resume."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StoppedError(Exception):
    """A signal stopped the training between two steps, and all progress is saved. The message names the file."""


class StepCheckpoint(Callback):
    """Saves ``path`` within an epoch every few minutes, and on Ctrl-C or SIGTERM, which then end the training.

    Unlike ``ModelCheckpoint``, it never saves between accumulated batches, whose gradients a checkpoint lacks.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        self.path, self.minutes = path, minutes
        self.stop_requested = False
        self._saved = time.monotonic()

    def __enter__(self) -> StepCheckpoint:
        self._handlers = [signal.getsignal(number) for number in SIGNALS]
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in zip(SIGNALS, self._handlers, strict=True):
                signal.signal(number, handler)

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread() and not self.stop_requested:
            for number in SIGNALS:
                signal.signal(number, self._receive)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.stop_requested = True  # a second signal has its default effect, and ends the process
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def on_train_start(self, *_: Any) -> None:
        """Replace Lightning's SIGTERM handler, which would end a validation without saving a checkpoint."""
        self._listen()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if it is time or a stop is requested, unless the epoch is about to end or gradients are accumulated."""
        del pl_module, outputs, batch
        done = batch_idx + 1
        if done >= trainer.num_training_batches or done % trainer.accumulate_grad_batches:
            return
        stop = _any_process(trainer, self.stop_requested)
        if stop or _any_process(trainer, time.monotonic() - self._saved >= 60 * self.minutes):
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
        if stop:
            step = f"step {done} of {trainer.num_training_batches} of epoch {trainer.current_epoch + 1}"
            raise StoppedError(f"{self.path} was saved after {step}")

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop if that was requested during the last step or the validation of the previous epoch."""
        self._saved = time.monotonic()
        if _any_process(trainer, self.stop_requested) and trainer.current_epoch:
            raise StoppedError(f"{self.path} was saved after epoch {trainer.current_epoch}")


def _any_process(trainer: L.Trainer, value: bool) -> bool:
    return bool(trainer.strategy.reduce_boolean_decision(value, all=False))
