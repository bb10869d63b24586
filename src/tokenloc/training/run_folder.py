"""The folder of a run: its files, and the checks before a run starts or resumes."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tokenloc._files import write_json, write_text
from tokenloc._plain import read_yaml
from tokenloc.models.metadata import versions
from tokenloc.training.interruption import StoppedError

CHECKPOINTS = "checkpoints"
ABSENT = "absent"
_RUN = ("out", "device", "devices", "nodes", "checkpoint_activations", "compile", "workers", "protocol", "save_minutes")
_DATA = ("data.root", "data.cache", "data.maps", "data.calibration_split", "data.calibrate_by", "data.test_split")
# Settings that may change when a run resumes: no completed step depends on them, except on a cosine's epochs.
CHANGEABLE = (*_RUN, *_DATA, "optimisation.epochs")
REMOVED = ("data.cached_pictures",)  # settings of older versions that no result depends on


class RunFolder:
    """The files of a run. The folder need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.json"
        self.best, self.last = (path / CHECKPOINTS / f"{name}.ckpt" for name in ("best", "last"))

    def check(self, settings: Mapping[str, Any], defaults: Mapping[str, Any], resume: bool) -> list[str]:
        """Check that a run with these ``settings`` may start here, or resume; return the settings that have changed.

        ``defaults`` are the values of settings that the version of tokenloc that started the run did not have. Raises
        ValueError if there is a run already or its settings differ, FileNotFoundError if there is none to resume.
        """
        started = self.last.is_file()
        if started and not resume:
            raise ValueError(f"{self.path} already contains a run; continue it with --resume, or choose another --out")
        if not resume or not self.config.is_file():
            if resume and not started:
                raise FileNotFoundError(f"nothing to resume: {self.last} does not exist; start without --resume")
            return []
        found = differences(self._stored(defaults), settings)
        if fixed := [line for name, line in found.items() if name not in CHANGEABLE]:
            problem = f"{self.path} cannot be resumed with another configuration; differences:"
            remedy = f"continue with the original settings (--config {self.config} --resume)"
            raise ValueError("\n".join([problem, *fixed, f"{remedy}, or start again in another --out"]))
        return [line for name, line in found.items() if name != "out"]

    def _stored(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings in config.yaml, with defaults for missing ones, but not for options of a method."""
        filled = {**defaults, **read_yaml(self.config)}
        return {
            name: {**default, **value} if isinstance(value, Mapping) and isinstance(default, Mapping) else value
            for name, value in filled.items()
            for default in [defaults.get(name)]
        }

    def record(self, settings: Mapping[str, Any]) -> None:
        """Write config.yaml, which ``--config`` accepts, and environment.json with versions and commit."""
        write_text(self.config, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
        write_json(self.path / "environment.json", {**versions(), "commit": _commit()})

    @contextmanager
    def explained_interruption(self, silent: bool) -> Iterator[None]:
        """Turn an interruption into a KeyboardInterrupt that says how to resume; if ``silent``, end the process."""
        try:
            yield
        except (StoppedError, KeyboardInterrupt) as end:
            if silent:
                raise SystemExit(130) from end
            unchanged = f"{self.last} is unchanged" if self.last.is_file() else "no checkpoint was written yet"
            command = shlex.join(["tokenloc", "train", "--config", str(self.config), "--resume"])
            raise KeyboardInterrupt(f"interrupted; {str(end) or unchanged}; resume with: {command}") from end


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return a line for each setting that differs, by dotted name.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3, "d": 4}})
    {'a.c': '  a.c: stored 2, now 3', 'a.d': '  a.d: stored absent, now 4'}
    """
    old, new = _flattened(stored), _flattened(now)
    pairs = {name: (old.get(name, ABSENT), new.get(name, ABSENT)) for name in {**new, **old} if name not in REMOVED}
    empty: tuple[Any, ...] = ({}, ABSENT)  # no options on one side, some on the other
    changed = {name: (a, b) for name, (a, b) in pairs.items() if a != b and not (a in empty and b in empty)}
    return {name: f"  {name}: stored {a}, now {b}" for name, (a, b) in changed.items()}


def _flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        nested = isinstance(value, Mapping) and value
        flat |= _flattened(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return flat


def _commit() -> str | None:
    """Return the commit of the source tree; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
