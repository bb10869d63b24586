"""Digests by which caches recognize the images that they were computed from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenloc.data.base import ImageDataset


def digest(value: Any) -> str:
    """Return the SHA-256 of a plain value; equal values give equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Return the path, size and modification time of a file; raises OSError if it does not exist."""
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def digest_of_images(dataset: ImageDataset, options: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all ids, class indices and fingerprints, and of the dataset's ``options``."""
    known = hashlib.sha256(f"{dataset.name} {json.dumps(options, sort_keys=True, default=str)}".encode())
    for index, sample in enumerate(dataset.samples):
        try:
            fingerprint = dataset.fingerprint(index)
        except OSError:  # training skips it, so it may be missing here
            fingerprint = "absent"
        known.update(f"\n{sample.id} {sample.label} {fingerprint}".encode("utf-8", "surrogateescape"))
    return known.hexdigest()
