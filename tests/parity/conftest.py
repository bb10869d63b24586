"""Outputs of released code, and models with the weights they were computed with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenloc.methods import Method
from tokenloc.models import create_model

Arrays = dict[str, Tensor]


@pytest.fixture(scope="session")
def fixture_of(parity_dir: Path) -> Callable[[str], Arrays]:
    """Return a function that reads the numeric arrays of ``NAME.npz`` as tensors."""

    def read(name: str) -> Arrays:
        with np.load(parity_dir / f"{name}.npz") as file:
            return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind in "fiub"}

    return read


@pytest.fixture(scope="module")
def released(request: pytest.FixtureRequest, fixture_of: Callable[[str], Arrays]) -> Arrays:
    """Return the arrays of the module's own file: ``sat.npz`` for ``test_sat.py``."""
    return fixture_of(request.module.__name__.rpartition("test_")[2])


@pytest.fixture(scope="session")
def inputs(fixture_of: Callable[[str], Arrays]) -> Arrays:
    """Images [2, 3, 224, 224], labels [2], and the head's weight and bias."""
    return fixture_of("inputs")


@pytest.fixture
def released_model(shared_dir: Path, inputs: Arrays) -> Callable[..., Method]:
    """Return a function (name, head, **options) that creates a method with ViT-Ti weights and a head.

    ``head`` has its weights by name; by default those of the inputs.
    """

    def make(name: str, head: Arrays | None = None, **options: Any) -> Method:
        weights = shared_dir / "data" / "vit_tiny_patch16_224.safetensors"
        model = create_model(name, "vit_tiny_patch16_224", num_classes=10, pretrained=weights, **options)
        if head is None:
            head = {"head.weight": inputs["head_weight"], "head.bias": inputs["head_bias"]}
        model.load_state_dict({**model.state_dict(), **head})
        return model.eval()

    return make
