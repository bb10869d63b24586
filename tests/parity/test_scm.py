"""SCM against the authors' released code: a single block, and training with its gradients.

The fixtures are float32, where tanhshrink cancels: the single block for p = 1 differs by 5e-5 (of its largest value)
from the same equations in float64, which determines the tolerances.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tokenloc.methods import Method
from tokenloc.methods._diffusion import diffuse, neighbour_similarity, semantic_laplacian, soft_filter
from tokenloc.methods.scm import SCM

Arrays = dict[str, Tensor]
VARIANTS = [("paper", 4), ("released", None)]
BLOCK_TOLERANCE = {1: 7e-5, 2: 2e-5, 3: 1e-5, 4: 2e-6, 5: 2e-6, 6: 2e-6}


@pytest.fixture
def model(released_model: Callable[..., Method], released: Arrays) -> Callable[[int | None], SCM]:
    def make(steps: int | None) -> SCM:
        scm = released_model("scm", steps=steps)
        assert isinstance(scm, SCM)
        with torch.no_grad():
            scm.similarity_weight.copy_(released["lambdas"])
            scm.threshold.copy_(released["betas"])
        return scm

    return make


def assert_near(mine: Tensor, theirs: Tensor, fraction: float) -> None:
    """Require every difference to be within ``fraction`` of the largest value."""
    torch.testing.assert_close(mine.double(), theirs.double(), rtol=0, atol=fraction * float(theirs.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", range(1, 7))
def test_a_single_block(released: Arrays, steps: int, dtype: torch.dtype) -> None:
    semantic = released["block_in_semantic"].to(dtype)
    activation = released["block_in_attention"].to(dtype).reshape(2, 14, 14)
    laplacian = semantic_laplacian(neighbour_similarity(semantic), released["block_lambda"].to(dtype))
    threshold = released["block_beta"].to(dtype) * activation.amax(dim=(1, 2), keepdim=True)
    filtered = soft_filter(diffuse(laplacian, activation, steps, scale=0.002), threshold)
    tolerance = BLOCK_TOLERANCE[steps]
    assert_near(semantic + semantic * filtered[:, None], released[f"block_p{steps}_semantic"], tolerance)
    assert_near((activation + filtered).flatten(1), released[f"block_p{steps}_attention"], tolerance)


@pytest.mark.parametrize(("variant", "steps"), VARIANTS)
def test_training_and_its_gradients(
    model: Callable[[int | None], SCM], inputs: Arrays, released: Arrays, variant: str, steps: int | None
) -> None:
    scm = model(steps)
    output = scm(inputs["images"])
    loss = scm.loss(output, inputs["labels"])["total"]
    loss.backward()
    of = {key.removeprefix(f"{variant}_"): value for key, value in released.items() if key.startswith(variant)}
    assert_near(output.logits.detach(), of["logits"], 5e-6)
    assert_near(loss.detach(), of["loss"], 1e-5)
    torch.testing.assert_close(scm.similarity_weight.grad, of["grad_lambda"].float(), rtol=1e-3, atol=0)
    torch.testing.assert_close(scm.threshold.grad, of["grad_beta"].float(), rtol=0, atol=5e-5)
    for parameter, name in ((scm.head.bias, "grad_head_bias"), (scm.backbone.pos_embed, "grad_pos_embed")):
        assert_near(parameter.grad, of[name], 3e-5)


def test_inference(model: Callable[[int | None], SCM], inputs: Arrays, released: Arrays) -> None:
    scm = model(None)
    with torch.no_grad():
        logits, maps = scm.localize(inputs["images"], torch.arange(10).repeat(2, 1))
    assert_near(logits, released["eval_logits"], 1e-5)
    assert_near(maps, released["eval_cams"], 1e-5)


def test_the_input_of_the_first_block(model: Callable[[int | None], SCM], inputs: Arrays, released: Arrays) -> None:
    with torch.no_grad():
        _, attention = model(None).diffusion_maps(inputs["images"], torch.tensor([[0], [0]]))
    torch.testing.assert_close(attention[:, 0], released["attention_normalised"][:, 0], rtol=0, atol=1e-5)
