"""Where weights come from: timm's hub, a local file (never unpickled), or nowhere (random)."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

CONTAINERS = ("state_dict", "model", "teacher", "module")  # where released checkpoints keep their weights
PREFIXES = ("module.", "backbone.", "encoder.")
OWN_BACKBONE = "model.backbone."  # where a checkpoint of ``tokenloc train`` keeps it, beside the method's head
# Parts that localization does not use.
IGNORED = ("head", "head_dist", "trans_cls_head", "conv_cls_head", "mask_token")


@dataclass(frozen=True)
class StateDict:
    """Named tensors from a file, and the text notes stored with them."""

    tensors: dict[str, Tensor]
    notes: dict[str, str]


def read_weights(path: str | Path) -> StateDict:
    """Read named tensors from a ``.safetensors`` file or a torch checkpoint, without running code from it.

    Of a checkpoint of ``tokenloc train`` these are the backbone's.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where the file is truncated, is of another format, holds objects other than plain data (a pickle
            with code is refused unread), or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path.absolute()}; expected a .safetensors or .pth file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    content = read_torch_file(path)
    while isinstance(content, Mapping) and (key := next((k for k in CONTAINERS if k in content), None)):
        content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise ValueError(f"{path} holds no named tensors; expected a state dict, or one under {', '.join(CONTAINERS)}")
    own = {k.removeprefix(OWN_BACKBONE): v for k, v in tensors.items() if k.startswith(OWN_BACKBONE)}
    return StateDict(own or {_without_prefix(k): v for k, v in tensors.items()}, {})


def read_torch_file(path: Path) -> Any:
    """Read a torch file of plain data (tensors, numbers, text, containers); code in it is refused, never run.

    Raises:
        ValueError: where the file is truncated, no torch file, or holds anything but plain data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on foreign pickles, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was refused: it is no torch checkpoint, or it holds Python objects besides tensors and plain data "
            "and loading it could run code. Save only its state_dict() and try again"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a torch checkpoint; is it complete? ({error})"
        ) from error


def _read_safetensors(path: Path) -> StateDict:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return StateDict({name: file.get_tensor(name) for name in names}, dict(file.metadata() or {}))
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} ({size} bytes) is not a complete safetensors file: {error}") from error


def _without_prefix(key: str) -> str:
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key


def load_into(trunk: nn.Module, weights: StateDict, path: str | Path) -> None:
    """Load ``weights`` into a timm model; its classifier may differ, everything else must be there and fit.

    Names of the original releases (DINO, DINOv2, DeiT) and other position-embedding sizes are converted as timm does.

    Raises:
        ValueError: where tensors are missing, left over, or of another shape.
    """
    convert = getattr(inspect.getmodule(type(trunk)), "checkpoint_filter_fn", None)
    tensors = dict(weights.tensors)
    try:
        tensors = convert(tensors, trunk) if convert else tensors
        result = trunk.load_state_dict({k: v for k, v in tensors.items() if not _is_ignored(k)}, strict=False)
    except (RuntimeError, KeyError, AssertionError) as error:
        raise ValueError(f"the weights in {path} are of another network: {error}") from error
    missing = [k for k in result.missing_keys if not _is_ignored(k)]
    surplus = list(result.unexpected_keys)
    if missing or surplus:
        raise ValueError(
            f"the weights in {path} are of another network: {len(missing)} tensors are missing{_some(missing)} and "
            f"{len(surplus)} are left over{_some(surplus)}; name the backbone that they were made with"
        )


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256, as hex digits, of a network's weights, the same on any device."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_ignored(key: str) -> bool:
    return key.split(".")[0] in IGNORED


def _some(keys: list[str]) -> str:
    return f" ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})" if keys else ""


def require_download(name: str, pretrained_cfg: Mapping[str, Any]) -> None:
    """Check that timm can get the weights of ``name``: from the local cache, or from a hub that answers.

    timm tries an unreachable hub a dozen times and then reports its last address; this asks once.

    Raises:
        FileNotFoundError: where the weights are neither in the cache nor reachable, saying what to do.
    """
    repository = pretrained_cfg.get("hf_hub_id")
    if not repository:
        return
    file = pretrained_cfg.get("hf_hub_filename") or "model.safetensors"
    cached = (huggingface_hub.try_to_load_from_cache(repository, f) for f in (file, "pytorch_model.bin"))
    if any(isinstance(path, str) for path in cached):
        return
    try:
        huggingface_hub.get_session().head(huggingface_hub.hf_hub_url(repository, file), timeout=10)
    except Exception as error:  # the client's error classes differ between its versions
        raise FileNotFoundError(not_available(name, repository)) from error


def not_available(name: str, source: str) -> str:
    """Return the one-line explanation for pretrained weights that cannot be had."""
    return (
        f"the pretrained weights of {name} ({source}) are not in the local cache and cannot be downloaded from here; "
        "connect once to download them, or give a local file (pretrained=PATH.safetensors), "
        "or start from random weights (pretrained=False)"
    )
