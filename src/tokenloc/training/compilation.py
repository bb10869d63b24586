"""``--compile``: compile the training forward pass with ``torch.compile``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tokenloc.methods import Output

ForwardPass = Callable[[Tensor], Output]

# fallback_random draws the same random numbers as without compiling, so that a seed drops the same paths.
BACKEND: dict[str, Any] = {"backend": "inductor", "options": {"fallback_random": True}}


def compiled(forward: ForwardPass) -> ForwardPass:
    """Return ``forward``, compiled when it is first called; the call raises ValueError if that is impossible."""
    torch.compiler.reset()  # PyTorch recompiles a function at most eight times, earlier trainings included

    @torch.compile(**BACKEND)
    def traced(images: Tensor) -> Output:
        return forward(images)  # PyTorch does not trace a module's __call__ without a function around it

    def run(images: Tensor) -> Output:
        try:
            output: Output = traced(images)
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise  # from the model itself, such as running out of memory
            reason = " ".join(str(error).split("\n")[:2])
            raise ValueError(
                f"PyTorch cannot compile this model: {reason}; this needs a C++ compiler and the Python headers on a "
                "CPU, Triton and a C compiler on a GPU. Train without --compile (or set compile: false in config.yaml)"
            ) from error
        return output

    return run
