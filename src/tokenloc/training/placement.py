"""The processes of a training: how many, and on which devices."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from tokenloc._names import one_of
from tokenloc.training.config import Precision

Device = Literal["auto", "cpu", "cuda", "mps"]


class Placement(NamedTuple):
    """The processes of a training, each with its own device: cpu, cuda or mps."""

    device: str
    devices: int = 1  # of each machine; on a CPU, processes
    nodes: int = 1  # machines

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes


def choose_placement(device: str, devices: int | None = None, nodes: int = 1) -> Placement:
    """Return the requested placement, by default that of torchrun or srun; raise ValueError if it is impossible."""
    started = _started_by_launcher()
    if devices is None:
        devices, nodes = started or (1, nodes)
    for name, count in (("devices", devices), ("nodes", nodes)):
        if count < 1:
            raise ValueError(f"--{name} must be at least 1; got {count}")
    cuda, mps = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    if one_of("device", device, Device) == "auto":
        device = "cuda" if cuda else "mps" if mps else "cpu"
    available = {"cuda": cuda, "mps": mps, "cpu": devices}[device]
    if devices > available:
        raise ValueError(
            f"--devices {devices} with --device {device}, but this machine has {available}; "
            "ask for fewer, or for CPU processes with --device cpu"
        )
    return Placement(device, devices, nodes)


def check_precision(precision: Precision, placement: Placement) -> None:
    """Raise ValueError if the precision is unknown or the device does not support it."""
    if one_of("precision", precision, Precision) == "16-mixed" and placement.device == "cpu":
        raise ValueError("--precision 16-mixed needs a GPU; on a CPU use bf16-mixed")


def check_shares(images: int, batch_size: int, world: int) -> None:
    """Raise ValueError if a batch of an epoch has fewer images than there are processes."""
    last = images % batch_size or batch_size
    if min(last, images) < world:
        raise ValueError(
            f"with batches of {batch_size}, the last batch has {last} of {images} images, too few for {world} "
            "processes; choose another optimisation.batch_size, which counts the images of all processes together"
        )


def environments() -> list[ClusterEnvironment]:
    """Return Lightning's environment under SLURM, which it would otherwise misread and requeue; empty elsewhere."""
    if TorchElasticEnvironment.detect() or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False) if _srun_tasks() > 1 else LightningEnvironment()]


def _started_by_launcher() -> tuple[int, int] | None:
    """Return (processes of each machine, machines) as started by torchrun or srun; None without either."""
    if TorchElasticEnvironment.detect():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    tasks, nodes = _srun_tasks(), int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    if tasks == 1:
        return None
    if not SLURMEnvironment.detect():  # Lightning would train once in each task
        raise ValueError(
            f"srun started {tasks} tasks in a job named {SLURMEnvironment.job_name()}, which Lightning treats as an "
            "interactive shell with one process; rename the job, for example salloc --job-name training"
        )
    local = int(os.environ.get("SLURM_NTASKS_PER_NODE", "0"))
    if local * nodes != tasks:
        remedy = "start the same number on each with --ntasks-per-node"
        raise ValueError(f"srun started {tasks} tasks on {nodes} nodes; {remedy}")
    return local, nodes


def _srun_tasks() -> int:
    """Return how many processes srun started together; 1 in a batch script or in salloc's shell."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
