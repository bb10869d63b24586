"""Models in hub repositories: ``hf-hub:USER/NAME`` to a local folder, and a local folder to a repository."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi, constants, errors

import tokenloc
from tokenloc.models.folder import CONFIG, FILES

PREFIX = "hf-hub:"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def local_copy(checkpoint: str | Path, token: str | None = None) -> Path:
    """Return where a checkpoint lies: a path as it is, and of ``hf-hub:USER/NAME[@REVISION]`` the folder of its copy.

    What is not in the hub's local cache is downloaded: the files of the model alone, nothing else of the repository.

    Args:
        checkpoint: a path, or the name of a model on the hub, as timm writes it; the revision is a branch, a tag or a
            commit.
        token: for private repositories; None for the one that ``hf auth login`` stored, or ``HF_TOKEN``.

    Raises:
        FileNotFoundError: no such repository or revision, or one that is neither cached nor to be reached.
        ValueError: no name of a repository.
    """
    if not is_on_hub(checkpoint):
        return Path(checkpoint)
    repository, _, revision = _text(checkpoint).removeprefix(PREFIX).partition("@")
    return _download(repository, revision or None, token)


def is_on_hub(checkpoint: str | Path) -> bool:
    """Tell whether this names a model on the hub, not a path."""
    return _text(checkpoint).startswith(PREFIX)


def named_on_hub(name: str | Path, revision: str | None = None) -> str | Path:
    """Return a local path as it is, where something lies there, and another name as that of a model on the hub.

    >>> named_on_hub("user/name", "v1"), named_on_hub("hf-hub:user/name")
    ('hf-hub:user/name@v1', 'hf-hub:user/name')

    Raises:
        FileNotFoundError: where nothing lies there and it can be no repository.
        ValueError: a revision of what has none.
    """
    text = _text(name).removeprefix(PREFIX)
    if not is_on_hub(name) and Path(name).exists():
        if revision is not None:
            raise ValueError(f"{name} is on this disk and has no revisions; leave revision={revision!r} away")
        return name
    if not is_on_hub(name) and not _REPOSITORY.fullmatch(text):
        raise FileNotFoundError(f"{name}: no such folder or file, nor a hub repository, which is called USER/NAME")
    if revision is not None and "@" in text:
        raise ValueError(f"{name} names a revision already; leave revision={revision!r} away")
    return f"{PREFIX}{text}" + (f"@{revision}" if revision else "")


def own_file(checkpoint: str | Path) -> Path:
    """Return the path of a checkpoint that may be changed; raise ValueError for one that lies on the hub."""
    if is_on_hub(checkpoint):
        raise ValueError(
            f"{checkpoint} lies on the hub and cannot be changed there: save it into a folder of your own with "
            "Localizer.from_pretrained(…).save_pretrained(FOLDER), and give that folder"
        )
    return Path(checkpoint)


def run_folder(checkpoint: str | Path) -> Path:
    """Return where results of a checkpoint belong unless said otherwise: its run's folder, or a shared model's own.

    >>> run_folder("runs/mine/checkpoints/best.ckpt").as_posix(), run_folder("hf-hub:user/birds@v1").as_posix()
    ('runs/mine', 'runs/birds')
    """
    if is_on_hub(checkpoint):
        return Path("runs") / _text(checkpoint).partition("@")[0].rpartition("/")[2]
    path = Path(checkpoint)
    return path if path.is_dir() else path.parent.parent


def upload(
    folder: Path,
    repository: str,
    *,
    private: bool | None = None,
    message: str = "Add a tokenloc model",
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Write the files in ``folder`` to a repository, which is made where there is none; return its address.

    A README.md that is in the repository stays as it is: somebody may have added to it.

    Raises:
        ValueError: no name of a repository.
        OSError: the hub cannot be reached, or does not let us write there.
    """
    api = HfApi(token=token, library_name="tokenloc", library_version=tokenloc.__version__)
    try:
        made = api.create_repo(repository, private=private, exist_ok=True)
        has_card = api.file_exists(made.repo_id, "README.md", revision=revision)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message=message,
            revision=revision,
            ignore_patterns=["README.md"] if has_card else None,
        )
    except errors.HFValidationError as error:
        raise _no_name(repository, error) from error
    except Exception as error:  # the client's error classes differ between its versions
        raise OSError(
            f"{repository} cannot be written on {constants.ENDPOINT} ({_reason(error)}); log in with `hf auth login`, "
            "or set HF_TOKEN to a token that may write there. save_pretrained(FOLDER) writes the same files to a folder"
        ) from error
    return str(made)


def _text(checkpoint: str | Path) -> str:
    return checkpoint.as_posix() if isinstance(checkpoint, Path) else checkpoint


def _download(repository: str, revision: str | None, token: str | None) -> Path:
    """Return the local folder of a repository's model files; the cache alone serves where the hub does not answer."""
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(FILES),
            library_name="tokenloc",
            library_version=tokenloc.__version__,
            token=token,
        )
    except errors.HFValidationError as error:
        raise _no_name(repository, error) from error
    except Exception as error:  # as above
        raise FileNotFoundError(_not_available(repository, revision, error)) from error
    if not Path(folder, CONFIG).is_file():
        raise FileNotFoundError(f"{repository} on {constants.ENDPOINT} is no model of tokenloc: it has no {CONFIG}")
    return Path(folder)


def _no_name(repository: str, error: Exception) -> ValueError:
    return ValueError(f"{repository!r} is no hub repository, which is called USER/NAME: {_reason(error)}")


def _not_available(repository: str, revision: str | None, error: Exception) -> str:
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repository} has no revision {revision!r}; give one of its branches, tags or commits"
    if isinstance(error, errors.RepositoryNotFoundError):  # the hub does not tell the three from each other
        return (
            f"there is no {repository} on {constants.ENDPOINT} nor a folder of that name here, or it is private or "
            "gated: check the name; for a private one log in with `hf auth login`, or set HF_TOKEN"
        )
    offline = "HF_HUB_OFFLINE is set: unset it" if constants.HF_HUB_OFFLINE else f"{_reason(error)}: connect"
    return (
        f"the model {repository}{f'@{revision}' if revision else ''} is not in the local cache "
        f"({constants.HF_HUB_CACHE}) and cannot be downloaded from {constants.ENDPOINT} ({offline} once to download "
        "it), nor is there a folder of that name here; or give a folder that Localizer.save_pretrained wrote"
    )


def _reason(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
