"""Tables in MATLAB files, as the Stanford datasets have them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat


def read_mat(path: Path, names: Sequence[str]) -> list[NDArray[Any]]:
    """Return variables of a MATLAB file: arrays [N] of strings, numbers or structures with fields by name.

    Args:
        path: a file of MATLAB's versions 4 to 7.
        names: the variables.

    Raises:
        ValueError: where the file cannot be read or lacks one of the variables.
    """
    try:
        content = loadmat(str(path), squeeze_me=True)
    except Exception as error:  # the reader raises a dozen types on damaged files
        raise ValueError(f"{path}: cannot be read as a MATLAB file ({error}); download it again") from error
    lacking = [name for name in names if name not in content]
    if lacking:
        found = ", ".join(sorted(name for name in content if not name.startswith("__")))
        raise ValueError(f"{path}: lacks {', '.join(lacking)}; it holds {found or 'nothing'}; download it again")
    return [np.atleast_1d(content[name]) for name in names]


def fields(table: NDArray[Any], names: Sequence[str], path: Path) -> list[list[Any]]:
    """Return the named fields of a structure array [N], each a list of N; ValueError where one is lacking."""
    lacking = [name for name in names if name not in (table.dtype.names or ())]
    if lacking:
        raise ValueError(f"{path}: annotations lack {', '.join(lacking)}; they have {table.dtype.names}")
    return [table[name].tolist() for name in names]
