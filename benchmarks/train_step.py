"""Training steps of every method compared with plain implementations that store all matrices, as released code does.

    python benchmarks/train_step.py [METHOD …] [--backbone vit_tiny_patch16_224] [--batch 32] [--classes 10]
        [--compile] [--checkpoint_activations]

Both do the same arithmetic on the same weights. The plain step stores every block's N x N attention matrix, gates SAT's
matrices by columns, uses dense matrices for SCM's blocks, and convolves each image with LCTR's mixed kernel, in
float32. tokenloc's step is measured in float32, where both losses must agree, and under bfloat16 autocast, as with
`--precision bf16-mixed`. Prints images per second, peak memory above the idle process, and the ratios; with --compile,
also those of compiled steps, each compiled before it is timed, which takes half a minute or more; with
--checkpoint_activations, also those of bfloat16 steps with recomputed blocks. Measures processor time, so that other
processes have little influence; keep it at one thread.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import resource
import time
from collections.abc import Iterator
from unittest import mock

import torch
from _timing import setting
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


def measure(kind: str, method: str, arguments: argparse.Namespace, results: multiprocessing.Queue) -> None:
    """Time steps; runs in a separate process, whose peak memory is then this model's."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = create_model(method, arguments.backbone, arguments.classes, pretrained=False).train()
    optimiser = make_optimiser(model, Optimisation())
    side = arguments.side
    images = torch.randn(arguments.batch, 3, side, side)
    labels = torch.randint(arguments.classes, (arguments.batch,))
    model.backbone.checkpointed = "checkpointed" in kind
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with plain_implementation() if kind == "plain" else torch.autocast("cpu", torch.bfloat16, enabled="bf16" in kind):
        run = compiled(model.__call__) if "compiled" in kind else model.__call__
        times, first = [], 0.0
        for number in range(arguments.steps + 1):
            start = time.process_time() if arguments.threads == 1 else time.perf_counter()
            total = step(model, run, images, labels, optimiser)
            end = time.process_time() if arguments.threads == 1 else time.perf_counter()
            first = total if number == 0 else first
            times.append(end - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results.put((arguments.batch / min(times[1:]), (peak - idle) / 1024**2, first))


def step(model: Method, run: ForwardPass, images: Tensor, labels: Tensor, optimiser: torch.optim.Optimizer) -> float:
    total = model.loss(run(images), labels)["total"]
    total.backward()
    optimiser.step()
    optimiser.zero_grad()
    stored.clear()
    return float(total.detach())


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
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.backbone}, batch {arguments.batch}, side {arguments.side}, {arguments.classes} classes")
    print(setting())
    kinds = ["float32", "bf16"] + ["float32 compiled", "bf16 compiled"] * arguments.compile
    kinds += ["bf16 checkpointed"] * arguments.checkpoint_activations
    print("| | plain: images/s | GiB |" + "".join(f" {kind}: images/s | speed | memory |" for kind in kinds))
    print("|---" * (3 + 3 * len(kinds)) + "|")
    context = multiprocessing.get_context("spawn")
    for method in arguments.methods:
        found = {}
        for kind in ("plain", *kinds):
            results = context.Queue()
            process = context.Process(target=measure, args=(kind, method, arguments, results))
            process.start()
            found[kind] = results.get()
            process.join()
        (slow, large, expected), (_, _, loss) = found["plain"], found["float32"]
        row = f"| {method} | {slow:.1f} | {large:.2f} |"
        for kind in kinds:
            fast, small, _ = found[kind]
            row += f" {fast:.1f} | {fast / slow:.2f} | {small / large:.2f} |"
        same = abs(loss - expected) < 1e-3 * abs(expected)
        print(row + "" if same else f"{row} LOSSES DIFFER: {expected}, {loss}", flush=True)


if __name__ == "__main__":
    main()
