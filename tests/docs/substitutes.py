"""All that the tests do not run as a page has it, and why; everything else in a fenced block runs as it stands."""

from __future__ import annotations

from tests.docs.pages import Substitute

TINY = (
    "--model.pretrained false "
    "--model.backbone_options '{embed_dim: 24, depth: 4, num_heads: 2, patch_size: 16}' "
    "--optimisation.epochs 1 --optimisation.batch_size 8"
)
SLOW = "a network of 24 channels, without pretrained weights, for one epoch: the page's takes minutes and a download"
SHORT = "the benchmark for a moment: it measures for minutes"
OTHER_TOOL = "another project's tool, which tokenloc does not depend on"
HUB = "no network in tests: a folder takes its place; tests/inference/test_pretrained.py has a hub of its own"
RAY = "a local Ray takes long to start; tests/export/test_ray_data.py runs one"
IN_CI = "CI runs it by itself (.ci/run), and a test cannot run all tests; that the target exists is tested"

SUBSTITUTES = [
    Substitute("*", r"^make \w+$", None, IN_CI),
    Substitute("*", r"^source \.venv/bin/activate$", None, "the tests run in the environment already"),
    Substitute("docs/training.md", r" --devices 2", "", "tests/training/test_scale.py trains on two"),
    Substitute(
        "docs/results/few_shot.md",
        r"^tokenloc (train|evaluate) .*",
        None,
        "it takes images of the shared folder; tests/test_recipes.py takes a step of these recipes",
    ),
    Substitute("*", r"^tokenloc train .*", rf"\g<0> {TINY}", SLOW),
    Substitute(
        "*",
        r"^python benchmarks/(train_step|cost|profile_step|many_images|scm_block).py .*",
        None,
        "processes of their own, or half a minute of dense matrices; that their flags exist is tested",
    ),
    Substitute(
        "*",
        r"^python benchmarks/confidence.py .*",
        None,
        "it measures trained checkpoints on real images; that its flags exist is tested",
    ),
    Substitute(
        "*",
        r"^(python benchmarks/localize.py) .*",
        r"\1 --images 2 --size 64 48 --repeats 1 --methods tscam --backbone vit_tiny_patch16_224",
        SHORT,
    ),
    Substitute(
        "*",
        r"^(python benchmarks/loading.py) .*",
        r"\1 --images 4 --repeats 1 --sizes 64x48 --backbones --listed 100",
        SHORT,
    ),
    Substitute("*", r"^(python benchmarks/lctr_head.py) .*", r"\1 --images 1 --repeats 1", SHORT),
    Substitute("*", r"^(python benchmarks/normalized_cut.py) .*", r"\1 --images 2 --side 4 --repeats 1", SHORT),
    Substitute("*", r"^(python benchmarks/wsol_eval.py) .*", r"\1 --maps 1 --repeats 1", SHORT),
    Substitute(
        "*", r"^(python benchmarks/reprediction.py) .*", r"\1 --images 2 --size 32 --steps 2 --repeats 1", SHORT
    ),
    Substitute("*", r"^(python benchmarks/stream_maps.py) .*", r"\1 --maps 20 --workers 0", SHORT),
    Substitute("*", r"^python benchmarks/report.py .*", None, "it needs a browser; that its flags exist is tested"),
    Substitute("*", r"^python experiments/few_shot.py .*", None, "it trains for hours; that its flags exist is tested"),
    Substitute(
        "*",
        r"^python experiments/one_shot_imagenet.py.*",
        None,
        "it takes images of the shared folder; tests/test_experiments.py runs it where that is there",
    ),
    Substitute("docs/sharing.md", r"^localizer.push_to_hub.*", "", HUB),
    Substitute("docs/sharing.md", r'"user/my-birds"', '"my-birds"', HUB),
    Substitute("docs/sharing.md", r"hf-hub:user/my-birds(@main)?", "my-birds", HUB),
    Substitute("docs/ray.md", r"^pip install .*", None, "no network in tests"),
    Substitute("docs/ray.md", r"^tokenloc localize-ray .*|^import ray$", None, RAY),
    Substitute(
        "docs/serve.md",
        r"^tokenloc serve .*",
        None,
        "it serves until it is stopped; tests/commands/test_serve.py starts and stops one",
    ),
    Substitute("docs/tutorial.md", r"^.*label-studio start$", None, f"{OTHER_TOOL}, and serves until it is stopped"),
    Substitute("docs/export.md", r"^.*label-studio start$", None, f"{OTHER_TOOL}, and serves until it is stopped"),
    Substitute("docs/export.md", r"^import fiftyone$", None, OTHER_TOOL),
    Substitute("docs/export.md", r"^yolo detect train .*", None, OTHER_TOOL),
    Substitute(
        "docs/methods/*.md",
        r'"deit_small_patch16_224", num_classes=200',
        '"vit_tiny_patch16_224", 200, False, backbone_options={"embed_dim": 24, "num_heads": 2}',
        "deit_small's weights are a download",
    ),
    Substitute(
        "docs/backbones/conformer.md",
        r'pretrained="Conformer_small_patch16.pth"',
        "pretrained=False",
        "the authors' weights are a download by hand; files of that form are tested in tests/backbones",
    ),
]
