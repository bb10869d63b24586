"""TokenCut against the authors' released code on real weights and images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokenloc.backbones import FeatureRequest
from tokenloc.methods._normalized_cut import eigenvector_maps, object_masks
from tokenloc.models import create_model

Arrays = dict[str, Tensor]
PATCH = 16
every_case = pytest.mark.parametrize(("tau", "image"), [(tau, image) for tau in (0.05, 0.2, 0.4) for image in (0, 1)])


def cut(released: Arrays, tau: float, image: int) -> Tensor:
    """Return our eigenvector map of the released keys, whose first is the class token's."""
    return eigenvector_maps(released["keys"][image : image + 1, 1:], (14, 14), tau)[0]


@every_case
def test_eigenvector(released: Arrays, tau: float, image: int) -> None:
    expected = released[f"tau{tau}_{image}_eigenvector"].float()
    ours = cut(released, tau, image)
    apart = min((ours - expected).abs().max().item(), (ours + expected).abs().max().item())
    assert apart <= 1e-6 * expected.abs().max().item()


@every_case
def test_seed_mask_and_box(released: Arrays, tau: float, image: int) -> None:
    ours, seed = cut(released, tau, image), int(released[f"tau{tau}_{image}_seed"])
    assert ours.flatten()[seed].item() == pytest.approx(ours.abs().max().item(), rel=1e-6)
    ours.view(-1)[seed] *= 1 + 1e-5  # several patches may have the largest value; rounding selected the released one
    mask = object_masks(ours[None])[0]
    assert torch.equal(mask, released[f"tau{tau}_{image}_mask"] > 0)
    rows, columns = mask.nonzero().T
    box = [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]
    assert [PATCH * side for side in box] == released[f"tau{tau}_{image}_box"].tolist()


def test_from_images_to_maps(shared_dir: Path, inputs: Arrays, released: Arrays) -> None:
    weights = shared_dir / "data" / "vit_tiny_patch16_224.safetensors"
    model = create_model("tokencut", "vit_tiny_patch16_224", 10, weights, tau=0.2).eval()
    with torch.no_grad():
        keys = model.backbone(inputs["images"], FeatureRequest(keys=True)).keys
        maps = model.localize(inputs["images"])[1]
    expected = released["keys"][:, 1:]
    assert (keys - expected).abs().max().item() <= 2e-5 * expected.abs().max().item()
    for image in range(2):
        eigenvector = released[f"tau0.2_{image}_eigenvector"].float()
        torch.testing.assert_close(maps[image, 0], eigenvector, rtol=0, atol=1e-4 * eigenvector.abs().max().item())
