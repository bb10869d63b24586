"""MkDocs hook: wildcards in the navigation, such as ``methods/*.md``, stand for all pages that match."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Replace the wildcards of the navigation by the pages that match, in alphabetical order."""
    config.nav = expanded(config.nav, Path(config.docs_dir))
    return config


def expanded(entry: Any, docs: Path) -> Any:
    """Return an entry of the navigation with its wildcards expanded."""
    if isinstance(entry, dict):
        return {title: expanded(value, docs) for title, value in entry.items()}
    if not isinstance(entry, list):
        return entry
    entries: list[Any] = []
    for item in entry:
        if isinstance(item, str) and "*" in item:
            entries += sorted(path.relative_to(docs).as_posix() for path in docs.glob(item))
        else:
            entries.append(expanded(item, docs))
    return entries
