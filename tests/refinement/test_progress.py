"""Maps in the course of refinement."""

from __future__ import annotations

import torch

from tokenloc.refinement import AffinityRefinement, Reprediction, refine
from tokenloc.refinement.progress import progress_maps


def test_stages_are_those_of_fewer_iterations_and_end_with_the_refined_map() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, images = torch.rand(2, 3, 4, 6, generator=generator), torch.rand(2, 3, 32, 48, generator=generator)
    steps = [{"affinity": {"iterations": 6}}, {"reprediction": {"max_steps": 3, "disagreement": 0.0}}]
    stages = progress_maps(maps, images, steps)
    affinity = [f"affinity, iteration {count}" for count in (1, 2, 5, 6)]
    assert list(stages) == [*affinity, *(f"reprediction, step {count}" for count in (1, 2, 3))]
    for count in (1, 2, 5, 6):
        expected = refine(maps, images, [AffinityRefinement(iterations=count)])
        assert torch.equal(stages[f"affinity, iteration {count}"], expected)
    expected = refine(stages["affinity, iteration 6"], images, [Reprediction(max_steps=2, disagreement=0.0)])
    assert torch.equal(stages["reprediction, step 2"], expected)
    assert torch.equal(stages["reprediction, step 3"], refine(maps, images, steps))


def test_a_step_that_stops_early_has_no_further_stages() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 32, 32)
    images = ramp[:, None].expand(1, 3, 32, 32)
    stages = progress_maps(ramp, images, "reprediction")
    assert 0 < len(stages) < 8
    assert torch.equal(stages[list(stages)[-1]], refine(ramp, images, ["reprediction"]))
