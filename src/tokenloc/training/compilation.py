"""``--compile``: what a training step runs of a model, compiled by torch; what cannot be is told before it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from tokenloc.methods import Output

Pass = Callable[[Tensor], Output]

BACKEND: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}
"""Random numbers as without compilation: the same seed drops the same paths."""

AWAY = "leave --compile away (of a run that is to go on, set compile: false in its config.yaml)"


def compiled(run: Pass, device: torch.device) -> Pass:
    """Return ``run``, what a training step runs on its images, compiled when it is first called.

    Names and values of the parameters stay as they are. The first batch of another size, an epoch's last one, is
    compiled once more, for any size.

    Raises:
        ValueError: where torch cannot compile on ``device``: at once, by a trial. What is returned raises it where
            ``run`` cannot be compiled.
    """
    torch.compiler.reset()  # of the models of earlier trainings: torch compiles a function eight times, then no more

    def traced(images: Tensor) -> Output:
        return run(images)  # a frame of its own: torch does not trace a module's __call__ by itself

    _try(device)
    fast = torch.compile(traced, **BACKEND)

    def told(images: Tensor) -> Output:
        try:
            return fast(images)
        except TorchDynamoException as error:
            raise ValueError(f"torch cannot compile this model: {_beginning(error)}; {AWAY}") from error

    return told


def _try(device: torch.device) -> None:
    """Compile and run next to nothing."""
    try:
        torch.compile(lambda x: (x.sin() + 1).sum(), **BACKEND)(torch.ones(8, device=device))
    except RuntimeError as error:
        needed = {"cpu": "a C++ compiler (g++, or the one in CXX) and Python's headers"}
        tools = needed.get(device.type, "Triton and a C compiler")
        raise ValueError(
            f"torch cannot compile on this machine's {device.type}, which takes {tools}: {_beginning(error)}; {AWAY}"
        ) from error


def _beginning(error: BaseException) -> str:
    return " ".join(str(error).split("\n")[:2])
