"""Whatever ends a training early, it goes on where it was, and ends with the weights of an unbroken one."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.runs import tiny_run, tiny_settings
from tokenloc import cli
from tokenloc.commands import train as command
from tokenloc.models import checkpoint, fit
from tokenloc.models.checkpoint import read_checkpoint, read_metadata, save_atomically
from tokenloc.training.config import Optimisation
from tokenloc.training.module import LocalizationTask

STEPS = 3  # of each of the two epochs
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.training.test_nothing_lost"])


def dropping_run(out: Path, **changes: Any) -> Path:
    """A tiny run that draws random numbers in its steps too, not only for its crops."""
    settings = tiny_settings(out, **changes)
    settings["model"].backbone_options = {**settings["model"].backbone_options, "drop_path_rate": 0.3}
    return command.train(**settings)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dropping_run(tmp_path_factory.mktemp("unbroken") / "run").parents[1]


def weights(out: Path, name: str) -> dict[str, torch.Tensor]:
    return read_checkpoint(out / "checkpoints" / name)["state_dict"]


def assert_same_end(out: Path, unbroken: Path) -> None:
    for name in ("last.ckpt", "best.ckpt"):
        torch.testing.assert_close(weights(out, name), weights(unbroken, name), rtol=0, atol=0)
        assert (
            read_metadata(out / "checkpoints" / name).threshold
            == read_metadata(unbroken / "checkpoints" / name).threshold
        )
    assert json.loads((out / "metrics.json").read_text()) == json.loads((unbroken / "metrics.json").read_text())
    assert not list(out.rglob(".partial-*"))


def at_step(epoch: int, batch: int, act: Callable[[], Any]) -> None:
    """Let a step of the training begin with ``act``."""
    step = LocalizationTask.training_step

    def acting(self: LocalizationTask, images: Any, batch_index: int) -> torch.Tensor:
        if (self.current_epoch, batch_index) == (epoch, batch):
            act()
        return step(self, images, batch_index)

    LocalizationTask.training_step = acting


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_in_the_first_epoch() -> None:
    at_step(0, 1, die)


def dying_in_the_second_epoch() -> None:
    at_step(1, 1, die)


def dying_within_the_file(number: int) -> None:
    save, count = torch.save, iter(range(99))

    def half(content: Any, file: Any) -> None:
        if next(count) == number:
            file.write(b"half of it" * 1000)
            file.flush()
            die()
        save(content, file)

    torch.save = half


def dying_within_the_first_checkpoint() -> None:
    dying_within_the_file(0)


def dying_between_best_and_last() -> None:
    dying_within_the_file(3)  # two of the first epoch, and best.ckpt of the second


def dying_while_measuring() -> None:
    command.measure = lambda *_, **__: die()


def dying_while_the_threshold_is_stored() -> None:
    dying_within_the_file(5)  # two of each epoch, and best.ckpt's threshold


def begin(moment: Callable[[], None], out: Path, changes: dict[str, Any]) -> None:
    moment()
    dropping_run(out, **changes)


def killed(moment: Callable[[], None], out: Path, **changes: Any) -> None:
    process = PROCESSES.Process(target=begin, args=(moment, out, changes))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    "moment",
    [
        dying_in_the_first_epoch,
        dying_within_the_first_checkpoint,
        dying_in_the_second_epoch,
        dying_between_best_and_last,
        dying_while_the_threshold_is_stored,
        dying_while_measuring,
    ],
)
def test_a_killed_run_goes_on_as_if_it_never_was(moment: Callable[[], None], tmp_path: Path, unbroken: Path) -> None:
    killed(moment, tmp_path / "run")
    dropping_run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", unbroken)


def test_steps_within_an_epoch_are_kept_every_few_minutes(tmp_path: Path, unbroken: Path) -> None:
    killed(dying_in_the_second_epoch, tmp_path / "run", save_minutes=0.0)
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == STEPS + 1
    steps = []
    at_first = LocalizationTask.on_train_batch_start

    def noting(self: LocalizationTask, batch: Any, batch_index: int) -> None:
        steps.append((self.current_epoch, batch_index))
        at_first(self, batch, batch_index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalizationTask, "on_train_batch_start", noting)
        dropping_run(tmp_path / "run", resume=True)
    assert steps == [(1, 1), (1, 2)]
    assert_same_end(tmp_path / "run", unbroken)


@pytest.mark.parametrize(
    ("name", "epoch", "batch", "kept"),
    [
        ("SIGINT", 0, 0, "saved after step 1 of 3 of epoch 1"),
        ("SIGTERM", 1, 1, "saved after step 2 of 3 of epoch 2"),
        ("SIGINT", 0, 2, "saved after epoch 1"),
        ("SIGTERM", 0, 2, "saved after epoch 1"),
        ("SIGINT", 1, 2, "training is finished and kept in"),
    ],
)
def test_a_signal_ends_a_run_after_its_step(
    name: str, epoch: int, batch: int, kept: str, tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalizationTask, "training_step", LocalizationTask.training_step)
    at_step(epoch, batch, lambda: os.kill(os.getpid(), getattr(signal, name)))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    out = tmp_path / "my run"
    with pytest.raises(KeyboardInterrupt) as end:
        dropping_run(out)
    assert kept in str(end.value)
    assert f"go on with: tokenloc train --config '{out}/config.yaml' --resume" in str(end.value)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.undo()
    assert cli.main(["train", "--config", str(out / "config.yaml"), "--resume"]) == 0
    assert_same_end(out, unbroken)


def interrupting_all() -> None:
    """Do as a terminal does at Ctrl-C, while held-out images are looked at: workers that read them get it as well."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as a command has it, not as this process was started
    step = LocalizationTask.validation_step

    def acting(self: LocalizationTask, batch: Any, batch_index: int) -> None:
        if (self.current_epoch, batch_index) == (0, 0):
            os.killpg(0, signal.SIGINT)
        step(self, batch, batch_index)

    LocalizationTask.validation_step = acting


def command_line(moment: Callable[[], None], words: list[str], errors: Path) -> None:
    sys.stderr = errors.open("w")
    moment()
    sys.exit(cli.main(words))


def test_ctrl_c_in_a_terminal_does_not_hurt_the_workers(tmp_path: Path, unbroken: Path) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    content = yaml.safe_load((unbroken / "config.yaml").read_text())
    content["optimisation"]["batch_size"] = 2  # more batches than workers read ahead
    config.write_text(yaml.safe_dump({**content, "out": str(out), "workers": 2}))
    words = ["train", "--config", str(config)]
    process = PROCESSES.Process(target=command_line, args=(interrupting_all, words, tmp_path / "errors"))
    process.start()
    process.join()
    printed = (tmp_path / "errors").read_text()
    assert process.exitcode == 130, printed
    assert "tokenloc train: interrupted" in printed
    assert "saved after epoch 1" in printed
    assert "Traceback" not in printed
    assert cli.main([*words, "--resume", "--workers", "0"]) == 0
    assert read_checkpoint(out / "checkpoints/last.ckpt")["global_step"] == 24


def test_a_second_ctrl_c_ends_at_once(tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(LocalizationTask, "training_step", LocalizationTask.training_step)
    at_step(1, 1, twice)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; .*last\.ckpt is kept; go on with: tokenloc train"):
        dropping_run(tmp_path / "run")
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == STEPS
    monkeypatch.undo()
    dropping_run(tmp_path / "run", resume=True)
    assert_same_end(tmp_path / "run", unbroken)


def with_a_small_disk() -> None:
    """No file may grow beyond what the first checkpoint needs: the second write fails as on a full disk."""
    save = checkpoint.torch.save

    def limited(content: Any, file: Any) -> None:
        if content.get("global_step", 0) > STEPS:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        save(content, file)

    torch.save = limited


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, unbroken: Path) -> None:
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    content = yaml.safe_load((unbroken / "config.yaml").read_text())
    config.write_text(yaml.safe_dump({**content, "out": str(out)}))
    words = ["train", "--config", str(config)]
    process = PROCESSES.Process(target=command_line, args=(with_a_small_disk, words, tmp_path / "errors"))
    process.start()
    process.join()
    assert process.exitcode == 2
    printed = (tmp_path / "errors").read_text()
    assert "(File too large); it is unchanged; free some space or repair the disk" in printed
    assert "Traceback" not in printed
    assert read_checkpoint(out / "checkpoints/last.ckpt")["global_step"] == STEPS
    assert not list(out.rglob(".partial-*"))
    assert cli.main([*words, "--resume"]) == 0
    assert_same_end(out, unbroken)


def test_an_error_that_is_no_disks_is_not_called_one(tmp_path: Path) -> None:
    with pytest.raises(AttributeError, match="pickle"):
        save_atomically({"a": lambda: 0}, tmp_path / "x.ckpt")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, count = fit.Method.loss, iter(range(99))

    def broken(self: fit.Method, *arguments: Any) -> dict[str, torch.Tensor]:
        factor = float("nan") if next(count) == STEPS + 1 else 1.0
        return {name: factor * term for name, term in loss(self, *arguments).items()}

    monkeypatch.setattr(fit.Method, "loss", broken)
    with pytest.raises(
        ValueError, match="no longer a number in step 2 of epoch 2: cross_entropy nan, total nan"
    ) as end:
        tiny_run(tmp_path / "run")
    assert f"the last good checkpoint is {tmp_path}/run/checkpoints/last.ckpt" in str(end.value)
    assert "a lower optimisation.lr" in str(end.value)
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == STEPS


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_weights(self: LocalizationTask) -> None:
        self.model.head.bias.data[0] = float("inf")

    monkeypatch.setattr(LocalizationTask, "on_validation_start", break_weights)
    with pytest.raises(ValueError, match=r"weights are no longer numbers after epoch 1: model\.head\.bias") as end:
        tiny_run(tmp_path / "run")
    assert "no checkpoint was written yet" in str(end.value)
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_resuming_with_other_settings_shows_the_difference(run: Path) -> None:
    settings = tiny_settings(run, resume=True)
    settings["model"].options = {"head": "fc"}
    settings["optimisation"] = Optimisation(epochs=2, batch_size=8, lr=2e-3, schedule="cosine")
    with pytest.raises(ValueError, match="cannot be resumed with another configuration; what differs:") as error:
        command.train(**settings, seed=4)
    lines = str(error.value).splitlines()
    assert lines[1:4] == [
        "  model.options.head: absent there, fc now",
        "  optimisation.lr: 0.001 there, 0.002 now",
        "  seed: 0 there, 4 now",
    ]
    assert f"--config {run}/config.yaml --resume" in lines[4]


def test_what_may_change_is_told_and_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str], unbroken: Path) -> None:
    settings = tiny_settings(tmp_path / "run", optimisation=Optimisation(epochs=1, batch_size=8, lr=1e-3))
    command.train(**settings)
    settings["optimisation"] = Optimisation(epochs=2, batch_size=8, lr=1e-3)
    command.train(**{**settings, "resume": True, "protocol": "sat"})
    printed = capsys.readouterr().err
    assert "resumed with  protocol: standard there, sat now" in printed
    assert "resumed with  optimisation.epochs: 1 there, 2 now" in printed
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["epoch"] == 1
    longer = tiny_settings(tmp_path / "longer", optimisation=settings["optimisation"])
    command.train(**longer)
    torch.testing.assert_close(
        weights(tmp_path / "run", "last.ckpt"), weights(tmp_path / "longer", "last.ckpt"), rtol=0, atol=0
    )


def test_settings_of_an_older_version_count_as_their_defaults(tmp_path: Path) -> None:
    tiny_run(tmp_path / "run")
    path = tmp_path / "run/config.yaml"
    content = yaml.safe_load(path.read_text())
    del content["save_minutes"], content["precision"], content["optimisation"]["gradient_clip"]
    path.write_text(yaml.safe_dump(content))
    assert tiny_run(tmp_path / "run", resume=True).is_file()
    path.write_text("[1, 2")
    with pytest.raises(ValueError, match=r"config\.yaml cannot be read as the settings of a run"):
        tiny_run(tmp_path / "run", resume=True)
