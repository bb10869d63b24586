"""Saving localizers to folders and to the Hugging Face Hub, and loading them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokenloc._files import write_json, write_text
from tokenloc.inference.options import PredictionOptions
from tokenloc.methods import Method
from tokenloc.models.checkpoint import default_threshold
from tokenloc.models.hub import CARD, METRICS, PREFIX, is_on_hub, local_copy, upload, write_folder
from tokenloc.models.metadata import METADATA_KEY, ModelMetadata, Threshold

if TYPE_CHECKING:
    from typing_extensions import Self


class SharingMixin(ABC):
    """The part of ``Localizer`` that saves to and loads from folders and the hub; see ``models.hub`` for the format."""

    model: Method
    metadata: ModelMetadata
    threshold: float
    options: PredictionOptions
    origin: Path | None = None
    """The file or folder from which it was loaded."""

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, path: str | Path, *settings: Any, **options: Any) -> Self:
        """Load a checkpoint, a folder, or ``hf-hub:USER/NAME[@REVISION]``."""

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        device: str = "auto",
        **options: Any,
    ) -> Self:
        """Load a model from the hub, or from a folder written by ``save_pretrained``.

        Its maps, scores and boxes are bit-identical to those of the saved localizer. Downloads are cached; the cache is
        used if the hub is unreachable or ``HF_HUB_OFFLINE=1`` is set.

        Args:
            name: an existing folder, or ``USER/NAME``, optionally with the prefix ``hf-hub:``.
            revision: a branch, a tag or a commit of the repository; None for its main branch.
            token: for a private repository; None uses the one stored by ``hf auth login``, or ``HF_TOKEN``.
            device: ``auto`` (a GPU if available), or a PyTorch device.
            options: see ``Localizer``: ``threshold``, ``objects``, ``options``, ``min_score``.

        Raises:
            FileNotFoundError: the folder, repository or revision does not exist, or the hub is unreachable.
            ValueError: an invalid name, or files that are damaged or not from tokenloc; code in them never runs.
        """
        is_path = is_on_hub(name) or Path(name).exists()
        path = local_copy(name if is_path else f"{PREFIX}{name}", revision, token)
        return cls.from_checkpoint(path, device, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model to a folder, for ``from_pretrained``; return the folder.

        The current threshold is saved, but neither ``objects``, ``options`` and ``min_score`` nor local paths.
        A model in the folder is replaced; an existing ``README.md`` is kept: its owner may have edited it.

        Raises:
            ValueError: the model has options that JSON cannot represent.
            OSError: the folder is not writable.
        """
        return self._save(Path(folder), Path(folder).absolute().name)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool | None = None,
        message: str = "Add a tokenloc model",
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload the model to a repository of the hub, which is created if needed; return its URL.

        Args:
            name: ``USER/NAME``; ``NAME`` for a repository of the current user.
            private: whether a new repository is private; None for the owner's default.
            message: the commit message.
            revision: the branch; None for the main branch.
            token: a token with write access; None uses the one stored by ``hf auth login``, or ``HF_TOKEN``.

        Raises:
            ValueError: the repository name is invalid.
            OSError: the hub is unreachable or denies write access.
        """
        with TemporaryDirectory() as folder:
            saved = self._save(Path(folder), name)
            return upload(saved, name, private=private, message=message, revision=revision, token=token)

    def _save(self, folder: Path, name: str) -> Path:
        from tokenloc.models.model_card import model_card, read_metrics  # Jinja2 is only needed here

        metadata, metrics = self._shared_metadata(), read_metrics(self.origin) if self.origin else None
        write_folder(folder, {METADATA_KEY: metadata.to_dict()}, self.model.state_dict())
        if metrics:
            write_json(folder / METRICS, metrics)
        else:
            (folder / METRICS).unlink(missing_ok=True)  # it belongs to a model that was saved here before
        if not (folder / CARD).exists():
            write_text(folder / CARD, model_card(metadata, name, metrics))
        return folder

    def _shared_metadata(self) -> ModelMetadata:
        """Return the metadata with the current threshold and without paths on this machine."""
        threshold, data = self.metadata.threshold, self.metadata.data
        if self.threshold != default_threshold(self.model, self.metadata):
            threshold = Threshold(self.threshold, "in use when the model was saved", str(self.options))
        if data is not None:
            options = {name: value for name, value in (data["options"] or {}).items() if not _is_path(value)}
            data = {**data, "root": None, "options": options}
        return replace(self.metadata, threshold=threshold, data=data)


def _is_path(value: Any) -> bool:
    return isinstance(value, PurePath) or (isinstance(value, str) and ("/" in value or "\\" in value))
