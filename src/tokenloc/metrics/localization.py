"""The torchmetrics class that adds up images across batches and processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torchmetrics import Metric

from tokenloc.boxes import Protocol, get_protocol
from tokenloc.metrics.evaluation import Evaluation, evaluate
from tokenloc.metrics.scores import ImageScores
from tokenloc.metrics.totals import Totals


class LocalizationMetrics(Metric):
    """All metrics of a set of images.

    Its states are the integer sums of ``Totals``, so the result is the same to the last digit however the images
    are split into batches and processes, as long as each image comes once: the padding of the last distributed batch
    must be left out before ``update``. A process without images must call ``update([])``.

    Args:
        protocol: A protocol or its name.
        threshold: A fixed map threshold in [0, 1]; None for the protocol's own, which it may not have.
        options: Of ``torchmetrics.Metric``: how processes are synchronised, for example.

    Raises:
        ValueError: where the protocol is unknown or the threshold out of range.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(self, protocol: Protocol | str = "standard", threshold: float | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
        self.threshold = threshold
        zero = Totals.zero(self.protocol, threshold)
        for field in fields(Totals):
            self.add_state(field.name, torch.from_numpy(getattr(zero, field.name)), dist_reduce_fx="sum")

    def update(self, scores: Iterable[ImageScores]) -> None:
        """Add images that were scored by ``score_image`` under this protocol and threshold.

        Raises:
            ValueError: where an image was scored at other thresholds; none is added then.
        """
        added = Totals.of(scores, self.protocol, self.threshold)
        for field in fields(Totals):
            state = getattr(self, field.name)
            setattr(self, field.name, state + torch.as_tensor(getattr(added, field.name), device=state.device))

    def compute(self) -> Evaluation:
        """Return the metrics of all images of all processes."""
        return evaluate(self.totals(), self.protocol, self.threshold)

    def totals(self) -> Totals:
        """Return the sums as they stand: of this process, or of all while torchmetrics has them synchronised."""
        return Totals(**{field.name: getattr(self, field.name).cpu().numpy() for field in fields(Totals)})
