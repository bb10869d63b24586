"""Options of prediction: test-time augmentation, refinement and precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from tokenloc.refinement import StepChoice, describe_steps


@dataclass(frozen=True)
class TestTimeAugmentation:
    """Views of an image whose predictions are averaged.

    Attributes:
        scales: sides of the network input in pixels, such as 224 320 448, over which maps and scores are averaged (the
            shorter side; multiples of the patch size); by default the side that the model was trained with.
        flip: add the mirrored image to each scale.
        ten_crop: classify by the mean of the softmaxes of ten crops of a larger resize instead (SAT, section 4.1); the
            maps do not change.
        shifts: N for N x N shifts of the image by fractions of a patch, whose maps are moved back and averaged: finer
            maps for N² times the cost.
    """

    scales: tuple[int, ...] = ()
    flip: bool = False
    ten_crop: bool = False
    shifts: int = 1

    __test__: ClassVar[bool] = False  # the name would make pytest collect it

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(self.scales))
        if min(self.scales, default=1) < 1 or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales must be different sides of at least 1 pixel; got {list(self.scales)}")
        if self.shifts < 1:
            raise ValueError(f"shifts must be at least 1; got {self.shifts}")


@dataclass(frozen=True)
class PredictionOptions:
    """How a trained model predicts; nothing here needs another training.

    Attributes:
        augmentation: views to average; one view by default.
        refine: steps that refine the maps, such as affinity,reprediction, or none; by default those of the method.
            Settings follow a name, as in 'affinity,reprediction: {stride: 1, vote: false}'.
        fast: compute in bfloat16 and, where the full image is not needed, decode large JPEG files at a reduced size.
        evidence: lower the confidence of boxes by as much as the class is less probable with everything but them
            blurred. It takes another forward pass.
    """

    augmentation: TestTimeAugmentation = field(default_factory=TestTimeAugmentation)
    refine: tuple[StepChoice, ...] | None = None
    fast: bool = False
    evidence: bool = False

    def __post_init__(self) -> None:
        if self.refine is not None:
            object.__setattr__(self, "refine", describe_steps(self.refine))

    def __str__(self) -> str:
        """Return a short description of what differs from the defaults.

        >>> str(PredictionOptions(TestTimeAugmentation((224, 448), flip=True), refine="affinity"))
        'scales 224 448, flip, refine affinity'
        """
        views = self.augmentation
        parts = [f"scales {' '.join(map(str, views.scales))}"] * bool(views.scales)
        parts += [f"shifts {views.shifts}"] * (views.shifts > 1)
        parts += ["flip"] * views.flip + ["ten crops"] * views.ten_crop
        parts += [] if self.refine is None else [f"refine {','.join(map(str, self.refine)) or 'none'}"]
        parts += ["fast"] * self.fast + ["evidence"] * self.evidence
        return ", ".join(parts) or "plain"


DEFAULT_OPTIONS = PredictionOptions()
