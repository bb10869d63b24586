"""Where a training runs: on how many devices of how many machines, one process for each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from tokenloc._names import one_of
from tokenloc.training.config import Precision

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Placement:
    """The processes of a training, each with a device of its own.

    Attributes:
        device: cpu, cuda or mps.
        devices: of each machine; on a CPU processes.
        nodes: machines.
    """

    device: str
    devices: int = 1
    nodes: int = 1

    @property
    def world(self) -> int:
        """How many processes there are in all."""
        return self.devices * self.nodes


def placed(device: str = "auto", devices: int | None = None, nodes: int = 1) -> Placement:
    """Return where to train: as asked for, or as torchrun or SLURM's srun started this process, or on one device.

    Args:
        device: auto, cpu, cuda or mps.
        devices: of each machine; None for as many processes as torchrun or srun started here, or one.
        nodes: machines; torchrun's or srun's number where ``devices`` is None.

    Raises:
        ValueError: for numbers below 1, another device, devices that this machine does not have, and tasks of srun that
            cannot train together.
    """
    started = _started()
    if devices is None and started is not None:
        devices, nodes = started
    devices = 1 if devices is None else devices
    for name, number in (("devices", devices), ("nodes", nodes)):
        if number < 1:
            raise ValueError(f"--{name} must be at least 1; got {number}")
    cuda, mps = torch.cuda.device_count(), int(torch.backends.mps.is_available())
    if one_of("device", device, Device) == "auto":
        device = "cuda" if cuda else "mps" if mps else "cpu"
    there = {"cuda": cuda, "mps": mps, "cpu": devices}[device]
    if devices > there:
        raise ValueError(
            f"--devices {devices} with --device {device}: this machine has {there}; "
            "ask for no more, or for processes on the CPU with --device cpu"
        )
    return Placement(device, devices, nodes)


def process_rank() -> int:
    """Return this process's number as torchrun or SLURM gave it, before the processes are joined; 0 without them."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")))


def check_precision(precision: Precision, placement: Placement) -> None:
    """Raise ValueError for another precision, or one that is none for the device."""
    if one_of("precision", precision, Precision) == "16-mixed" and placement.device == "cpu":
        raise ValueError(
            "--precision 16-mixed is for GPUs: what a CPU has for half the digits is bfloat16; ask for bf16-mixed"
        )


def first_process() -> bool:
    """Whether this process is the one that prints and writes; before the others are joined, too."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    if "RANK" in os.environ:
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("NODE_RANK", "LOCAL_RANK", "SLURM_PROCID"))


def _started() -> tuple[int, int] | None:
    """Return processes of each machine, and machines, as torchrun or srun started them; None where neither did.

    Raises:
        ValueError: for tasks of srun that cannot train together.
    """
    if dist.is_available() and dist.is_torchelastic_launched():
        own = int(os.environ["LOCAL_WORLD_SIZE"])
        return own, int(os.environ["WORLD_SIZE"]) // own
    tasks, nodes = _tasks(), int(os.environ.get("SLURM_STEP_NUM_NODES", "1"))
    if tasks == 1:
        return None
    if not SLURMEnvironment.detect():  # Lightning would take each task for a training by itself
        raise ValueError(
            f"srun started {tasks} tasks in a job named {SLURMEnvironment.job_name()}, which is taken for a shell with "
            "one process; give the job another name, as in: salloc --job-name training"
        )
    own = int(os.environ.get("SLURM_NTASKS_PER_NODE", "0"))
    if own * nodes != tasks:
        raise ValueError(f"srun started {tasks} tasks on {nodes} nodes; give each as many, by --ntasks-per-node")
    return own, nodes


def _tasks() -> int:
    """Return how many processes srun started as one step; 1 in a batch script, or in the shell of salloc."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))


def environments() -> list[ClusterEnvironment]:
    """Return what Lightning is to take for its surroundings: under SLURM, as srun has started this process or not.

    Lightning takes a whole job for started by srun, and puts it in the queue again by itself, with a checkpoint in the
    working folder that any later training would begin from. Elsewhere it finds out, and nothing is returned.
    """
    if (dist.is_available() and dist.is_torchelastic_launched()) or not SLURMEnvironment.detect():
        return []
    return [SLURMEnvironment(auto_requeue=False) if _tasks() > 1 else LightningEnvironment()]


def check_shares(images: int, batch_size: int, world: int) -> None:
    """Raise ValueError where a batch of an epoch has fewer images than there are processes."""
    last = images % batch_size or batch_size
    if min(last, images) < world:
        raise ValueError(
            f"batches of {batch_size} leave {last} of {images} images for the last one, too few for {world} "
            "processes; choose another optimisation.batch_size, which is that of all processes together"
        )
