"""Pretrained weights: from timm's hub or a local file, which is never unpickled."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

CONTAINERS = ("state_dict", "model", "teacher", "module")  # keys under which released checkpoints store their weights
PREFIX = re.compile(r"^(module\.)?(backbone\.)?(encoder\.)?")
OWN_BACKBONE = re.compile(r"^model\.backbone\.(trunk\.)?")  # before the weights in a checkpoint of ``tokenloc train``
CLASSIFIERS = ("head", "head_dist", "trans_cls_head", "conv_cls_head", "fc", "pre_logits", "classifier", "AuxLogits")
UNUSED = (*CLASSIFIERS, "mask_token")
WIDTHS = {192: "tiny", 384: "small", 768: "base", 1024: "large"}  # of ViTs, by which timm names them

StateDict = dict[str, Tensor]


def read_weights(path: str | Path) -> tuple[StateDict, dict[str, str]]:
    """Read named tensors (of a ``tokenloc train`` checkpoint, the backbone's) and text metadata, without running code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is truncated, contains anything but plain data or no tensors, or has another format than
            ``.safetensors`` or a PyTorch checkpoint.
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
    own = {OWN_BACKBONE.sub("", k): v for k, v in tensors.items() if OWN_BACKBONE.match(k)}
    return own or {PREFIX.sub("", k): v for k, v in tensors.items()}, {}


def read_torch_file(path: Path) -> Any:
    """Read a PyTorch file of plain data without running code; raise ValueError for a broken file or other data."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's advice on foreign pickles, which are refused below
            if zipfile.is_zipfile(path):
                _check_sizes(path)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} was refused: it is not a PyTorch checkpoint, or it contains Python objects other than tensors and "
            "plain data, and loading it could run code. Save only its state_dict() and try again"
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, LookupError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) cannot be read as a PyTorch checkpoint; is it complete? ({error})"
        ) from error


def _check_sizes(path: Path) -> None:
    """Raise ValueError or RuntimeError if a PyTorch file is compressed, or its tensors are larger than their records.

    PyTorch allocates, and its older versions read, as many bytes as the file states. Mapped, they are compared first.
    """
    with zipfile.ZipFile(path) as archive:
        if any(record.file_size > record.compress_size for record in archive.infolist()):
            raise ValueError("it is compressed, which PyTorch's files are not")
    torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _read_safetensors(path: Path) -> tuple[StateDict, dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in list(file.keys())}, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} ({size} bytes) is not a complete safetensors file: {error}") from error


def load_into(trunk: nn.Module, tensors: StateDict, path: str | Path) -> None:
    """Load ``tensors`` into a network; raise ValueError unless all but those of classifiers match.

    Names of the original releases (DINO, DINOv2, DeiT) and position embeddings of other sizes are converted by timm.
    """
    advice = _fitting(tensors)
    convert = getattr(inspect.getmodule(type(trunk)), "checkpoint_filter_fn", None)
    try:
        tensors = convert(dict(tensors), trunk) if convert else tensors
        result = trunk.load_state_dict({k: v for k, v in tensors.items() if not _is_unused(k)}, strict=False)
    except (RuntimeError, KeyError, AssertionError) as error:
        own = {name: list(tensor.shape) for name, tensor in trunk.state_dict().items()}
        sizes = {name: list(tensor.shape) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}
        differing = [f"{name} {size}, not {own[name]}" for name, size in sizes.items() if own.get(name, size) != size]
        reason = f"tensors have other sizes{_listed(differing)}" if differing else error
        raise ValueError(f"the weights in {path} are of another network: {reason}; {advice}") from error
    missing = [k for k in result.missing_keys if not _is_unused(k)]
    unexpected = result.unexpected_keys
    if missing or unexpected:
        raise ValueError(
            f"the weights in {path} are of another network: {len(missing)} tensors are missing{_listed(missing)} and "
            f"{len(unexpected)} are unexpected{_listed(unexpected)}; {advice}"
        )


def weights_digest(module: nn.Module) -> str:
    """Return the SHA-256 of a network's weights in hexadecimal, the same on any device."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fitting(tensors: StateDict) -> str:
    """Return advice to name another backbone: for a plain ViT with the width and patch size of the weights."""
    projection = tensors.get("patch_embed.proj.weight")
    size = None if projection is None or projection.ndim != 4 else WIDTHS.get(len(projection))
    if projection is None or size is None:
        return "name the backbone that they belong to (--backbone)"
    patch, blocks = projection.shape[-1], len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    found = f"they are of a transformer of width {len(projection)} with {blocks} blocks and patches of {patch} pixels"
    return f"{found}; name such a backbone, as --backbone vit_{size}_patch{patch}_224"


def _is_unused(key: str) -> bool:
    return key.split(".")[0] in UNUSED


def _listed(keys: list[str]) -> str:
    return f" ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})" if keys else ""


def require_download(name: str, pretrained_cfg: Mapping[str, Any]) -> None:
    """Raise FileNotFoundError if the weights of ``name`` are neither in the local cache nor on a reachable hub.

    timm retries an unreachable hub a dozen times and then reports its last address; this checks once.
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
        raise unavailable(name, repository) from error


def unavailable(name: str, source: str) -> FileNotFoundError:
    """Return the error for weights that are neither cached nor downloadable."""
    return FileNotFoundError(
        f"the pretrained weights of {name} ({source}) are not in the local cache and cannot be downloaded; "
        "connect once to download them, or give a local file (--model.pretrained PATH.safetensors, in Python "
        "pretrained=PATH), or start from random weights (--model.pretrained false)"
    )
