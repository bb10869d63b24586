"""Profile of a training step, compared with the processor's or GPU's limit.

    python benchmarks/profile_step.py [--method sat] [--backbone vit_tiny_patch16_224] [--batch 16] [--side 224]
        [--device cuda]

Prints, for float32 and bfloat16 autocast on one thread or a GPU: the fraction of time of each kind of operation
(torch.profiler, without nested operations; on a GPU, of their kernels), the step's floating point operations
(torch.utils.flop_counter: matrix products, attention and convolutions), and their rate, compared with that of one large
matrix product, which is the limit.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable
from functools import partial

import torch
from _timing import best_time, setting
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from train_step import step

from tokenloc.models import create_model
from tokenloc.training.config import Optimisation
from tokenloc.training.optimisation import make_optimiser

KINDS = {
    "matrix products": ("mm", "addmm", "linear", "bmm", "baddbmm"),
    "attention": ("attention", "attend", "softmax"),
    "convolutions": ("conv",),
    "GELU": ("gelu",),
    "layer norm": ("layer_norm",),
    "type conversions and copies": ("copy_", "_to_copy", "to", "clone", "contiguous", "cat"),
    "optimiser": ("adam", "foreach", "sqrt", "addcdiv", "addcmul", "lerp"),
}
SIDE = 2048


def kind_of(name: str) -> str:
    """Return the kind of an operation, see ``KINDS``; "the rest" for all others."""
    plain = name.removeprefix("aten::").removeprefix("mkldnn::").strip("_").lower()
    for kind, words in KINDS.items():
        if any(plain == word.strip("_") or (len(word) > 3 and word.strip("_") in plain) for word in words):
            return kind
    return "the rest"


def product_rate(dtype: torch.dtype, device: str) -> float:
    """Return the GFLOP/s of a product of two large square matrices."""
    side = SIDE if device == "cpu" else 4 * SIDE
    square = torch.randn(side, side, dtype=dtype, device=device)
    return 2 * side**3 / best_time(lambda: square @ square, 3, device) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="sat")
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = create_model(given.method, given.backbone, 10, pretrained=False).train().to(given.device)
    optimiser = make_optimiser(model, Optimisation())
    images = torch.randn(given.batch, 3, given.side, given.side).to(given.device)
    labels = torch.randint(10, (given.batch,)).to(given.device)
    what = f"{given.method} on {given.backbone}, batch {given.batch}, side {given.side}"
    print(f"{what}; {setting(given.device)}\n")
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(torch.device(given.device).type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            call = partial(step, model, model.__call__, images, labels, optimiser)
            report(dtype, call, given.device)


def report(dtype: torch.dtype, call: Callable[[], object], device: str) -> None:
    """Print the rate of a step, and the time of its operations."""
    on_cpu = torch.device(device).type == "cpu"
    seconds = best_time(call, 3, device) / 1e3
    with FlopCounterMode(display=False) as counter:
        call()
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (not on_cpu)) as recorded:
        call()
    operations = [each for each in recorded.key_averages() if each.device_type == DeviceType.CPU]
    spent = {each.key: each.self_cpu_time_total if on_cpu else each.self_device_time_total for each in operations}
    fractions, whole = defaultdict[str, float](float), sum(spent.values())
    work, limit = counter.get_total_flops() / 1e9, product_rate(dtype, device)
    rate = f"{work / seconds:.0f} GFLOP/s of {limit:.0f} ({100 * work / seconds / limit:.0f} %)"
    print(f"{str(dtype).removeprefix('torch.')}: {seconds:.3g} s a step, {work:.0f} GFLOP: {rate}")
    if not on_cpu:
        print(f"  the GPU computes for {100 * whole / 1e6 / seconds:.0f} % of this time")
    for name, time in spent.items():
        fractions[kind_of(name)] += time / whole
    for kind, fraction in sorted(fractions.items(), key=lambda item: -item[1]):
        print(f"  {kind:<28} {100 * fraction:5.1f} %")
    top = sorted(spent.items(), key=lambda item: -item[1])[:12]
    print("  most:", ", ".join(f"{name} {100 * time / whole:.1f} %" for name, time in top), "\n")


if __name__ == "__main__":
    main()
