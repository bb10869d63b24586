"""Training steps of every method compared with plain implementations that store all matrices, as released code does.

    python benchmarks/train_step.py [METHOD …] [--backbone vit_tiny_patch16_224] [--batch 32] [--classes 10]
        [--compile] [--checkpoint_activations] [--device cuda]

Both do the same arithmetic on the same weights. The plain step stores every block's N x N attention matrix, gates SAT's
matrices by columns, uses dense matrices for SCM's blocks, and convolves each image with LCTR's mixed kernel, in
float32. tokenloc's step is measured in float32, where both losses must agree, and under bfloat16 autocast, as with
`--precision bf16-mixed`. Prints images per second, peak memory above the idle process, and the ratios; with --compile,
also those of compiled steps, each compiled before it is timed, which takes half a minute or more; with
--checkpoint_activations, also those of bfloat16 steps with recomputed blocks. Measures processor time, so that other
processes have little influence; keep it at one thread. With --device cuda, also TF32 steps (float32 with products
rounded to TF32); the peak is then that of all of PyTorch's tensors.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from functools import partial
from unittest import mock

import torch
from _timing import best_time, isolated, peak_memory, setting
from lctr_head import loop_over_images
from scm_block import dense_block
from torch import Tensor

from tokenloc.backbones import FeatureRequest, SpatialQuery
from tokenloc.backbones.attention import AttentionOutput, _project
from tokenloc.methods import Method, Output, list_methods
from tokenloc.methods.lctr import CueDigging
from tokenloc.methods.scm import SCM
from tokenloc.models import create_model
from tokenloc.training.compilation import ForwardPass, compiled
from tokenloc.training.config import Optimisation
from tokenloc.training.optimisation import make_optimiser

stored: list[Tensor] = []  # the matrices of a forward pass, as released code returns them


def plain_attend(
    attention: torch.nn.Module,
    tokens: Tensor,
    request: FeatureRequest,
    query: SpatialQuery | None = None,
    *_: object,
) -> tuple[Tensor, AttentionOutput]:
    """timm's attention with a stored matrix."""
    queries, keys, values = _project(attention, tokens)
    scores = queries @ keys.transpose(-2, -1) * attention.scale
    matrix, gate = scores.softmax(dim=-1), None
    if query is not None:
        gate = scores[:, :, 0 if query.token is None else -1].mean(dim=1).sigmoid()
        matrix = matrix * gate[:, None, None] if query.gate == "values" else matrix
    stored.append(matrix)
    row = matrix.mean(dim=1)[:, 0] if request.class_attention else None
    output = AttentionOutput(row, None, keys.transpose(1, 2).flatten(2) if request.keys else None, gate)
    return attention.proj((matrix @ values).transpose(1, 2).flatten(2)), output


def plain_diffusion(self: SCM, images: Tensor) -> Output:
    """SCM's training forward pass with dense matrices."""
    features = self.backbone(images, FeatureRequest(class_attention=True))
    semantic, activation = self._semantic_maps(features), self.attention_map(features)
    for weight, ratio, steps in zip(self.similarity_weight, self.threshold, self.steps, strict=True):
        semantic, activation = dense_block(semantic, activation, weight, ratio, steps)
    return Output(self.pool(semantic, features))


def plain_pooled(self: CueDigging, tokens: Tensor, scores: Tensor) -> Tensor:
    return loop_over_images(self, tokens, scores).mean(dim=(2, 3))


@contextlib.contextmanager
def plain_implementation() -> Iterator[None]:
    with (
        mock.patch("tokenloc.backbones.base.attend", plain_attend),
        mock.patch.object(SCM, "forward", plain_diffusion),
        mock.patch.object(CueDigging, "pooled", plain_pooled),
    ):
        yield


def measure(kind: str, method: str, arguments: argparse.Namespace) -> tuple[float, float, float]:
    """Return images per second, peak memory in GiB and the first loss."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    stored.clear()
    model = create_model(method, arguments.backbone, arguments.classes, pretrained=False).train()
    model.backbone.checkpointed = "checkpointed" in kind
    images = torch.randn(arguments.batch, 3, arguments.side, arguments.side)
    labels = torch.randint(arguments.classes, (arguments.batch,))
    idle, device = peak_memory(arguments.device), torch.device(arguments.device)
    model, images, labels = model.to(device), images.to(device), labels.to(device)
    optimiser, losses = make_optimiser(model, Optimisation()), []
    torch.set_float32_matmul_precision("high" if kind == "tf32" else "highest")
    bfloat16 = torch.autocast(device.type, torch.bfloat16, enabled="bf16" in kind)
    with plain_implementation() if kind == "plain" else bfloat16:
        run = compiled(model.__call__) if "compiled" in kind else model.__call__
        call = partial(step, model, run, images, labels, optimiser)
        milliseconds = best_time(lambda: losses.append(call()), arguments.steps, arguments.device)
    return 1e3 * arguments.batch / milliseconds, peak_memory(arguments.device) - idle, float(losses[0])


def step(model: Method, run: ForwardPass, images: Tensor, labels: Tensor, optimiser: torch.optim.Optimizer) -> Tensor:
    total = model.loss(run(images), labels)["total"]
    total.backward()
    optimiser.step()
    optimiser.zero_grad()
    stored.clear()
    return total.detach()


def row_of(found: dict[str, tuple[float, ...] | None]) -> str:
    """Return the cells of a method: of "plain", then of each other kind, compared with it."""
    cells, plain = [], found.pop("plain")
    cells += ["out of memory", ""] if plain is None else [f"{plain[0]:.1f}", f"{plain[1]:.2f}"]
    for kind in found.values():
        if kind is None:
            cells += ["out of memory", "", ""]
        elif plain is None:
            cells += [f"{kind[0]:.1f}", "", f"{kind[1]:.2f} GiB"]
        else:
            cells += [f"{kind[0]:.1f}", f"{kind[0] / plain[0]:.2f}", f"{kind[1] / plain[1]:.2f}"]
    exact = found["float32"]
    differ = plain and exact and abs(exact[2] - plain[2]) >= 1e-3 * abs(plain[2])
    return " | ".join(cells) + (f" | LOSSES DIFFER: {plain[2]}, {exact[2]}" if differ else " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=list_methods())
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--checkpoint_activations", action="store_true")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.backbone}, batch {arguments.batch}, side {arguments.side}, {arguments.classes} classes")
    print(setting(arguments.device))
    kinds = ["float32"] + ["tf32"] * (torch.device(arguments.device).type == "cuda") + ["bf16"]
    kinds += ["float32 compiled", "bf16 compiled"] * arguments.compile
    kinds += ["bf16 checkpointed"] * arguments.checkpoint_activations
    print("| | plain: images/s | GiB |" + "".join(f" {kind}: images/s | speed | memory |" for kind in kinds))
    print("|---" * (3 + 3 * len(kinds)) + "|")
    for method in arguments.methods:
        found = {kind: isolated(measure, arguments.device, kind, method, arguments) for kind in ("plain", *kinds)}
        print(f"| {method} | {row_of(found)}", flush=True)


if __name__ == "__main__":
    main()
