"""Everything in the pages that the tests do not run unchanged, with the reason."""

from __future__ import annotations

from tests.conftest import REPOSITORY
from tests.docs.pages import Substitute

TINY = (
    "--model.pretrained false "
    "--model.backbone_options '{embed_dim: 24, depth: 4, num_heads: 2, patch_size: 16}' "
    "--optimisation.epochs 1 --optimisation.batch_size 8"
)
MINUTES = "takes minutes to hours, or needs real data or a browser; its flags are tested"
SHORT = "the benchmark takes minutes"
OTHER_TOOL = "another project's tool, which tokenloc does not depend on"
HUB = "tests have no network: a folder replaces it; tests/inference/test_sharing.py has a local hub"

_SHORTENED = {
    "localize": "--images 2 --size 64 48 --repeats 1 --methods tscam --backbone vit_tiny_patch16_224",
    "loading": "--images 4 --repeats 1 --sizes 64x48 --backbones --listed 100",
    "lctr_head": "--images 1 --repeats 1",
    "normalized_cut": "--images 2 --side 4 --repeats 1",
    "wsol_eval": "--maps 1 --repeats 1",
    "reprediction": "--images 2 --size 32 --steps 2 --repeats 1",
    "stream_maps": "--maps 20 --workers 0",
}
_SKIPPED = "train_step|cost|profile_step|many_images|scm_block|sharper|report"

SUBSTITUTES = [
    Substitute("*", r"^make [\w-]+$", None, "CI runs it; the tests check that the target exists"),
    Substitute("*", r"^source \.venv/bin/activate$", None, "the tests run in an environment already"),
    Substitute("docs/tutorial.md", r"--min_confidence 0.3", "", "the tiny model is sure of nothing"),
    Substitute("docs/training.md", r" --devices 2", "", "tests/training/test_scale.py trains on two"),
    Substitute("docs/results/detector.md", r"^tokenloc .*", None, "needs images of the shared folder"),
    Substitute(
        "docs/results/few_shot.md",
        r"^tokenloc (train|evaluate) .*",
        None,
        "needs images of the shared folder; tests/test_recipes.py takes a step with these recipes",
    ),
    Substitute(
        "docs/methods/sat.md",
        r"^tokenloc train .*--model.keep_classifier.*",
        None,
        "needs the first training's weights",
    ),
    Substitute(
        "*", r"^tokenloc (train|autolabel) .*", rf"\g<0> {TINY}", "the page's model takes minutes and a download"
    ),
    Substitute("*", r"^tokenloc demo --images .*", None, "tests/commands/test_demo.py runs it with random weights"),
    Substitute("*", r"^tokenloc table .*", None, "trains many models; tests/commands/test_table.py runs a small table"),
    Substitute("*", rf"^python benchmarks/({_SKIPPED}).py .*", None, MINUTES),
    Substitute("*", r"^python experiments/.*", None, MINUTES),
    *(
        Substitute("*", rf"^(python benchmarks/{script}.py) .*", rf"\1 {flags}", SHORT)
        for script, flags in _SHORTENED.items()
    ),
    Substitute("docs/sharing.md", r"^localizer.push_to_hub.*", "", HUB),
    Substitute("docs/sharing.md", r'"OWNER/tokenloc"', f'source="local", repo_or_dir="{REPOSITORY}"', HUB),
    Substitute("docs/sharing.md", r'"user/my-birds"', '"my-birds"', HUB),
    Substitute("docs/sharing.md", r"hf-hub:user/my-birds(@main)?", "my-birds", HUB),
    Substitute("*", r"^pip install .*", None, "tests have no network"),
    Substitute("docs/ray.md", r"^tokenloc localize-ray .*|^import ray$", None, "see tests/export/test_ray_data.py"),
    Substitute("docs/label_studio.md", r"^export LABEL_STUDIO_API_KEY=.*", None, OTHER_TOOL),
    Substitute("docs/*.md", r"^(tokenloc serve|curl) .*", None, "runs until it is stopped; tests/server tests it"),
    Substitute("*", r"^.*label-studio start$", None, OTHER_TOOL),
    Substitute("docs/export.md", r"^import fiftyone$|^cvat-cli .*", None, OTHER_TOOL),
    Substitute("*", r"^yolo detect train .*", None, OTHER_TOOL),
    Substitute(
        "docs/methods/*.md",
        r'"deit_small_patch16_224", num_classes=200',
        '"vit_tiny_patch16_224", 200, False, backbone_options={"embed_dim": 24, "num_heads": 2}',
        "the weights of deit_small are a download",
    ),
    Substitute(
        "docs/backbones/conformer.md",
        r'pretrained="Conformer_small_patch16.pth"',
        "pretrained=False",
        "the authors' weights are a manual download; tests/backbones reads files of that form",
    ),
]
