"""Options of prediction: test-time augmentation, refinement and precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from tokenloc.refinement import find_steps


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Views of an image whose predictions are averaged.

    Attributes:
        scales: sides of the network input in pixels, such as 224 320 448, over which maps and scores are averaged
            (the shorter side if the input is not square; multiples of the patch size); by default the side that the
            model was trained with. Position embeddings are interpolated.
        flip: add the mirrored image to each scale.
        ten_crop: classify ten crops of a larger resize instead, the corners, the centre and their mirrors (SAT,
            section 4.1). The maps do not change.
    """

    scales: tuple[int, ...] = ()
    flip: bool = False
    ten_crop: bool = False

    __test__: ClassVar[bool] = False  # the name would make pytest collect it

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if min(self.scales, default=1) < 1 or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales must be different sides of at least 1 pixel; got {list(self.scales)}")


@dataclass(frozen=True)
class PredictionOptions:
    """How a trained model predicts; nothing here needs another training.

    Attributes:
        augmentation: views to average; one view by default.
        refine: steps that refine the maps, such as affinity,reprediction, or none; by default those of the method.
        fast: compute in bfloat16, about 1.7 times faster on a CPU with AVX512-BF16, and decode large JPEG files at a
            reduced size where the full image is not needed. Boxes change little.
    """

    augmentation: TestTimeAugmentation = field(default_factory=TestTimeAugmentation)
    refine: tuple[str, ...] | None = None
    fast: bool = False

    def __post_init__(self) -> None:
        if self.refine is not None:
            object.__setattr__(self, "refine", _parse_steps(self.refine))
            find_steps(self.refine)

    def __str__(self) -> str:
        """Return a short description of what differs from the defaults.

        >>> str(PredictionOptions(TestTimeAugmentation((224, 448), flip=True), refine="affinity"))
        'scales 224 448, flip, refine affinity'
        >>> str(PredictionOptions())
        'plain'
        """
        views = self.augmentation
        parts = [f"scales {' '.join(map(str, views.scales))}"] * bool(views.scales)
        parts += ["flip"] * views.flip + ["ten crops"] * views.ten_crop
        parts += [] if self.refine is None else [f"refine {','.join(self.refine) or 'none'}"]
        parts += ["fast"] * self.fast
        return ", ".join(parts) or "plain"


DEFAULT_OPTIONS = PredictionOptions()


def _parse_steps(steps: str | Iterable[str]) -> tuple[str, ...]:
    """Split steps at commas; "none" alone stands for no step."""
    words = [steps] if isinstance(steps, str) else steps
    names = tuple(name for word in words for name in word.split(",") if name)
    return () if names == ("none",) else names
