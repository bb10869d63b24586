"""How Lightning writes and reads the checkpoints of a training."""

from __future__ import annotations

from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from tokenloc.models.checkpoint import read_checkpoint, save_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes Lightning's checkpoints atomically, and reads them without running code."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; raises as ``save_atomically`` does."""
        del storage_options
        save_atomically(checkpoint, path)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read plain data only."""
        return read_checkpoint(path)
