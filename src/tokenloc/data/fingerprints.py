"""Telling whether images, or what was made of them, are still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenloc.data.base import ImageDataset


def digest(value: Any) -> str:
    """Return SHA-256 of a plain value, the same for equal values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_fingerprint(path: Path) -> str:
    """Return place, size and time of change of a file; raises OSError where there is none."""
    known = path.stat()
    return f"{path.resolve()} {known.st_size} {known.st_mtime_ns}"


def digest_of_images(dataset: ImageDataset, options: Mapping[str, Any], labels: bool) -> str:
    """Return SHA-256 of which images these are: each one's id and ``ImageDataset.fingerprint``, in their order.

    Args:
        dataset: the images.
        options: of the dataset: generated images depend on them.
        labels: whether each one's class counts, too.
    """
    known = hashlib.sha256(f"{dataset.name} {json.dumps(options, sort_keys=True, default=str)}".encode())
    for index, sample in enumerate(dataset.samples):
        label = sample.label if labels else ""
        try:
            fingerprint = dataset.fingerprint(index)
        except OSError:  # training leaves it out, and so it may be here
            fingerprint = "absent"
        known.update(f"\n{sample.id} {label} {fingerprint}".encode("utf-8", "surrogateescape"))
    return known.hexdigest()
