"""Maps in the course of their refinement, for pictures (LCAR, Figs. 3 and 4)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from tokenloc.refinement import AffinityRefinement, Reprediction, Step, StepChoice, describe_steps, find_steps, refine

COUNTS = (1, 2, 5, 10, 20, 50, 100, 200)


def progress_maps(maps: Tensor, images: Tensor, steps: Iterable[StepChoice] | StepChoice) -> dict[str, Tensor]:
    """Return maps after some iterations of each step, by title, such as ``reprediction, step 20``, in order.

    Each stage is computed from the start of its step: this takes about twice as long as ``refine``.

    Args:
        maps: see ``refine``.
        images: see ``refine``.
        steps: see ``refine``; names and mappings only.

    Returns:
        Maps as ``refine`` returns them; the last are those of ``refine``. Stages that change nothing are left out.

    >>> maps, images = torch.rand(1, 4, 4), torch.rand(1, 3, 32, 32)
    >>> list(progress_maps(maps, images, {"affinity": {"iterations": 3}}))
    ['affinity, iteration 1', 'affinity, iteration 2', 'affinity, iteration 3']
    """
    current, stages = maps, {}
    for text in describe_steps(steps):
        (step,), name, start = find_steps(text), text.partition(":")[0], current
        for title, stage in _stages(name, step):
            refined = refine(start, images, [stage])
            if refined.shape != current.shape or not torch.equal(refined, current):
                stages[title] = current = refined
    return stages


def _stages(name: str, step: Step) -> list[tuple[str, Step]]:
    """Return ``step`` with fewer iterations, by title, and itself last."""
    if isinstance(step, AffinityRefinement):
        counts = [count for count in COUNTS if count < step.iterations]
        return [(f"{name}, iteration {count}", replace(step, iterations=count)) for count in (*counts, step.iterations)]
    if isinstance(step, Reprediction):
        counts = [count for count in COUNTS if count < step.max_steps]
        return [(f"{name}, step {count}", replace(step, max_steps=count)) for count in (*counts, step.max_steps)]
    return [(name, step)]
