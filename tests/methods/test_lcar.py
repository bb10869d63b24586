"""LCAR: losses, seeds and the choice of the foreground, against the paper's equations."""

from __future__ import annotations

import pytest
import torch

from tests.methods.test_tokencut import IMAGES, small
from tokenloc.backbones import FeatureRequest
from tokenloc.methods._normalized_cut import object_masks
from tokenloc.methods.base import Output
from tokenloc.methods.lcar import LCAR


def lcar(**options: object) -> LCAR:
    model = small("lcar", **options)
    assert isinstance(model, LCAR)
    return model


def test_the_loss_is_that_of_equations_3_to_6() -> None:
    model, (teacher, student) = lcar(label_weight=0.3, temperature=3.0), torch.randn(2, 5, 4)
    labels = torch.tensor([0, 3, 1, 1, 2])
    terms = model.loss(Output(teacher, {"student": student}), labels)
    expected = {"teacher": 0.0, "student": 0.0, "distillation": 0.0}
    for image, label in enumerate(labels.tolist()):
        expected["teacher"] -= float(teacher[image].softmax(0)[label].log()) / 5
        expected["student"] -= float(student[image].softmax(0)[label].log()) / 5
        soft, other = (teacher[image] / 3).softmax(0), (student[image] / 3).softmax(0)
        expected["distillation"] += float(sum(p * (p.log() - q.log()) for p, q in zip(soft, other, strict=True))) / 5
    expected["total"] = expected["teacher"] + 0.3 * expected["student"] + 0.7 * expected["distillation"]
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_the_teacher_gets_gradients_from_labels_only() -> None:
    model, (teacher, student) = lcar(), torch.randn(2, 5, 4).requires_grad_()
    terms = model.loss(Output(teacher, {"student": student}), torch.tensor([0, 3, 1, 1, 2]))
    by_total, by_labels = (torch.autograd.grad(terms[x], teacher, retain_graph=True)[0] for x in ("total", "teacher"))
    torch.testing.assert_close(by_total, by_labels)
    assert torch.autograd.grad(terms["distillation"], student)[0].abs().max() > 0


@pytest.mark.parametrize(("kind", "parameters"), [("mlp", (96 * 96 + 96) + (96 * 4 + 4)), ("linear", 96 * 4 + 4)])
def test_the_teacher_gives_the_class_scores(kind: str, parameters: int) -> None:
    model = lcar(teacher=kind)
    assert sum(p.numel() for p in model.teacher.parameters()) == parameters
    features = model.backbone(IMAGES)
    expected = model.teacher(torch.cat([features.class_token, features.patches.mean(dim=1)], dim=1))
    torch.testing.assert_close(model(IMAGES).logits, expected)
    torch.testing.assert_close(model.localize(IMAGES)[0], expected)
    student = model(IMAGES).auxiliary["student"]
    torch.testing.assert_close(student, model.head(features.patches.mean(dim=1)))


def test_the_seed_is_the_scaled_activation_map_above_the_threshold() -> None:
    model = lcar(seed_threshold=0.6)
    features, classes = model.backbone(IMAGES), torch.tensor([[0, 2], [3, 3], [1, 0]])
    seeds = model.seeds(features, classes)
    for image in range(3):
        for index, label in enumerate(classes[image]):
            activation = (model.head.weight[label][:, None, None] * features.patch_map()[image]).sum(dim=0)
            scaled = (activation - activation.min()) / (activation.max() - activation.min())
            assert torch.equal(seeds[image, index], scaled > 0.6)


def test_the_foreground_is_the_side_with_the_seed() -> None:
    model, classes = lcar(edges="cosine", tau=0.0), torch.arange(4).repeat(3, 1)
    maps = model.localize(IMAGES, classes)[1].detach()
    features = model.backbone(IMAGES, FeatureRequest(keys=True))
    seeds = model.seeds(features, classes)
    assert torch.equal(maps.abs()[:, 0], maps.abs()[:, 3])  # one cut for all classes
    for image in range(3):
        for index in range(4):
            high = maps[image, index] > maps[image, index].mean()
            seed = seeds[image, index].float()
            assert seed[high].mean() >= seed[~high].mean()
    flipped = (maps != model.object_map(features)[:, None]).flatten(2).any(dim=2)
    assert flipped.any()
    assert not flipped.all()
    intermediate = model.intermediate_maps(IMAGES, classes[:, 1])
    torch.testing.assert_close(intermediate["eigenvector"].abs(), maps.abs()[:, 1])
    assert torch.equal(intermediate["seed"] > 0, seeds[:, 1])


@pytest.mark.parametrize("polarity", ["peak", "border"])
def test_without_the_seed_the_map_is_tokencuts(polarity: str) -> None:
    model, plain = lcar(polarity=polarity), small(polarity=polarity)
    plain.backbone.load_state_dict(model.backbone.state_dict())
    classes = torch.tensor([[0, 2], [3, 3], [1, 0]])
    torch.testing.assert_close(model.localize(IMAGES, classes)[1], plain.localize(IMAGES, classes)[1])


def test_the_mask_is_tokencuts_object_on_the_side_of_the_seed() -> None:
    classes = torch.arange(4).repeat(3, 1)
    model = lcar(edges="cosine", tau=0.0)
    maps = model.localize(IMAGES, classes)[1].detach()
    model.map = "mask"
    masks = model.localize(IMAGES, classes)[1]
    for image in range(3):
        for index in range(4):
            (expected,) = object_masks(maps[image, index][None])
            assert torch.equal(masks[image, index], expected.float())


def test_refinement_steps() -> None:
    assert lcar().refinement == ("affinity", "reprediction")
    assert lcar(refinement=["affinity"]).refinement == ("affinity",)
    assert small().refinement == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_weight": 1.5}, r"label_weight must lie in \[0, 1\]; got 1.5"),
        ({"seed_threshold": -0.1}, r"seed_threshold must lie in \[0, 1\]; got -0.1"),
        ({"temperature": 0.0}, "temperature must be positive; got 0.0"),
        ({"teacher": "mpl"}, "unknown teacher 'mpl'; did you mean 'mlp'"),
        ({"polarity": "cam"}, "unknown polarity 'cam'.*Valid: border, peak, seed"),
        ({"tau": 2.0}, "tau is a cosine"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lcar(**options)
