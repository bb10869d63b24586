"""Training on several processes gives the results of one process with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment

from tests.runs import TINY_VIT, tiny_settings, weights
from tokenloc.commands.train import train
from tokenloc.inference.processes import first_process
from tokenloc.models import create_model
from tokenloc.models.checkpoint import read_checkpoint
from tokenloc.reporting.charts import read_curves
from tokenloc.training.config import ModelChoice, Optimisation
from tokenloc.training.placement import Placement, check_precision, check_shares, choose_placement, environments

# 24 images in batches of 7, 7, 7 and 3, none of which splits evenly among two processes.
UNEVEN = Optimisation(epochs=3, batch_size=7, lr=1e-3, schedule="cosine")


def model(method: str) -> ModelChoice:
    options: dict[str, Any] = {"spatial_blocks": 1, "area_target": 0.6} if method == "sat" else {}
    return ModelChoice(
        method, "vit_tiny_patch16_224", False, options=options, backbone_options={**TINY_VIT, "depth": 4}
    )


def settings(out: Path, method: str = "sat", optimisation: Optimisation = UNEVEN, **changes: Any) -> dict[str, Any]:
    made = tiny_settings(out, model=model(method), optimisation=optimisation, **changes)
    made["data"].calibration_split = made["data"].test_split = None
    return made


def command(out: Path, *words: str) -> list[str]:
    """Return the command that trains SAT; its recipe is written next to ``out``."""
    recipe = out.with_suffix(".yaml")
    data = {"name": "scenes", "resize": 36, "crop": 32, "val_split": "val", "options": {"size": 40, "length": 24}}
    optimisation = {"epochs": 3, "batch_size": 7, "lr": 1e-3, "schedule": "cosine"}
    recipe.write_text(yaml.safe_dump({"data": data, "model": vars(model("sat")), "optimisation": optimisation}))
    options = ["--config", str(recipe), "--out", str(out), "--device", "cpu", *words]
    return [sys.executable, "-m", "tokenloc.cli", "train", *options]


def assert_same_training(out: Path, one: Path) -> None:
    found, expected = (read_curves(run / "logs") for run in (out, one))
    assert "train/area" in expected  # the loss terms of the tenth step
    assert found.keys() == expected.keys()
    for name, points in expected.items():
        assert np.array(found[name]) == pytest.approx(np.array(points), rel=1e-4, abs=1e-5)
    torch.testing.assert_close(weights(out), weights(one), rtol=1e-3, atol=2e-5)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "one"
    train(**settings(out))
    return out


@pytest.mark.slow
def test_two_devices_learn_the_same_as_one(one: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    done = subprocess.run(command(out, "--devices", "2"), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("24 images of 6 classes") == 1
    assert "Warning" not in done.stderr
    assert_same_training(out, one)


def torchrun(rank: int, nodes: int) -> dict[str, str]:
    """Return the environment of one of two processes that torchrun started."""
    local = 2 // nodes
    common = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": local, "TORCHELASTIC_RUN_ID": "test"}
    own = {"RANK": rank, "LOCAL_RANK": rank % local, "GROUP_RANK": rank * (nodes - 1)}
    return {name: str(value) for name, value in (common | own).items()}


def srun(rank: int, nodes: int) -> dict[str, str]:
    """Return the environment of one of two tasks that srun started."""
    common = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "training", "SLURM_NODELIST": "node[1-2]", "SLURM_STEP_ID": "0"}
    counts = {"SLURM_NTASKS": 2, "SLURM_STEP_NUM_TASKS": 2, "SLURM_NTASKS_PER_NODE": 2 // nodes}
    counts |= {"SLURM_NNODES": nodes, "SLURM_STEP_NUM_NODES": nodes}
    own = {"SLURM_PROCID": rank, "SLURM_LOCALID": rank % (2 // nodes), "SLURM_NODEID": rank * (nodes - 1)}
    return common | {name: str(value) for name, value in (counts | own).items()}


Launcher = Callable[[int, int], dict[str, str]]


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "nodes"), [(torchrun, 1), (srun, 2)])
def test_launched_processes_learn_the_same(one: Path, tmp_path: Path, launcher: Launcher, nodes: int) -> None:
    """Two processes of one machine, or one on each of two, both of which are this machine."""
    out = tmp_path / "two"
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(21000 + os.getpid() % 20000)}
    own = [common | launcher(rank, nodes) for rank in range(2)]
    started = [subprocess.Popen(command(out), env=env, stderr=subprocess.PIPE, text=True) for env in own]
    printed = [process.communicate(timeout=240)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert "24 images" in printed[0]
    assert not printed[1].strip()
    assert_same_training(out, one)


def test_accumulated_batches_equal_one_batch(tmp_path: Path) -> None:
    """For a loss that is a mean over images; clipping applies to the gradient of the whole step."""
    whole = Optimisation(epochs=1, batch_size=12, lr=1e-3, gradient_clip=1.0)
    parts = Optimisation(epochs=1, batch_size=4, accumulate=3, lr=1e-3, gradient_clip=1.0)
    train(**settings(tmp_path / "whole", "tscam", whole))
    train(**settings(tmp_path / "parts", "tscam", parts))
    torch.testing.assert_close(weights(tmp_path / "parts"), weights(tmp_path / "whole"), rtol=1e-3, atol=2e-5)
    assert read_checkpoint(tmp_path / "parts" / "checkpoints" / "last.ckpt")["global_step"] == 2


@pytest.mark.parametrize(
    ("device", "devices", "nodes", "message"),
    [
        ("cuda", 999, 1, r"--devices 999 with --device cuda, but this machine has \d+; ask for fewer"),
        ("cpu", 0, 1, "--devices must be at least 1; got 0"),
        ("cpu", 1, 0, "--nodes must be at least 1; got 0"),
    ],
)
def test_invalid_placements(device: str, devices: int, nodes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_placement(device, devices, nodes)


def test_placement_on_a_cpu_and_under_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_placement("cpu").world == 1
    assert choose_placement("cpu", 2, 3).world == 6
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    assert choose_placement("cpu") == Placement("cpu", 2, 4)


def test_placement_under_srun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike a batch script or salloc's shell, whose job has tasks as well."""
    for name, value in srun(0, 2).items():
        monkeypatch.setenv(name, value)
    assert choose_placement("cpu") == Placement("cpu", 1, 2)
    assert choose_placement("cpu", 3) == Placement("cpu", 3, 1)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    with pytest.raises(ValueError, match="srun started 3 tasks on 2 nodes; .* --ntasks-per-node"):
        choose_placement("cpu")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    with pytest.raises(ValueError, match="3 tasks in a job named interactive.*salloc --job-name"):
        choose_placement("cpu")
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert choose_placement("cpu").world == 1


def test_lightning_does_not_requeue_slurm_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a batch script starts without srun are Lightning's own, whatever tasks the job has."""
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
def test_the_first_process(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for each in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(each, raising=False)
    assert first_process()
    monkeypatch.setenv(name, "1")
    assert not first_process()


def test_too_few_images_for_the_processes() -> None:
    check_shares(24, 7, 3)
    for batch_size, world in ((7, 4), (2, 3)):
        last = 24 % batch_size or batch_size
        with pytest.raises(ValueError, match=rf"the last batch has {last} of 24 images, too few for {world} processes"):
            check_shares(24, batch_size, world)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"precision": "16-mixed"}, r"--precision 16-mixed needs a GPU; .* bf16-mixed"),
        ({"precision": "bf16"}, "unknown precision 'bf16'. Valid: 16-mixed, 32-true, bf16-mixed"),
        ({"seeds": [0, 1], "devices": 2}, "--seeds trains the runs one after the other in one process"),
    ],
)
def test_invalid_precision_and_seeds(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(**settings(tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
    check_precision("16-mixed", Placement("cuda"))


@pytest.mark.parametrize("method", ["sat", "tscam", "lctr", "scm"])
def test_checkpointed_activations_have_the_same_gradients(method: str) -> None:
    """Also with dropped paths; fewer bytes are saved for the backward pass."""
    options: dict[str, Any] = {**TINY_VIT, "depth": 4, "drop_path_rate": 0.5}
    made = create_model(method, "vit_tiny_patch16_224", 3, pretrained=False, image_size=32, backbone_options=options)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    found = []
    for checkpointed in (False, True):
        made.backbone.checkpointed = checkpointed
        saved: set[tuple[int, int]] = set()

        def save(tensor: torch.Tensor, saved: set[tuple[int, int]] = saved) -> torch.Tensor:
            saved.add((tensor.data_ptr(), tensor.nbytes))
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
            total = made.loss(made(images), labels)["total"]
        made.zero_grad()
        total.backward()
        gradients = {name: each.grad.clone() for name, each in made.named_parameters() if each.grad is not None}
        found.append((sum(size for _, size in saved), gradients))
    (all_bytes, expected), (fewer, same) = found
    assert fewer < all_bytes
    assert set(same) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(same[name], gradient, rtol=0, atol=0, msg=name)
