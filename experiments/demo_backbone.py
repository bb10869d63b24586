"""Train the backbone of `tokenloc demo` on generated scenes, with class labels alone; it takes minutes on one core.

    python experiments/demo_backbone.py src/tokenloc/commands/demo.safetensors

First, close-ups: an object's texture fills the image, so that every patch shows the class. Then scenes, in turn with
close-ups. The class token is trained to classify the image. So are the patches: all of a close-up; of a scene, the few
that show the class best, while the half that shows it least is trained to be background. That objects are larger
than the one and smaller than the other half is all that is known of their boxes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from tokenloc.commands.demo import SIDE, VIT
from tokenloc.data import create_dataset
from tokenloc.data.scenes import OBJECTS, Part, paint_background, paint_object
from tokenloc.training.config import Optimisation
from tokenloc.training.optimisation import lr_factor, make_optimiser

SEED = 1000  # the scenes of the demo have other seeds
SCENES, CLOSE_UPS, CLOSE_SIDE = 6000, 2000, 48
CLOSE_STEPS = 120  # the first ones; later every third
OBJECT, BACKGROUND = 0.07, 0.5  # fractions of the patches
BATCH, LR = 32, 1.5e-3
Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


def load_scenes() -> Images:
    scenes = create_dataset("scenes", None, "train", size=SIDE, seed=SEED, length=SCENES)
    return np.stack([np.asarray(scenes.image(index)) for index in range(SCENES)]), scenes.labels.astype(np.int64)


def paint_close_ups() -> Images:
    far = 2 * SIDE
    everywhere = [Part(np.array([(-far, -far), (far, -far), (far, far), (-far, far)], np.float64), "texture")]
    images, labels = [], np.arange(CLOSE_UPS) % len(OBJECTS)
    for index, label in enumerate(labels):
        generator = np.random.default_rng([SEED, index])
        images.append(paint_background(generator, (SIDE, SIDE)))
        paint_object(generator, images[-1], everywhere, list(OBJECTS.values())[label].texture)
    return np.stack(images), labels


def sample(generator: np.random.Generator, images: Images, side: int) -> tuple[Tensor, Tensor]:
    """Return a batch [B, 3, side, side] and its labels: random crops, flips and orders of the color channels."""
    chosen = generator.integers(0, len(images[0]), BATCH)
    x, y = generator.integers(0, (SIDE - side) // 8 + 1, 2) * 8
    pixels = images[0][chosen, y : y + side, x : x + side][..., generator.permutation(3)]
    pixels = pixels[:, :: generator.choice([-1, 1]), :: generator.choice([-1, 1])]
    normalised = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 127.5 - 1
    return normalised, torch.from_numpy(images[1][chosen])


def whitened_projection(images: NDArray[np.uint8], width: int) -> tuple[Tensor, Tensor]:
    """Return weights and bias of the patch projection that decorrelate the pixels of a patch, randomly turned."""
    pixels = torch.from_numpy(images[:600]).permute(0, 3, 1, 2).float() / 127.5 - 1
    patches = F.unfold(pixels, 8, stride=8).transpose(1, 2).reshape(-1, 192)
    variances, directions = torch.linalg.eigh(torch.cov(patches.T))
    turned = torch.linalg.qr(torch.randn(width, width))[0]
    weights = 0.5 * turned @ (directions[:, -width:] / (variances[-width:] + 0.01).sqrt()).T
    return weights.view(width, 3, 8, 8), -weights @ patches.mean(0)


def loss_of(model: nn.Module, patch_head: nn.Module, batch: tuple[Tensor, Tensor], close: bool) -> tuple[Tensor, float]:
    """Return the loss of class token and patches, and the class token's accuracy."""
    images, labels = batch
    tokens = model.forward_features(images)
    logits, patches = model.head(tokens[:, 0]), patch_head(tokens[:, 1:]).log_softmax(-1)
    count = patches.shape[1]
    shown = patches.gather(2, labels[:, None, None].expand(-1, count, 1))[..., 0]
    ranked = (shown - patches[..., -1]).argsort(1, descending=True)
    best = ranked if close else ranked[:, : max(1, int(OBJECT * count))]
    loss = F.cross_entropy(logits, labels) - shown.gather(1, best).mean()
    if not close:
        loss = loss - patches[..., -1].gather(1, ranked[:, -int(BACKGROUND * count) :]).mean()
    return loss, (logits.argmax(1) == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    generator = np.random.default_rng(SEED)
    scenes, close_ups = load_scenes(), paint_close_ups()
    model = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=len(OBJECTS),
        img_size=SIDE,
        patch_drop_rate=0.4,
        dynamic_img_size=True,
        **VIT,
    )
    patch_head = nn.Linear(VIT["embed_dim"], len(OBJECTS) + 1)
    with torch.no_grad():
        weights, bias = whitened_projection(scenes[0], VIT["embed_dim"])
        model.patch_embed.proj.weight.copy_(weights)
        model.patch_embed.proj.bias.copy_(bias)
    settings = Optimisation(1, BATCH, LR, 0.05, schedule="cosine", warmup_epochs=60 / arguments.steps)
    optimiser = make_optimiser(nn.ModuleList([model, patch_head]), settings)
    schedule = LambdaLR(optimiser, lr_factor(settings, arguments.steps))
    accuracy = {True: 0.0, False: 0.0}
    for step in range(arguments.steps):
        close = step < CLOSE_STEPS or step % 3 == 0
        batch = sample(generator, close_ups, CLOSE_SIDE) if close else sample(generator, scenes, SIDE)
        loss, correct = loss_of(model, patch_head, batch, close)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*model.parameters(), *patch_head.parameters()], 1.0)
        optimiser.step()
        schedule.step()
        accuracy[close] += 0.05 * (correct - accuracy[close])
        if step % 50 == 49:
            print(
                f"step {step + 1}: accuracy on close-ups {accuracy[True]:.3f}, on scenes {accuracy[False]:.3f}",
                flush=True,
            )
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items() if not name.startswith("head.")}
    about = {"source": "experiments/demo_backbone.py", "seed": str(SEED), "steps": str(arguments.steps)}
    save_file(tensors, arguments.out, {"mean": "0.5 0.5 0.5", "std": "0.5 0.5 0.5", **about})


if __name__ == "__main__":
    main()
