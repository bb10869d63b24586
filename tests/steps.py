"""One training step of a recipe with a small backbone on generated scenes."""

from __future__ import annotations

from typing import Any

from tokenloc.data import Preprocessing, TrainingImages, create_dataset, train_transform, training_loader
from tokenloc.models import create_model
from tokenloc.training.freezing import freeze
from tokenloc.training.optimisation import lr_factor, make_optimiser

SMALL = {"embed_dim": 48, "depth": 12, "num_heads": 3}
SMALL_CONFORMER = {"embed_dim": 48, "depth": 12, "num_heads": 3, "channel_ratio": 1}


def train_one_step(recipe: Any) -> None:
    """Check that a step with the settings of ``recipe`` moves the head and leaves all weights finite."""
    model, optimisation = recipe.model, recipe.optimisation
    convolutional = model.backbone.startswith(("vgg", "resnet", "inception", "convnext"))
    small = SMALL_CONFORMER if model.backbone.startswith("conformer") else {} if convolutional else SMALL
    side = 96 if convolutional else 56 if "patch14" in model.backbone else 48  # Inception-v3 needs 75
    options = {"backbone_options": {**model.backbone_options, **small}, **model.options}
    network = create_model(model.method, model.backbone, 6, False, side, **options).train()
    freeze(network, optimisation.freeze)
    scenes = create_dataset("scenes", None, "train", size=side + 8, length=6)
    images = TrainingImages(scenes, train_transform(Preprocessing((side, side), (side + 8, side + 8))), seed=0)
    ((images, labels),) = training_loader(images, optimisation.batch_size)  # one batch of all images
    optimiser = make_optimiser(network, optimisation)
    before = {name: value.clone() for name, value in network.named_parameters() if value.requires_grad}
    loss = network.loss(network(images), labels)["total"]
    loss.backward()
    optimiser.step()
    assert lr_factor(optimisation, 1)(0) > 0
    assert loss.isfinite()
    moved = [name for name, value in network.named_parameters() if name in before and not value.equal(before[name])]
    assert moved
    assert any(name.startswith("head") for name in moved) == any(name.startswith("head") for name in before)
    assert all(value.isfinite().all() for value in network.parameters())
