"""Checks that what a checkpoint describes needs no more memory than the checkpoint has, before it is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LARGEST_OPTION = 100_000  # of the integers that describe a network, such as its depth
_SPARE = 1000  # tensors that are not stored: buffers, parts that are removed, temporary ones
_FACTORIES = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.linspace}


def check_weights(weights: Any, path: Path) -> None:
    """Raise ValueError unless ``weights`` are named dense tensors with no more values than the file at ``path`` has."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"{path}: state_dict must be named tensors, not {type(weights).__name__}")
    size = 0
    for name, tensor in weights.items():
        if type(name) is not str or not _is_dense(tensor):
            kind = f"{tensor.dtype} {tensor.layout}" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ValueError(
                f"{path}: state_dict must be named dense tensors, not {name!r:.80}: {kind}; is it damaged?"
            )
        size += tensor.numel() * tensor.element_size()
    stored = path.stat().st_size
    if size > 2 * stored:  # two names may share a tensor
        raise ValueError(f"{path}: state_dict has tensors of {size} bytes in a file of {stored} bytes")


def _is_dense(tensor: Any) -> bool:
    plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided and not tensor.is_meta
    return plain and not tensor.is_quantized and not tensor.is_complex()


def check_model(create: Callable[[], nn.Module], options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Create a model without memory for its tensors, and load ``weights``, so that shapes are compared.

    Raises:
        ValueError: if the model has many more tensors than ``weights``, or an integer in ``options`` is implausible.
        RuntimeError: if names or shapes of its tensors differ from those of the weights.
    """
    for number in _integers(options.values()):
        if abs(number) > LARGEST_OPTION:
            raise ValueError(f"its options contain {number}; the largest plausible integer is {LARGEST_OPTION}")
    with torch.device("meta"), _Limit(len(weights)):
        model = create()
    model.load_state_dict(dict(weights), assign=True)


def _integers(values: Iterable[Any]) -> Iterator[int]:
    for value in values:
        if isinstance(value, int):
            yield value
        elif isinstance(value, (list, tuple, dict)):
            yield from _integers(value.values() if isinstance(value, dict) else value)


class _Limit(TorchFunctionMode):
    """While active, creating many more tensors than there are ``weights`` raises ValueError."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.left = 2 * weights + _SPARE

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count a new tensor before it is created."""
        self.left -= func in _FACTORIES
        if self.left < 0:
            raise ValueError("it has many more layers than the weights beside it")
        return func(*args, **(kwargs or {}))
