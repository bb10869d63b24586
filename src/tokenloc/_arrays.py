"""Reading NumPy files from untrusted sources: sizes are checked before memory is allocated; nothing is unpickled."""

from __future__ import annotations

import math
import os
import zipfile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

MOST_BYTES = 2**30  # of an array in memory


def read_npy(file: IO[bytes]) -> NDArray[Any]:
    """Read an open ``.npy`` file of numbers; raises ValueError if it is damaged or states more values than it has."""
    return _read(file, os.fstat(file.fileno()).st_size)


def read_member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read the array ``name`` of an ``.npz`` file; raises KeyError, or ValueError as ``read_npy`` does."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        return _read(file, member.file_size)


def read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape, whether it is in Fortran's order, and the dtype of an array of numbers; leave its values."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in read:
        raise ValueError(f"version {version} of NumPy's format is not for numbers")
    shape, fortran, dtype = read[version](file)
    if dtype.kind not in "fiub" or min(shape, default=0) < 0:
        raise ValueError(f"its dtype is {dtype} and its shape is {shape}")
    return shape, fortran, dtype


def _read(file: IO[bytes], available: int) -> NDArray[Any]:
    shape, fortran, dtype = read_header(file)
    size = math.prod(shape) * dtype.itemsize
    if size > min(available, MOST_BYTES):
        raise ValueError(f"its header states shape {shape}, {dtype}: {size} bytes, of {available} in the file")
    values = file.read(size)
    if len(values) < size:
        raise ValueError(f"it ends after {len(values)} of {size} bytes")
    return np.frombuffer(bytearray(values), dtype).reshape(shape, order="F" if fortran else "C")
