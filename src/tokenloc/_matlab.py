"""A program that reads a MATLAB file: SciPy's reader may crash on a damaged one, so it has its own process.

``data.lists.read_mat`` runs it as ``python _matlab.py FILE VARIABLE [FIELD …]``. It prints JSON, ``{"values": …}`` or
``{"error": …}``, and imports nothing of tokenloc.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from scipy.io import loadmat

SECONDS, MEMORY = 60, 4 << 30  # of the processor, and bytes of address space


def read(path: str, variable: str, fields: list[str]) -> list[Any]:
    """Return a variable [N] as a list, or of a structure array the named fields, each a list [N]."""
    try:
        content = loadmat(path, squeeze_me=True)
    except Exception as error:  # the reader raises a dozen types on damaged files
        raise ValueError(f"cannot be read as a MATLAB file ({error}); download it again") from error
    if variable not in content:
        found = ", ".join(sorted(name for name in content if not name.startswith("__")))
        raise ValueError(f"no variable {variable}; it holds {found or 'nothing'}; download it again")
    table = np.atleast_1d(content[variable])
    lacking = [name for name in fields if name not in (table.dtype.names or ())]
    if lacking:
        raise ValueError(f"{variable} lack {', '.join(lacking)}; they have {table.dtype.names}")
    return [table[name].tolist() for name in fields] if fields else list(table.tolist())


def _limit_resources() -> None:
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)


if __name__ == "__main__":
    _limit_resources()
    try:
        result: dict[str, Any] = {"values": read(sys.argv[1], sys.argv[2], sys.argv[3:])}
    except ValueError as error:
        result = {"error": str(error)}
    json.dump(result, sys.stdout, default=_plain)
