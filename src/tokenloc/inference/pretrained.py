"""Localizers that are shared: folders of safetensors and JSON, and repositories of the hub."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokenloc._files import write_json, write_text
from tokenloc.inference.options import PredictionOptions
from tokenloc.methods import Method
from tokenloc.models.checkpoint import ENTRY, ModelMetadata, Threshold
from tokenloc.models.folder import METRICS, write_folder
from tokenloc.models.hub import local_copy, named_on_hub, upload
from tokenloc.models.model_card import metrics_of, model_card

if TYPE_CHECKING:
    from typing_extensions import Self


class Pretrained(ABC):
    """What a ``Localizer`` can do with folders and the hub.

    A folder holds ``config.json`` (classes, preprocessing, threshold and its source, options of method and network),
    ``model.safetensors``, the model metadata ``README.md``, and ``metrics.json`` where the model was measured. Nothing in
    it is pickled, and no other file is ever read.
    """

    model: Method
    metadata: ModelMetadata
    threshold: float
    options: PredictionOptions
    origin: Path | None = None
    """The file or folder that it was loaded from."""

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, path: str | Path, *settings: Any, **options: Any) -> Self:
        """Load a checkpoint, which may be a folder or ``hf-hub:USER/NAME[@REVISION]``."""

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
        """Load a model from the hub, or from a folder that ``save_pretrained`` wrote.

        Maps, scores and boxes are those of the localizer that was saved, to the last bit. A download is kept in the
        hub's local cache, which serves alone where the hub cannot be reached or ``HF_HUB_OFFLINE=1`` is set.

        Args:
            name: ``USER/NAME``, with or without ``hf-hub:`` before it, or a folder (which goes before).
            revision: of the repository: a branch, a tag or a commit; None for its main branch.
            token: for a private repository; None for the one of ``hf auth login``, or ``HF_TOKEN``.
            device: ``auto`` (a GPU where there is one), or torch's name of a device.
            options: ``threshold``, ``objects``, ``options``, ``min_score``; see ``Localizer``.

        Raises:
            FileNotFoundError: no such folder, repository or revision, or a hub that cannot be reached.
            ValueError: files that are damaged or were written by anything else; code in them is never run.
        """
        return cls.from_checkpoint(local_copy(named_on_hub(name, revision), token), device, **options)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model to a folder, for ``from_pretrained``; return the folder.

        The threshold in use goes with it; ``objects``, ``options`` and ``min_score`` are the choice of who uses it.
        Paths of this machine stay behind. A model that is in the folder is replaced; a ``README.md`` that is there
        stays, since somebody may have added to it.

        Raises:
            ValueError: options that JSON cannot hold.
            OSError: the folder cannot be written to.
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
        """Write the model to a repository of the hub, which is made where there is none; return its address.

        Args:
            name: ``USER/NAME``; ``USER/`` may be left away for one's own.
            private: whether a new repository is to be private; None for the owner's default.
            message: of the commit.
            revision: the branch; None for the main one.
            token: that may write; None for the one of ``hf auth login``, or ``HF_TOKEN``.

        Raises:
            ValueError: no name of a repository.
            OSError: the hub cannot be reached, or does not let us write there.
        """
        with TemporaryDirectory() as folder:
            saved = self._save(Path(folder), name)
            return upload(saved, name, private=private, message=message, revision=revision, token=token)

    def _save(self, folder: Path, name: str) -> Path:
        metadata, metrics = self._shared_metadata(), metrics_of(self.origin) if self.origin else None
        write_folder(folder, {ENTRY: metadata.entry()}, self.model.state_dict())
        if metrics is not None:
            write_json(folder / METRICS, metrics)
        else:
            (folder / METRICS).unlink(missing_ok=True)  # of another model that was here
        if not (folder / "README.md").exists():
            write_text(folder / "README.md", model_card(metadata, name, metrics))
        return folder

    def _shared_metadata(self) -> ModelMetadata:
        """Return the metadata with the threshold in use, and without paths of this machine."""
        known, data = self.metadata.threshold, self.metadata.data
        usual = known.value if known else self.model.default_threshold
        threshold = known
        if self.threshold != usual:
            threshold = Threshold(self.threshold, "in use when the model was saved", str(self.options))
        if data is not None:
            kept = {name: value for name, value in (data.get("options") or {}).items() if not _is_path(value)}
            data = {**data, "root": None, "options": kept}
        return replace(self.metadata, threshold=threshold, data=data)


def _is_path(value: Any) -> bool:
    return isinstance(value, PurePath) or (isinstance(value, str) and ("/" in value or "\\" in value))
