"""Ending a training in between: the step that runs is finished, all is saved, and ``--resume`` goes on after it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody asked for an end: Ctrl-C, or SIGTERM as schedulers send it before they take a machine away.

    Attributes:
        name: of the signal; None where there was none.
    """

    name: str | None = None

    def receive(self, number: int, _: FrameType | None) -> None:
        """Remember the signal; a second one ends the process as if there was no handler."""
        self.name = signal.Signals(number).name
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def listen(self) -> None:
        """Receive the signals from now on; only in the main thread, others get none."""
        if threading.current_thread() is threading.main_thread() and self.name is None:
            for number in SIGNALS:
                signal.signal(number, self.receive)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Yield what remembers a signal that asks for an end."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    request = StopRequest()
    request.listen()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


class StoppedError(Exception):
    """Training was ended between two steps, and all that it did is saved. The message says where."""


class Saving(Callback):
    """Saves within an epoch: when an end is asked for, which then comes, and every few minutes.

    The trainer's own checkpoints, at the end of an epoch, are none of its business.

    Args:
        path: of the checkpoint that ``--resume`` goes on from.
        request: whether an end is asked for.
        minutes: at most so long, and a step, a killed training has to do again.
    """

    def __init__(self, path: Path, request: StopRequest, minutes: float) -> None:
        self.path, self.request, self.minutes = path, request, minutes
        self._saved = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Take SIGTERM back from Lightning, which would leave a validation without the checkpoint that follows it."""
        del trainer
        self.request.listen()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Save and stop, save, or do nothing; never after an epoch's last step, whose end saves by itself."""
        steps = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        if steps >= trainer.num_training_batches or steps % trainer.accumulate_grad_batches:
            return
        decide = trainer.strategy.reduce_boolean_decision
        stop = decide(self.request.name is not None, all=False)
        if stop or decide(time.monotonic() - self._saved >= 60 * self.minutes, all=False):
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()
        if stop:
            of = f"step {steps} of {trainer.num_training_batches} of epoch {trainer.current_epoch + 1}"
            raise StoppedError(f"{self.path} was saved after {of}")

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop where the end was asked for while the epoch before came to its own."""
        self._saved = time.monotonic()
        if trainer.strategy.reduce_boolean_decision(self.request.name is not None, all=False) and trainer.current_epoch:
            raise StoppedError(f"{self.path} was saved after epoch {trainer.current_epoch}")
