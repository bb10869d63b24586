"""Every recipe trains, is found from any folder, and states what it reproduces."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.steps import train_one_step
from tokenloc.boxes import get_protocol
from tokenloc.cli import _parse, main
from tokenloc.commands import recipes
from tokenloc.commands.recipes import list_recipes, recipe_file
from tokenloc.data import DATASETS, list_datasets
from tokenloc.refinement import AffinityRefinement, Reprediction, find_steps
from tokenloc.training.config import Optimisation

DATA = ("cub", "imagenet")
FINE = {"stanford_dogs": "Stanford Dogs", "stanford_cars": "Stanford Cars", "fgvc_aircraft": "FGVC-Aircraft"}
TITLES = {"cub": "CUB-200-2011", "imagenet": "ImageNet", "openimages": "OpenImages30k", **FINE}
RECIPES = list_recipes()
PUBLISHED = [name for name in RECIPES if name.split("/")[1] in TITLES]
DEIT, CONFORMER, DINO = "deit_{}_patch16_224", "conformer_small_patch16", "vit_small_patch16_224.dino"


def settings(name: str) -> Any:
    return SimpleNamespace(**_parse(["train", "--config", str(REPOSITORY / name)])[2])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_one_step(name: str) -> None:
    train_one_step(settings(name))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_refers_to_existing_names(name: str) -> None:
    recipe = settings(name)
    assert get_protocol(recipe.protocol).name == recipe.protocol
    assert recipe.data.name in list_datasets()
    splits = DATASETS[recipe.data.name].splits
    assert recipe.data.train_split == ("trainval" if recipe.data.name == "fgvc_aircraft" else "train") in splits
    assert {recipe.data.val_split, recipe.data.calibration_split, recipe.data.test_split} - {None} <= {*splits}
    assert str(recipe.out) == "runs/" + name.removeprefix("recipes/").removesuffix(".yaml")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_states_its_table_and_the_expected_numbers(name: str) -> None:
    recipe = settings(name)
    head = [line.removeprefix("# ") for line in (REPOSITORY / name).read_text().splitlines() if line.startswith("# ")]
    dataset = TITLES[recipe.data.name]
    assert re.fullmatch(rf"\S+ on .+, {dataset}(, as its release trains)?: .*(Table|Fig\.|section).*\.", head[0])
    assert re.match(r"Expect .*(GT-known|Loc Top-1|pIoU).* \d+\.\d", head[1])
    assert head[0].split()[0].replace("-", "").lower() == recipe.model.method


def test_every_row_of_the_main_tables_has_a_recipe() -> None:
    recipes = [settings(name) for name in PUBLISHED]
    rows = {(each.model.method, each.model.backbone, each.data.name) for each in recipes}
    expected = {(method, DEIT.format("small"), data) for method in ("tscam", "lctr", "scm", "sat") for data in DATA}
    expected |= {(method, DINO, data) for method in ("lcar", "tokencut") for data in DATA}
    others = (DEIT.format("tiny"), DEIT.format("base"), CONFORMER)
    expected |= {(method, backbone, "cub") for method in ("tscam", "scm", "sat") for backbone in others}
    expected |= {("cam", backbone, data) for backbone in ("vgg16", "inception_v3", "resnet50") for data in DATA}
    expected |= {(method, DEIT.format("small"), data) for method in ("tscam", "sat") for data in (*FINE, "openimages")}
    assert rows >= expected | {("scm", "vit_small_patch16_224", "cub")}


def test_the_settings_of_papers_and_releases() -> None:
    """As in the papers and in the released code, written down a second time."""
    paper, released = (settings(f"recipes/cub/scm{kind}.yaml") for kind in ("", "_released"))
    assert paper.optimisation == Optimisation(30, 256, 5e-5, 5e-4, (0.9, 0.99))
    assert paper.model.options == {"steps": 4}
    assert released.optimisation == Optimisation(30, 256, 5e-5, 0.05, (0.9, 0.999), "step", step_epochs=30)
    assert released.model.backbone_options == {"drop_path_rate": 0.1}
    for name in ("scm", "tscam"):
        assert settings(f"recipes/imagenet/{name}_released.yaml").optimisation.step_epochs == [10, 12]
    table_2 = settings("recipes/cub/scm_cubv2.yaml")
    assert (table_2.optimisation.epochs, table_2.optimisation.batch_size, table_2.data.val_split) == (50, 32, "val")
    vit = {"embed_dim": 768, "depth": 8, "num_heads": 8, "mlp_ratio": 3}
    assert vit.items() <= settings("recipes/cub/scm_vit_small.yaml").model.backbone_options.items()
    for data, batch, lr in (("cub", 512, 5e-5), ("imagenet", 1024, 1e-3)):
        lctr = settings(f"recipes/{data}/lctr_released.yaml")
        assert (lctr.model.options, lctr.model.backbone_options) == ({}, {"drop_path_rate": 0.1})
        rest = (0.05, (0.9, 0.999), "cosine", 0.0, 5)
        assert lctr.optimisation == Optimisation(lctr.optimisation.epochs, batch, lr, *rest)
    assert settings("recipes/cub/tscam.yaml").optimisation == Optimisation()
    sat = settings("recipes/imagenet/sat.yaml")
    assert sat.optimisation == Optimisation(5, 512, 1.5e-5, 0.05, (0.9, 0.999), "cosine", 1e-6)
    assert sat.model.options == {"area_target": 0.35}
    released = settings("recipes/cub/sat_released.yaml").optimisation
    assert released == Optimisation(30, 256, 1e-4, 0.05, (0.9, 0.999), decay_tokens=True)
    for data, superpixel_object_level in (("cub", 0.4), ("imagenet", 0.6), ("cub10", 0.4)):
        affinity, reprediction = find_steps(settings(f"recipes/{data}/lcar.yaml").model.options["refinement"])
        assert affinity == AffinityRefinement(50, 0.1, 0.01, (1,), 1.0)
        levels = (0.1, 0.6, 0.1, superpixel_object_level)
        weights = {"object_weight": 2, "background_weight": 0.1, "consistency_weight": 0.1}
        assert reprediction == Reprediction(*levels, **weights, stride=1, vote=False)


def test_recipes_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list_recipes() == RECIPES
    found = ["recipes/imagenet/scm.yaml", "recipes/imagenet/scm_released.yaml"]
    assert list_recipes("recipes/imagenet/sc*") == found
    assert Path(recipe_file("recipes/cub/sat.yaml")).samefile(REPOSITORY / "recipes/cub/sat.yaml")
    mine = tmp_path / "recipes/mine.yaml"
    mine.parent.mkdir()
    mine.write_text("seed: 3\n")
    (mine.parent / "_part.yaml").write_text("lr: 3\n")
    assert set(list_recipes()) == {*RECIPES, "recipes/mine.yaml"}
    assert recipe_file("recipes/mine.yaml") == Path("recipes/mine.yaml")


def test_an_installed_package_contains_the_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages/tokenloc"
    (package / "recipes/cub").mkdir(parents=True)
    (package / "recipes/cub/sat.yaml").write_text("seed: 3\n")
    monkeypatch.setattr(recipes.tokenloc, "__file__", str(package / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert list_recipes() == ["recipes/cub/sat.yaml"]
    assert recipe_file("recipes/cub/sat.yaml") == package / "recipes/cub/sat.yaml"


def test_an_unknown_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "recipes/cub/sta.yaml"]) == 2
    assert "unknown recipe 'recipes/cub/sta.yaml'; did you mean 'recipes/cub/sat.yaml'?" in capsys.readouterr().err
    assert main(["train", "--config=cub10.yaml"]) == 2
    assert "unknown recipe 'cub10.yaml'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "part", "message"),
    [
        ({"optimization": {"lr": 1}}, {}, "unknown option 'optimization"),
        ({"data": {"calibrate_split": "val"}}, {}, "'data.calibrate_split'; did you mean 'data.calibration_split'?"),
        ({"model": {"backbon": "x"}}, {}, "unknown option 'model.backbon'; did you mean 'model.backbone'?"),
        ({"optimisation": "_part.yaml"}, {"epoch": 3}, "'optimisation.epoch'; did you mean 'optimisation.epochs'?"),
        ({"sede": 1}, {}, "unknown option 'sede'; did you mean 'seed'?"),
    ],
)
def test_an_unknown_key_names_the_nearest(
    content: dict[str, Any], part: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "_part.yaml").write_text(yaml.safe_dump(part))
    with pytest.raises(SystemExit) as end:
        main(["train", "--config", str(tmp_path / "recipe.yaml")])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"method": "sat", "options": {"area": 0.3, "spatial_block": 2}},
            "unknown option of sat 'spatial_block'; did you mean 'spatial_blocks'?",
        ),
        (
            {
                "method": "lcar",
                "backbone": "vit_tiny_patch16_224",
                "options": {"refinement": [{"affinity": {"iter": 3}}]},
            },
            "unknown setting of the refinement step 'affinity' 'iter'",
        ),
    ],
)
def test_an_unknown_option_is_reported_before_training(
    model: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = {"data": {"name": "scenes"}, "model": {"pretrained": False, **model}, "out": str(tmp_path / "out")}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", "--config", str(tmp_path / "recipe.yaml")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
