"""The device to predict on."""

from __future__ import annotations

import torch


def choose_device(name: str = "auto") -> torch.device:
    """Return the device ``name``; ``auto`` selects CUDA, else Apple's MPS, else the CPU."""
    available = ["cpu"] + ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
    if name == "auto":
        return torch.device(available[-1])
    if name.split(":")[0] not in available:
        raise ValueError(f"device {name!r} is not available here; use auto or one of {', '.join(available)}")
    return torch.device(name)
