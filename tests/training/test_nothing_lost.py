"""However a training ends early, it resumes and ends with the weights of an uninterrupted one."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.runs import in_process, tiny_run, tiny_settings, weights
from tokenloc import cli
from tokenloc.commands import train as command
from tokenloc.methods import Method
from tokenloc.models.checkpoint import read_checkpoint, read_metadata, save_atomically
from tokenloc.training.config import Optimisation
from tokenloc.training.module import LocalizationTask

STEPS = 3  # in each of the two epochs


def dropping_run(out: Path, **changes: Any) -> Path:
    """Train a tiny model that also draws random numbers in its steps."""
    settings = tiny_settings(out, **changes)
    settings["model"].backbone_options = {**settings["model"].backbone_options, "drop_path_rate": 0.3}
    return command.train(**settings)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dropping_run(tmp_path_factory.mktemp("unbroken") / "run").parents[1]


def last_step(out: Path) -> int:
    return read_checkpoint(out / "checkpoints/last.ckpt")["global_step"]


def assert_same_end(out: Path, unbroken: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        torch.testing.assert_close(weights(out, name), weights(unbroken, name), rtol=0, atol=0)
        thresholds = (read_metadata(folder / "checkpoints" / name).threshold for folder in (out, unbroken))
        assert next(thresholds) == next(thresholds)
    assert json.loads((out / "metrics.json").read_text()) == json.loads((unbroken / "metrics.json").read_text())
    assert not list(out.rglob(".partial-*"))


def at_step(epoch: int, batch: int, act: Callable[[], Any]) -> None:
    """Call ``act`` at the start of a training step."""
    step = LocalizationTask.training_step

    def acting(self: LocalizationTask, images: Any, batch_index: int) -> torch.Tensor:
        if (self.current_epoch, batch_index) == (epoch, batch):
            act()
        return step(self, images, batch_index)

    LocalizationTask.training_step = acting


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing(checkpoint: int) -> None:
    save, count = torch.save, iter(range(99))

    def half(content: Any, file: Any) -> None:
        if next(count) == checkpoint:
            file.write(b"half of it" * 1000)
            file.flush()
            die()
        save(content, file)

    torch.save = half


def die_while_evaluating() -> None:
    command.evaluate_model = lambda *_, **__: die()


def begin(moment: Callable[[], None], out: Path, changes: dict[str, Any]) -> None:
    moment()
    dropping_run(out, **changes)


def killed(moment: Callable[[], None], out: Path, **changes: Any) -> None:
    assert in_process(begin, moment, out, changes) == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(partial(at_step, 0, 1, die), id="first epoch"),
        pytest.param(partial(die_while_writing, 0), id="writing the first checkpoint"),
        pytest.param(partial(at_step, 1, 1, die), id="second epoch"),
        pytest.param(partial(die_while_writing, 3), id="between best.ckpt and last.ckpt of the second epoch"),
        pytest.param(partial(die_while_writing, 5), id="storing the threshold"),  # after two checkpoints in each epoch
        pytest.param(die_while_evaluating, id="evaluating"),
    ],
)
def test_a_killed_run_resumes_bit_for_bit(moment: Callable[[], None], tmp_path: Path, unbroken: Path) -> None:
    killed(moment, tmp_path / "run")
    dropping_run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", unbroken)


@pytest.mark.slow
def test_steps_within_an_epoch_are_saved_every_few_minutes(tmp_path: Path, unbroken: Path) -> None:
    killed(partial(at_step, 1, 1, die), tmp_path / "run", save_minutes=0.0)
    assert last_step(tmp_path / "run") == STEPS + 1
    steps = []
    start = LocalizationTask.on_train_batch_start

    def noting(self: LocalizationTask, batch: Any, batch_index: int) -> None:
        steps.append((self.current_epoch, batch_index))
        start(self, batch, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalizationTask, "on_train_batch_start", noting)
        dropping_run(tmp_path / "run", resume=True)
    assert steps == [(1, 1), (1, 2)]
    assert_same_end(tmp_path / "run", unbroken)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "epoch", "batch", "message"),
    [
        ("SIGINT", 0, 0, "saved after step 1 of 3 of epoch 1"),
        ("SIGTERM", 1, 1, "saved after step 2 of 3 of epoch 2"),
        ("SIGTERM", 0, 2, "saved after epoch 1"),
        ("SIGINT", 1, 2, "training is finished and saved in"),
    ],
)
def test_a_signal_stops_a_run_after_the_current_step(
    name: str, epoch: int, batch: int, message: str, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalizationTask, "training_step", LocalizationTask.training_step)
    at_step(epoch, batch, lambda: os.kill(os.getpid(), getattr(signal, name)))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    out = tmp_path / "my run"
    with pytest.raises(KeyboardInterrupt) as end:
        dropping_run(out)
    assert message in str(end.value)
    assert f"resume with: tokenloc train --config '{out}/config.yaml' --resume" in str(end.value)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.undo()
    assert cli.main(["train", "--config", str(out / "config.yaml"), "--resume"]) == 0
    assert_same_end(out, unbroken)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(LocalizationTask, "training_step", LocalizationTask.training_step)
    at_step(1, 1, twice)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; .*last\.ckpt is unchanged; resume with: tokenloc train"):
        dropping_run(tmp_path / "run")
    assert last_step(tmp_path / "run") == STEPS
    monkeypatch.undo()
    dropping_run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", unbroken)


def command_line(moment: Callable[[], None], words: list[str], errors: Path) -> None:
    sys.stderr = errors.open("w")
    moment()
    sys.exit(cli.main(words))


def run_command(moment: Callable[[], None], unbroken: Path, folder: Path, **changes: Any) -> tuple[Any, str, list[str]]:
    """Run ``tokenloc train`` with the settings of ``unbroken``; return exit status, error output and the command."""
    config, errors = folder / "config.yaml", folder / "errors"
    content = yaml.safe_load((unbroken / "config.yaml").read_text())
    content["optimisation"] |= changes.pop("optimisation", {})
    config.write_text(yaml.safe_dump({**content, "out": str(folder / "run"), **changes}))
    words = ["train", "--config", str(config)]
    status, printed = in_process(command_line, moment, words, errors), errors.read_text()
    assert "Traceback" not in printed
    return status, printed, words


def interrupt_all() -> None:
    """Send Ctrl-C to all processes during the first validation, as a terminal does: data loading workers get it too."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as in a command, unlike in this test's process
    step = LocalizationTask.validation_step

    def acting(self: LocalizationTask, batch: Any, batch_index: int) -> None:
        if (self.current_epoch, batch_index) == (0, 0):
            os.killpg(0, signal.SIGINT)
        step(self, batch, batch_index)

    LocalizationTask.validation_step = acting


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_does_not_break_the_workers(tmp_path: Path, unbroken: Path) -> None:
    small = {"batch_size": 2}  # more batches than the workers read ahead
    status, printed, words = run_command(interrupt_all, unbroken, tmp_path, workers=2, optimisation=small)
    assert status == 130, printed
    assert "tokenloc train: interrupted" in printed
    assert "saved after epoch 1" in printed
    assert cli.main([*words, "--resume", "--workers", "0"]) == 0
    assert last_step(tmp_path / "run") == 24


def with_a_small_disk() -> None:
    """Limit file sizes after the first epoch, so that the next write fails as on a full disk."""
    save = torch.save

    def limited(content: Any, file: Any) -> None:
        if content.get("global_step", 0) > STEPS:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        save(content, file)

    torch.save = limited


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, unbroken: Path) -> None:
    status, printed, words = run_command(with_a_small_disk, unbroken, tmp_path)
    assert status == 2
    assert "(File too large); it is unchanged" in printed
    assert last_step(tmp_path / "run") == STEPS
    assert not list((tmp_path / "run").rglob(".partial-*"))
    assert cli.main([*words, "--resume"]) == 0
    assert_same_end(tmp_path / "run", unbroken)


def test_an_error_that_is_not_the_disks_is_raised_unchanged(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="pickle"):
        save_atomically({"a": lambda: 0}, tmp_path / "x.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, count = Method.loss, iter(range(99))

    def broken(self: Method, *arguments: Any) -> dict[str, torch.Tensor]:
        factor = float("nan") if next(count) == STEPS + 1 else 1.0
        return {name: factor * term for name, term in loss(self, *arguments).items()}

    monkeypatch.setattr(Method, "loss", broken)
    with pytest.raises(ValueError, match="not finite in step 2 of epoch 2: cross_entropy nan, total nan") as end:
        tiny_run(tmp_path / "run")
    assert f"the last good checkpoint is {tmp_path}/run/checkpoints/last.ckpt" in str(end.value)
    assert "a lower optimisation.lr" in str(end.value)
    assert last_step(tmp_path / "run") == STEPS


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_weights(self: LocalizationTask) -> None:
        self.model.head.bias.data[0] = float("inf")

    monkeypatch.setattr(LocalizationTask, "on_validation_start", break_weights)
    with pytest.raises(ValueError, match=r"weights are not finite after epoch 1: model\.head\.bias") as end:
        tiny_run(tmp_path / "run")
    assert "no checkpoint was written yet" in str(end.value)
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_resuming_with_other_settings_shows_the_difference(run: Path) -> None:
    settings = tiny_settings(run, resume=True)
    settings["model"].options = {"head": "fc"}
    settings["optimisation"] = Optimisation(epochs=2, batch_size=8, lr=2e-3, schedule="cosine")
    with pytest.raises(ValueError, match="cannot be resumed with another configuration; differences:") as error:
        command.train(**settings, seed=4)
    lines = str(error.value).splitlines()
    assert lines[1:4] == [
        "  model.options.head: stored absent, now fc",
        "  optimisation.lr: stored 0.001, now 0.002",
        "  seed: stored 0, now 4",
    ]
    assert f"--config {run}/config.yaml --resume" in lines[4]


@pytest.mark.slow
def test_a_run_may_resume_with_more_epochs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (Optimisation(epochs=epochs, batch_size=8, lr=1e-3) for epochs in (1, 2))
    tiny_run(tmp_path / "run", optimisation=one)
    tiny_run(tmp_path / "run", optimisation=two, resume=True, protocol="sat")
    printed = capsys.readouterr().err
    assert "resumed with  protocol: stored standard, now sat" in printed
    assert "resumed with  optimisation.epochs: stored 1, now 2" in printed
    tiny_run(tmp_path / "longer", optimisation=two)
    torch.testing.assert_close(weights(tmp_path / "run"), weights(tmp_path / "longer"), rtol=0, atol=0)


@pytest.mark.slow
def test_a_run_of_an_older_version_resumes(tmp_path: Path) -> None:
    """Settings that it lacks count as their defaults; one that was removed is accepted if it was off."""
    tiny_run(tmp_path / "run")
    path = tmp_path / "run/config.yaml"
    content = yaml.safe_load(path.read_text())
    del content["save_minutes"], content["precision"], content["optimisation"]["gradient_clip"]
    content["data"]["cached_pictures"] = False
    path.write_text(yaml.safe_dump(content))
    assert cli.main(["train", "--config", str(path), "--resume"]) == 0
    assert "cached_pictures" not in path.read_text()
    path.write_text("[1, 2")
    with pytest.raises(ValueError, match=r"config\.yaml is not a valid YAML file"):
        tiny_run(tmp_path / "run", resume=True)
