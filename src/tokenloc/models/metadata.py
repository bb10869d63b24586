"""The metadata that a checkpoint stores with its weights. It is untrusted input and validated before use."""

from __future__ import annotations

import platform
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import timm
import torch

import tokenloc
from tokenloc._names import unknown_name
from tokenloc._plain import plain
from tokenloc.backbones import check_options
from tokenloc.data.transforms import Preprocessing
from tokenloc.methods import ModelConfig

METADATA_KEY = "tokenloc"  # in a checkpoint and in config.json
FORMAT = 1

_OLD_NAMES = {"viewing": "options", "photographs": "images"}  # fields of Threshold before 2026-12


@dataclass(frozen=True)
class Threshold:
    """The map threshold of a model, in [0, 1], for maps scaled to [0, 1]."""

    value: float
    source: str  # for people: "calibrated on train of cub (300 images), protocol standard"
    options: str = "plain"  # the ``PredictionOptions`` that it was calibrated for
    images: str = ""  # the images that it was calibrated on, such as "train of cub"; empty if unknown
    method_options: dict[str, Any] = field(default_factory=dict)  # ``load_checkpoint``'s when it was calibrated

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:
            raise ValueError(f"the threshold must be in [0, 1]; got {self.value}")


@dataclass(frozen=True)
class ModelMetadata:
    """What a checkpoint says about its weights."""

    model: ModelConfig
    classes: tuple[str, ...]  # names, in the order of the logits
    preprocessing: Preprocessing
    threshold: Threshold | None = None  # None until it is calibrated
    data: dict[str, Any] | None = None  # ``name``, ``root`` and ``options`` of the training dataset

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint, with the format and the versions of the software."""
        return {"format": FORMAT, "versions": versions(), **asdict(self)}

    def without_paths(self) -> ModelMetadata:
        """Return a copy that names the dataset, but not its folder or other paths on this machine."""
        if self.data is None:
            return self
        options = {name: value for name, value in (self.data["options"] or {}).items() if not _is_path(value)}
        return replace(self, data={**self.data, "root": None, "options": options})

    @classmethod
    def from_dict(cls, values: Any, path: str | Path) -> ModelMetadata:
        """Read the output of ``to_dict``; raises ValueError if a value is missing, unknown or of another type."""
        plain(values, f"{path}: {METADATA_KEY}")
        stored_format = values.get("format") if isinstance(values, dict) else values
        if stored_format != FORMAT:
            raise ValueError(f"{path} has checkpoint format {stored_format!r:.80}; this tokenloc reads format {FORMAT}")
        values = {name: value for name, value in values.items() if name not in ("format", "versions")}
        if isinstance(threshold := values.get("threshold"), dict):
            values["threshold"] = {_OLD_NAMES.get(name, name): value for name, value in threshold.items()}
        metadata: ModelMetadata = _read(cls, values, f"{path}: {METADATA_KEY}")
        if metadata.data is not None:
            _read(_Data, metadata.data, f"{path}: data")
        try:
            check_options(metadata.model.backbone_options)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if len(metadata.classes) != (count := metadata.model.num_classes):
            raise ValueError(f"{path}: {len(metadata.classes)} class names for a model of {count} classes")
        return metadata


@dataclass(frozen=True)
class _Data:  # the values of ``ModelMetadata.data``
    name: str
    root: str | None
    options: dict[str, Any] | None


def versions() -> dict[str, str]:
    """Return the versions of tokenloc and of the software that its results depend on."""
    libraries = {"torch": str(torch.__version__), "timm": str(timm.__version__), "lightning": version("lightning")}
    return {"tokenloc": tokenloc.__version__, "python": platform.python_version(), **libraries}


def _is_path(value: Any) -> bool:
    return isinstance(value, PurePath) or (isinstance(value, str) and ("/" in value or "\\" in value))


def _read(kind: Any, values: Any, where: str) -> Any:
    """Create the dataclass ``kind`` from plain values, and check them against its annotations."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be dict, not {values!r:.80}")
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise unknown_name(f"key (in {where})", name, hints)
    for one in fields(kind):
        if one.name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{where} lacks the key {one.name!r}; is the file damaged?")
    checked = {name: _checked(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    try:
        return kind(**checked)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{where}: {error}") from error


def _checked(hint: Any, value: Any, where: str) -> Any:
    """Return ``value`` as the annotated type; JSON has lists for tuples, and may have an int for a float."""
    choices = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if value is None and NoneType in choices:
        return None
    kind, items = get_origin(choices[0]) or choices[0], get_args(choices[0])
    if is_dataclass(kind):
        return _read(kind, value, where)
    if kind is tuple and isinstance(value, (list, tuple)):
        if items[-1] is not Ellipsis and len(value) != len(items):
            raise ValueError(f"{where} must have {len(items)} values; got {value!r:.80}")
        return tuple(_checked(items[0], item, where) for item in value)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise ValueError(f"{where} must be {kind.__name__}, not {value!r:.80}")
    return value
