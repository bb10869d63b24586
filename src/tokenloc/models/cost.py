"""Parameters of a model, and multiply-accumulates of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from tokenloc.methods import ModelConfig
from tokenloc.models.factory import create_model

ATTENTION = ("scaled_dot_product", "bmm")  # products of two activations; layers use addmm, mm and convolution


@dataclass(frozen=True)
class Cost:
    """What a model costs. Published counts differ in what they include.

    Attributes:
        parameters: of backbone and method, in millions; trained or not.
        macs: multiply-accumulates to classify an image and map one class, in billions: matrix products and
            convolutions, as torch.utils.flop_counter counts them (a MAC is two FLOPs). Element-wise operations, norms
            and eigenvalue solvers are not counted; of a method that has one, only the classification is.
        layer_macs: ``macs`` without products of two activations, above all the two products of each attention. Counters
            that look at layers report this, as in SAT's Table 14; TS-CAM's Table 3 has ``macs``.
    """

    parameters: float
    macs: float
    layer_macs: float


def model_cost(config: ModelConfig, size: tuple[int, int] = (224, 224)) -> Cost:
    """Return the cost of a model for an image of ``size`` (width, height), without weights and computation.

    Raises:
        ValueError: see ``create_model``.
    """
    options = {**config.options, "backbone_options": config.backbone_options}
    width, height = size
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = create_model(config.method, config.backbone, config.num_classes, False, config.image_size, **options)
        images = torch.zeros(1, 3, height, width)
        if model.eval().exportable:
            model.class_maps(images)[1](torch.zeros(1, 1, dtype=torch.int64))
        else:
            model(images)
    flops = {str(operator): count for operator, count in counter.get_flop_counts().get("Global", {}).items()}
    between = sum(count for name, count in flops.items() if any(part in name for part in ATTENTION))
    total, parameters = counter.get_total_flops(), sum(each.numel() for each in model.parameters())
    return Cost(parameters / 1e6, total / 2e9, (total - between) / 2e9)
