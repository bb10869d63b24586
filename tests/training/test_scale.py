"""A training on several processes is that of one with the global batch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from tests.runs import TINY_VIT, tiny_settings
from tokenloc.commands.train import train
from tokenloc.models import create_model
from tokenloc.models.checkpoint import read_checkpoint
from tokenloc.training.config import ModelChoice, Optimisation
from tokenloc.training.placement import Placement, check_precision, check_shares, environments, first_process, placed

# 24 images in batches of 7, 7, 7 and 3 divide evenly among no two processes.
UNEVEN = Optimisation(epochs=3, batch_size=7, lr=1e-3, schedule="cosine")


def model(method: str) -> ModelChoice:
    options: dict[str, Any] = {"spatial_blocks": 1, "area_target": 0.6} if method == "sat" else {}
    return ModelChoice(method, "vit_tiny_patch16_224", False, options, {**TINY_VIT, "depth": 4})


def settings(out: Path, method: str = "sat", optimisation: Optimisation = UNEVEN, **changes: Any) -> dict[str, Any]:
    made = tiny_settings(out, model=model(method), optimisation=optimisation, **changes)
    made["data"].calibration_split = made["data"].test_split = None
    return made


def command(out: Path, *words: str) -> list[str]:
    """Return the command that trains SAT on two processes; its recipe lies beside ``out``."""
    recipe = out.with_suffix(".yaml")
    data = {"name": "scenes", "resize": 36, "crop": 32, "val_split": "val", "options": {"size": 40, "length": 24}}
    optimisation = {"epochs": 3, "batch_size": 7, "lr": 1e-3, "schedule": "cosine"}
    recipe.write_text(yaml.safe_dump({"data": data, "model": vars(model("sat")), "optimisation": optimisation}))
    options = ["--config", str(recipe), "--out", str(out), "--device", "cpu", *words]
    return [sys.executable, "-m", "tokenloc.cli", "train", *options]


def curve(out: Path) -> list[dict[str, float]]:
    """Return the numbers that a run logged, in order."""
    (path,) = out.glob("logs/*/metrics.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = read_checkpoint(out / "checkpoints" / "last.ckpt")["state_dict"]
    return found


def assert_as_one(out: Path, one: Path) -> None:
    found, expected = curve(out), curve(one)
    assert any("train/area" in row for row in expected)  # the tenth step's terms
    assert [list(row) for row in found] == [list(row) for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(weights(out), weights(one), rtol=1e-3, atol=2e-5)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "one"
    train(**settings(out))
    return out


def test_two_devices_learn_what_one_learns(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    done = subprocess.run(command(out, "--devices", "2"), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("24 images of 6 classes") == 1
    assert "Warning" not in done.stderr
    assert_as_one(out, one)


def torchrun(rank: int, nodes: int) -> dict[str, str]:
    """Return what torchrun gives to each of two processes."""
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": str(2 // nodes), "TORCHELASTIC_RUN_ID": "test"}
    places = {"RANK": rank, "LOCAL_RANK": rank % (2 // nodes), "GROUP_RANK": rank * (nodes - 1)}
    return common | {name: str(value) for name, value in places.items()}


def srun(rank: int, nodes: int) -> dict[str, str]:
    """Return what srun gives to each of two tasks."""
    common = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "training", "SLURM_NODELIST": "node[1-2]", "SLURM_STEP_ID": "0"}
    counts = {"SLURM_NTASKS": 2, "SLURM_STEP_NUM_TASKS": 2, "SLURM_NTASKS_PER_NODE": 2 // nodes}
    counts |= {"SLURM_NNODES": nodes, "SLURM_STEP_NUM_NODES": nodes}
    places = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % (2 // nodes), "SLURM_NODEID": rank * (nodes - 1)}
    return common | {name: str(value) for name, value in (counts | places).items()}


Starter = Callable[[int, int], dict[str, str]]


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("starter", [torchrun, srun])
def test_others_start_the_same(one: Path, tmp_path: Path, starter: Starter, nodes: int) -> None:
    """Two processes of one machine, or of two, which are this one twice."""
    out = tmp_path / "two"
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(21000 + os.getpid() % 20000)}
    own = [common | starter(rank, nodes) for rank in range(2)]
    started = [subprocess.Popen(command(out), env=env, stderr=subprocess.PIPE, text=True) for env in own]
    told = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], told
    assert "24 images" in told[0]
    assert not told[1].strip()
    assert_as_one(out, one)


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    """For a loss that is a mean over images; clipping keeps both to one step's gradient."""
    whole = Optimisation(epochs=1, batch_size=12, lr=1e-3, gradient_clip=1.0)
    parts = Optimisation(epochs=1, batch_size=4, accumulate=3, lr=1e-3, gradient_clip=1.0)
    train(**settings(tmp_path / "whole", "tscam", whole))
    train(**settings(tmp_path / "parts", "tscam", parts))
    torch.testing.assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"), rtol=1e-3, atol=2e-5)
    assert read_checkpoint(tmp_path / "parts" / "checkpoints" / "last.ckpt")["global_step"] == 2


def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ValueError, match=r"--devices 999 with --device cuda: this machine has \d+; ask for no more"):
        placed("cuda", 999)


@pytest.mark.parametrize(("devices", "nodes", "name"), [(0, 1, "devices"), (1, 0, "nodes")])
def test_no_devices(devices: int, nodes: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"--{name} must be at least 1; got 0"):
        placed("cpu", devices, nodes)


def test_processes_on_a_cpu_and_of_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert placed("cpu").world == 1
    assert placed("cpu", 2, 3).world == 6
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert (placed("cpu").devices, placed("cpu").nodes) == (2, 4)


def test_tasks_of_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those that a batch script or a shell of salloc could start."""
    for name, value in srun(0, 2).items():
        monkeypatch.setenv(name, value)
    assert (placed("cpu").devices, placed("cpu").nodes) == (1, 2)
    assert (placed("cpu", 3).devices, placed("cpu", 3).nodes) == (3, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    with pytest.raises(ValueError, match="srun started 3 tasks on 2 nodes; give each as many, by --ntasks-per-node"):
        placed("cpu")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    with pytest.raises(ValueError, match="3 tasks in a job named interactive.*salloc --job-name"):
        placed("cpu")
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert placed("cpu").world == 1


def test_slurm_does_not_requeue_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that a batch script starts without srun are Lightning's own, whatever tasks the job has."""
    assert environments() == []
    for name, value in srun(0, 2).items():
        monkeypatch.setenv(name, value)
    (by_srun,) = environments()
    assert isinstance(by_srun, SLURMEnvironment)
    assert not by_srun.auto_requeue
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert isinstance(environments()[0], LightningEnvironment)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert environments() == []


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"])
def test_who_prints_and_writes(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(each, raising=False)
    assert first_process()
    monkeypatch.setenv(name, "1")
    assert not first_process()


def test_too_few_images_for_the_processes() -> None:
    check_shares(24, 7, 3)
    with pytest.raises(ValueError, match=r"batches of 7 leave 3 of 24 images .* too few for 4 processes"):
        check_shares(24, 7, 4)
    with pytest.raises(ValueError, match="batches of 2 leave 2 of 24"):
        check_shares(24, 2, 3)


def test_float16_is_for_gpus(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--precision 16-mixed is for GPUs: .* ask for bf16-mixed"):
        train(**settings(tmp_path / "out", precision="16-mixed"))
    assert not (tmp_path / "out").exists()
    check_precision("16-mixed", Placement("cuda"))


def test_an_unknown_precision(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown precision 'bf16'. Valid: 16-mixed, 32-true, bf16-mixed"):
        train(**settings(tmp_path / "out", precision="bf16"))


def test_seeds_take_one_process(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--seeds trains one run after the other, in one process"):
        train(**settings(tmp_path / "out", seeds=[0, 1], devices=2))


def test_no_accumulation() -> None:
    with pytest.raises(ValueError, match=r"optimisation.accumulate must be at least 1; got 0"):
        Optimisation(accumulate=0)


@pytest.mark.parametrize("method", ["sat", "tscam", "lctr", "scm"])
@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224"])
def test_checkpointed_activations_have_the_same_gradients(method: str, backbone: str) -> None:
    """With dropped paths too; fewer bytes are kept for the backward pass."""
    options: dict[str, Any] = {**TINY_VIT, "depth": 4, "drop_path_rate": 0.5}
    made = create_model(method, backbone, 3, pretrained=False, image_size=32, backbone_options=options)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    found: list[tuple[int, dict[str, torch.Tensor]]] = []
    for checkpointed in (False, True):
        made.backbone.checkpointed = checkpointed
        kept: set[tuple[int, int]] = set()

        def keep(tensor: torch.Tensor, kept: set[tuple[int, int]] = kept) -> torch.Tensor:
            kept.add((tensor.data_ptr(), tensor.nbytes))
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = made.loss(made(images), labels)["total"]
        made.zero_grad()
        total.backward()
        gradients = {name: each.grad.clone() for name, each in made.named_parameters() if each.grad is not None}
        found.append((sum(size for _, size in kept), gradients))
    (whole, expected), (less, same) = found
    assert less < whole
    assert set(same) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(same[name], gradient, rtol=0, atol=0, msg=name)
