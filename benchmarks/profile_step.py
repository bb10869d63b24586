"""Profile of a training step, compared with the processor's limit.

    python benchmarks/profile_step.py [--method sat] [--backbone vit_tiny_patch16_224] [--batch 16] [--side 224]

Prints, for float32 and bfloat16 autocast on one thread: the fraction of time of each kind of operation (torch.profiler,
without nested operations), the step's floating point operations (torch.utils.flop_counter: matrix products, attention
and convolutions), and their rate, compared with that of one large matrix product, which is the limit.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import torch
from _timing import best_time, setting
from torch.autograd import profiler
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


def product_rate(dtype: torch.dtype) -> float:
    """Return the GFLOP/s of a product of two large square matrices."""
    square = torch.randn(SIDE, SIDE, dtype=dtype)
    return 2 * SIDE**3 / best_time(lambda: square @ square, 3) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="sat")
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=224)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = create_model(given.method, given.backbone, 10, pretrained=False).train()
    optimiser = make_optimiser(model, Optimisation())
    images, labels = torch.randn(given.batch, 3, given.side, given.side), torch.randint(10, (given.batch,))
    print(f"{given.method} on {given.backbone}, batch {given.batch}, side {given.side}; {setting()}\n")
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            seconds = best_time(lambda: step(model, model.__call__, images, labels, optimiser), 3) / 1e3
            with FlopCounterMode(display=False) as counter:
                step(model, model.__call__, images, labels, optimiser)
            with profiler.profile() as profile:
                start = time.process_time()
                step(model, model.__call__, images, labels, optimiser)
                profiled = time.process_time() - start
        work, limit = counter.get_total_flops() / 1e9, product_rate(dtype)
        fractions: dict[str, float] = defaultdict(float)
        for event in profile.key_averages():
            fractions[kind_of(event.key)] += event.self_cpu_time_total
        whole = sum(fractions.values())
        times = f"{seconds:.2f} s a step ({profiled:.2f} s under the profiler)"
        rate = f"{work / seconds:.0f} GFLOP/s of {limit:.0f} ({100 * work / seconds / limit:.0f} %)"
        print(f"{str(dtype).removeprefix('torch.')}: {times}, {work:.0f} GFLOP: {rate}")
        for kind, spent in sorted(fractions.items(), key=lambda item: -item[1]):
            print(f"  {kind:<28} {100 * spent / whole:5.1f} %")
        top = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)[:12]
        print(
            "  most:", ", ".join(f"{event.key} {100 * event.self_cpu_time_total / whole:.1f} %" for event in top), "\n"
        )


if __name__ == "__main__":
    main()
