"""Shared models: a folder of safetensors and JSON, local or in a repository of the Hugging Face Hub.

Nothing in it is pickled. Only the files in ``FILES`` are read or downloaded.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

import huggingface_hub
from huggingface_hub import HfApi, constants, errors
from safetensors.torch import save_file
from torch import Tensor

import tokenloc
from tokenloc import _plain
from tokenloc._files import atomic_files, atomic_write, write_json, write_text
from tokenloc.backbones.weights import read_weights
from tokenloc.methods import Method
from tokenloc.metrics.evaluation import METRIC_NAMES
from tokenloc.models.metadata import METADATA_KEY, ModelMetadata
from tokenloc.models.model_card import model_card

FILES = CONFIG, WEIGHTS, METRICS = "config.json", "model.safetensors", "metrics.json"
CARD = "README.md"
PREFIX = "hf-hub:"


def save_folder(folder: Path, name: str, model: Method, metadata: ModelMetadata, origin: Path | None = None) -> Path:
    """Write a model to a folder, all files or none; return the folder. An existing README.md is not replaced.

    Paths in ``metadata.data`` are left out. The model card shows ``name`` as the argument of
    ``Localizer.from_pretrained``, and the metrics of ``origin``, the checkpoint that the model was loaded from. Raises
    ValueError if the metadata cannot be represented as JSON.
    """
    metadata, metrics = metadata.without_paths(), read_metrics(origin) if origin else None
    try:
        config = _plain.plain({METADATA_KEY: metadata.to_dict()})
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} cannot represent this configuration: {error}") from error
    with atomic_files(folder, CONFIG, [METRICS]) as files:
        write_json(files / CONFIG, config)
        with atomic_write(files / WEIGHTS) as temporary:
            tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
            save_file(tensors, temporary, {"format": "pt"})
        if metrics:
            write_json(files / METRICS, metrics)
        if not (folder / CARD).exists():
            write_text(files / CARD, model_card(metadata, name, metrics))
    return folder


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the configuration and weights in the output of ``save_folder``; raises like ``load_checkpoint``."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            expected = "the folder of a run, or one written by Localizer.save_pretrained"
            raise FileNotFoundError(f"{folder} is not a tokenloc model: it has no {name}. Expected {expected}")
    return read_json(folder / CONFIG), read_weights(folder / WEIGHTS)[0]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; raises ValueError if the file holds anything else, and OSError if it cannot be read."""
    content = _plain.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must contain a JSON object, not a {type(content).__name__}")
    return content


def read_metrics(checkpoint: Path) -> dict[str, Any] | None:
    """Return the metrics of a shared folder, or of the run of a ``best.ckpt``; None if there are none.

    They are in percent, by name. The file is untrusted: values of an unexpected type are left out.
    """
    if not checkpoint.is_dir() and checkpoint.name != "best.ckpt":
        return None  # a run evaluates best.ckpt only
    try:
        content = read_json(run_folder(checkpoint) / METRICS)
    except (OSError, ValueError):
        return None
    stored = found if isinstance(found := content.get("metrics"), dict) else {}
    metrics = {name: stored[name] for name in METRIC_NAMES if type(stored.get(name)) in (int, float)}
    names = ("protocol", "images", "threshold", "threshold_source")
    about = {name: content[name] for name in names if isinstance(content.get(name), (str, int, float))}
    return {**about, "metrics": metrics} if metrics else None


def is_on_hub(checkpoint: str | Path) -> bool:
    """Return whether this names a model on the hub (``hf-hub:USER/NAME``) rather than a path."""
    return str(checkpoint).startswith(PREFIX)


def pretrained_path(name: str | Path) -> str | Path:
    """Return an existing path, or a name with the prefix ``hf-hub:``, unchanged; add the prefix to any other name."""
    return name if is_on_hub(name) or Path(name).exists() else f"{PREFIX}{name}"


def local_copy(checkpoint: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Return a path, the best checkpoint of a run's folder, or the folder of a model on the hub.

    A model on the hub is downloaded unless it is in the local cache.

    A model is named ``hf-hub:USER/NAME[@REVISION]``; a revision is a branch, a tag or a commit. By default ``token`` is
    the one stored by ``hf auth login``, or ``HF_TOKEN``. Raises FileNotFoundError if the repository or revision is
    neither cached nor available, ValueError if its name is invalid, or a revision was given for a path, or twice.
    """
    if not is_on_hub(checkpoint):
        if revision is not None:
            raise ValueError(f"{checkpoint} is a local path and has no revisions; remove revision={revision!r}")
        return _best_of_run(Path(checkpoint))
    repository, _, own_revision = PurePath(checkpoint).as_posix().removeprefix(PREFIX).partition("@")
    if own_revision and revision is not None:
        raise ValueError(f"{checkpoint} already names a revision; remove revision={revision!r}")
    if repository.count("/") != 1:
        raise _invalid_name(repository)
    revision = revision or own_revision or None
    client: dict[str, Any] = {"library_name": "tokenloc", "library_version": tokenloc.__version__, "token": token}
    try:
        folder = huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(FILES), **client)
    except errors.HFValidationError as error:
        raise _invalid_name(repository) from error
    except Exception as error:  # the client's error classes differ between its versions
        raise FileNotFoundError(_not_available(repository, revision, error)) from error
    if not Path(folder, CONFIG).is_file():
        raise FileNotFoundError(f"{repository} on {constants.ENDPOINT} is not a tokenloc model: it has no {CONFIG}")
    return Path(folder)


def writable_path(checkpoint: str | Path) -> Path:
    """Return the path of a checkpoint that is to be changed, as ``local_copy``; ValueError for a model on the hub."""
    if is_on_hub(checkpoint):
        raise ValueError(
            f"{checkpoint} is on the hub and cannot be changed there: save it to a folder with "
            "Localizer.from_pretrained(…).save_pretrained(FOLDER), and use that folder"
        )
    return _best_of_run(Path(checkpoint))


def is_model(folder: Path) -> bool:
    """Return whether a folder is that of a run with a best checkpoint, or one of ``save_folder``."""
    return (folder / CONFIG).is_file() or _best_of_run(folder) != folder


def _best_of_run(path: Path) -> Path:
    """Return the best checkpoint of the folder of a run; any other path unchanged."""
    best = path / "checkpoints" / "best.ckpt"
    return best if best.is_file() and not (path / CONFIG).is_file() else path


def run_folder(checkpoint: str | Path) -> Path:
    """Return the default folder for results of a checkpoint: its run's folder, or the folder of a shared model.

    >>> run_folder("runs/mine/checkpoints/best.ckpt").as_posix(), run_folder("hf-hub:user/birds@v1").as_posix()
    ('runs/mine', 'runs/birds')
    """
    path = Path(checkpoint)
    if is_on_hub(checkpoint):
        return Path("runs") / path.name.partition("@")[0]
    return path if path.is_dir() else path.parent.parent


def upload(
    folder: Path, repository: str, *, private: bool | None, message: str, revision: str | None, token: str | None
) -> str:
    """Upload the files in ``folder`` to a repository, which is created if needed; return its URL.

    An existing README.md in the repository is not replaced: its owner may have edited it. Raises ValueError if the
    repository name is invalid, OSError if the hub is unreachable or denies write access.
    """
    api = HfApi(token=token, library_name="tokenloc", library_version=tokenloc.__version__)
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        kept = [CARD] if api.file_exists(url.repo_id, CARD, revision=revision) else None
        options: dict[str, Any] = {"commit_message": message, "revision": revision, "ignore_patterns": kept}
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, **options)
    except errors.HFValidationError as error:
        raise _invalid_name(repository) from error
    except Exception as error:  # the client's error classes differ between its versions
        raise OSError(
            f"cannot write to {repository} on {constants.ENDPOINT} ({_reason(error)}); log in with `hf auth login`, or "
            "set HF_TOKEN to a token with write access. save_pretrained(FOLDER) writes the same files locally"
        ) from error
    return str(url)


def _invalid_name(repository: str) -> ValueError:
    return ValueError(f"{repository!r} is not an existing path or a valid hub repository; expected USER/NAME")


def _not_available(repository: str, revision: str | None, error: Exception) -> str:
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}; use one of its branches, tags or commits"
    if isinstance(error, errors.RepositoryNotFoundError):  # the hub does not distinguish these cases
        return (
            f"{repository} does not exist on {constants.ENDPOINT}, or it is private or gated, and there is no local "
            "folder of that name. Check the name; for a private repository, log in with `hf auth login` or set HF_TOKEN"
        )
    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else _reason(error)
    model = f"{repository}@{revision}" if revision else repository
    return (
        f"{model} is not in the local cache ({constants.HF_HUB_CACHE}), cannot be "
        f"downloaded from {constants.ENDPOINT} ({reason}), and there is no local folder of that name. Connect once "
        "to download it, or use a folder written by Localizer.save_pretrained"
    )


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
