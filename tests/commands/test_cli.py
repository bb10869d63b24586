"""The command line, end to end."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import tokenloc
from tests.data import builders as build
from tests.runs import TINY_VIT
from tokenloc.cli import COMMANDS, main
from tokenloc.commands.datasets import data_of, open_data
from tokenloc.commands.report import report
from tokenloc.data import create_dataset
from tokenloc.inference import Localizer
from tokenloc.methods import METHODS
from tokenloc.models.checkpoint import read_checkpoint, read_metadata, save_atomically
from tokenloc.training.config import DataSource


def images(folder: Path, count: int = 3) -> Path:
    scenes = create_dataset("scenes", None, "test", size=(70, 50), length=count)
    folder.mkdir(parents=True)
    for index in range(count):
        scenes.image(index).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run/checkpoints/best.ckpt"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"tokenloc [options] {command}" in capsys.readouterr().out


def test_localize_writes_boxes_and_images(checkpoint: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "mine")
    assert main(["localize", str(checkpoint), str(folder), "--out", str(tmp_path / "found")]) == 0
    content = json.loads((tmp_path / "found/localizations.json").read_text())
    assert [Path(item["file"]).name for item in content["localizations"]] == ["0.png", "1.png", "2.png"]
    assert content["unreadable"] == []
    for item in content["localizations"]:
        assert (item["width"], item["height"]) == (70, 50)
        assert all(0 <= x0 < x1 <= 70 and 0 <= y0 < y1 <= 50 for x0, y0, x1, y1 in item["boxes"])
    with Image.open(tmp_path / "found/images/0.jpg") as drawn:
        assert drawn.size == (2 * 70 + 4, 50)


def test_localize_with_a_run_wildcards_and_formats(checkpoint: Path, tmp_path: Path) -> None:
    """The folder counts up, and an interrupted run is resumed in its own."""
    images(tmp_path / "a"), images(tmp_path / "b")
    run_folder = checkpoint.parent.parent
    words = ["localize", str(run_folder), str(tmp_path / "a/[01].png"), str(tmp_path / "b")]
    assert main([*words, "--format", "coco,yolo", "csv"]) == 0
    first, second = run_folder / "localized", run_folder / "localized-2"
    assert {path.name for path in first.iterdir()} >= {"localizations.json", "coco.json", "yolo", "boxes.csv"}
    content = json.loads((first / "coco.json").read_text())
    assert [one["file_name"] for one in content["images"]] == ["a/0.png", "a/1.png", "b/0.png", "b/1.png", "b/2.png"]
    assert main([*words, "--format", "coco,yolov9"]) == 2
    second.mkdir()
    (second / "localizations.journal.jsonl").touch()
    assert main(words) == 0
    assert (second / "localizations.json").is_file()


def test_localize_known_classes(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    classes = read_metadata(checkpoint).classes
    for name in classes[:2]:
        images(tmp_path / "mine" / name / "more")
    words = ["localize", str(checkpoint), "--labels_from_folders"]
    for inputs in (
        [tmp_path / "mine"],
        [tmp_path / "mine" / classes[0], tmp_path / "mine" / classes[1] / "more/1.png"],
    ):
        out = tmp_path / f"found-{len(inputs)}"
        assert main([*words, *map(str, inputs), "--out", str(out)]) == 0
        found = json.loads((out / "localizations.json").read_text())["localizations"]
        assert [item["label"] for item in found] == [Path(item["file"]).parents[1].name for item in found]
        assert {item["label"] for item in found} == set(classes[:2])
    images(tmp_path / "mine/others")
    assert main([*words, str(tmp_path / "mine"), "--out", str(tmp_path / "none")]) == 2
    assert "no folder of these images is named as a class" in capsys.readouterr().err


def test_localize_continues_after_unreadable_files(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images(tmp_path / "mine")
    (folder / "1a.jpg").write_bytes(b"")
    whole = (folder / "2.png").read_bytes()
    (folder / "1b.png").write_bytes(whole[: len(whole) // 2])
    assert main(["localize", str(checkpoint), str(folder), "--out", str(tmp_path / "found")]) == 1
    content = json.loads((tmp_path / "found/localizations.json").read_text())
    assert len(content["localizations"]) == 3
    assert [Path(item["file"]).name for item in content["unreadable"]] == ["1a.jpg", "1b.png"]
    printed = capsys.readouterr().err
    assert all(part in printed for part in ("2 of 5 files could not be read", "1a.jpg", "1b.png"))


def test_localize_again_leaves_out_its_own_drawings(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images(tmp_path / "mine")
    words = ["localize", str(checkpoint), str(folder), "--out", str(folder / "out"), "--masks"]
    for _ in range(2):
        assert main(words) == 0
        content = json.loads((folder / "out/localizations.json").read_text())
        assert [Path(item["file"]).name for item in content["localizations"]] == ["0.png", "1.png", "2.png"]
    assert main(["localize", str(checkpoint), str(folder / "out/images"), "--out", str(folder / "out")]) == 2
    assert "no images but the drawings" in capsys.readouterr().err
    shutil.copytree(folder, tmp_path / "own/images")
    assert main(["localize", str(checkpoint), str(tmp_path / "own"), "--out", str(tmp_path / "own")]) == 2
    assert "drawings would be written among these images" in capsys.readouterr().err


def test_boxes_that_cover_the_image_are_reported(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["localize", str(checkpoint), str(images(tmp_path / "mine")), "--out", str(tmp_path / "out")]
    for threshold, reported in (("0", True), ("0.95", False)):
        assert main([*words, "--threshold", threshold]) == 0
        assert ("3 of 3 boxes cover the whole image" in capsys.readouterr().err) == reported


def test_localize_without_images(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["localize", str(checkpoint), str(tmp_path / "empty"), "--out", str(tmp_path / "found")]) == 2
    assert "no images in" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_evaluate_and_calibrate(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(checkpoint), "--protocol", "sat"]) == 0
    threshold = read_metadata(checkpoint).threshold
    assert threshold is not None
    assert "protocol sat" in threshold.source
    assert main(["evaluate", str(checkpoint), "--protocol", "ts-cam", "--out", str(tmp_path / "judged")]) == 0
    content = json.loads((tmp_path / "judged/metrics.json").read_text())
    assert (content["protocol"], content["threshold"], content["threshold_source"]) == ("ts-cam", 0.1, "protocol")
    assert (tmp_path / "judged/figures/summary.png").is_file()
    assert "ts-cam" in capsys.readouterr().err


def test_an_uncalibrated_model_is_evaluated_at_the_threshold_of_localize(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = read_checkpoint(checkpoint)
    content["tokenloc"]["threshold"] = None
    save_atomically(content, checkpoint)
    words = ["evaluate", str(checkpoint), "--out", str(tmp_path / "judged"), "--save_maps", str(tmp_path / "maps")]
    assert main(words) == 0
    metrics = json.loads((tmp_path / "judged/metrics.json").read_text())
    assert metrics["threshold"] == Localizer.from_checkpoint(checkpoint).threshold == 0.1
    assert metrics["threshold_source"] == "the default of tscam; not calibrated"
    assert metrics["metrics"]["gt_known"] <= metrics["oracle"]["gt_known"]
    data = ["--data.name", "scenes", "--data.options", '{"size": 40, "length": 24}']
    assert main(["evaluate", "--maps", str(tmp_path / "maps"), *data, "--out", str(tmp_path / "again")]) == 0
    assert json.loads((tmp_path / "again/metrics.json").read_text())["threshold"] == 0.1
    assert "oracle threshold" not in capsys.readouterr().err


def test_evaluate_with_given_thresholds(checkpoint: Path, tmp_path: Path) -> None:
    words = ["evaluate", str(checkpoint), "--protocol", "sat", "--out", str(tmp_path / "judged")]
    assert main([*words, "--thresholds", "0.2", "0.6", "--threshold", "0.35"]) == 0
    content = json.loads((tmp_path / "judged/metrics.json").read_text())
    assert content["protocol"] == "sat[2 thresholds, 0.2 to 0.6]"
    assert content["threshold"] == 0.35
    assert content["oracle"]["threshold"] in (0.2, 0.6)


def test_evaluate_at_the_threshold_of_sats_release(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "evaluate",
        str(checkpoint),
        "--best_threshold",
        "gt_known_plus_top1_loc",
        "--out",
        str(tmp_path / "judged"),
    ]
    assert main([*words, "--protocol", "sat"]) == 0
    source = "best GT-known + Top-1 Loc on the evaluated set (oracle)"
    assert json.loads((tmp_path / "judged/metrics.json").read_text())["threshold_source"] == source
    assert source in capsys.readouterr().err
    assert main([*words, "--protocol", "ts-cam"]) == 2
    assert "fixed at 0.1; add --protocol sat" in capsys.readouterr().err


def test_evaluate_names_a_broken_image(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes = create_dataset("scenes", None, "test", size=40, length=12)
    for index, sample in enumerate(scenes):
        folder = tmp_path / "data/test" / scenes.classes[sample.label]
        folder.mkdir(parents=True, exist_ok=True)
        scenes.image(index).save(folder / f"{index}.png")
    (tmp_path / "data/test/mushroom/3.png").write_bytes(b"gone")
    words = ["evaluate", str(checkpoint), "--data.name", "folder", "--data.root", str(tmp_path / "data")]
    assert main([*words, "--out", str(tmp_path / "judged")]) == 1
    content = json.loads((tmp_path / "judged/metrics.json").read_text())
    assert content["images"] == 11
    assert [item["id"] for item in content["unreadable"]] == ["test/mushroom/3.png"]
    assert content["metrics"]["gt_known"] is None
    assert "3.png" in capsys.readouterr().err


def test_dataset_options_default_to_those_of_training(run: Path) -> None:
    """Another validation fraction would mix training images into other splits."""
    metadata = read_metadata(run / "checkpoints/best.ckpt")
    assert metadata.data is not None
    assert metadata.data["options"] == {"size": 40, "length": 24}
    for name, side in ((None, 40), ("scenes", 96)):
        source = DataSource(name=name, options={"length": 6})
        opened = open_data(data_of(metadata, source, "test", "measured"), metadata.classes)
        assert (len(opened), opened.image(0).size) == (6, (side, side))


def test_a_dataset_with_other_classes_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog"):
        images(tmp_path / "data" / name)
    words = ["evaluate", str(checkpoint), "--data.name", "folder", "--data.root", str(tmp_path / "data")]
    assert main([*words, "--split", "train"]) == 2
    assert "butterfly" in capsys.readouterr().err


def test_a_folder_with_some_of_the_classes_is_evaluated(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fish", "leaf"):
        images(tmp_path / "data" / name)
    words = ["evaluate", str(checkpoint), "--data.name", "folder", "--data.root", str(tmp_path / "data")]
    words += ["--split", "all", "--out", str(tmp_path / "judged")]
    assert main(words) == 2
    assert "name these: --data.classes" in capsys.readouterr().err
    assert main([*words, "--data.options.classes", "[leaf]"]) == 2
    assert "data.options.classes is not an option of a dataset; give --data.classes" in capsys.readouterr().err
    assert main([*words, "--data.classes", "[fish, leaf]"]) == 0
    content = json.loads((tmp_path / "judged/metrics.json").read_text())
    assert (content["images"], set(content["per_class"])) == (6, {"fish", "leaf"})
    assert report([tmp_path / "judged"], out=tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--optimisation.epoch", "3"], "train: unknown option 'optimisation.epoch'; did you mean 'opt"),
        (["evaluate", "x.ckpt", "y", "--protocl", "sat"], "unknown option 'protocl'; did you mean 'protocol'"),
        (["list", "method"], "unknown kind: 'method'; did you mean 'methods'? Valid: backbones, datasets"),
        (["localize", "x.ckpt"], "tokenloc localize: missing INPUTS\nsee `tokenloc localize --help`"),
        (["localize", "x", "y", "--out", "z", "--batch_size", "a"], "--batch_size: expected int, got a"),
        (["trian"], "unknown command 'trian'; did you mean 'train'"),
        ([], "give a command: demo, train, "),
    ],
)
def test_a_wrong_command_line_is_reported_in_a_few_lines(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(words)
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert expected in printed.err
    assert printed.err.count("\n") == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert (end.value.code, capsys.readouterr().out) == (0, f"tokenloc {tokenloc.__version__}\n")


def test_train_from_a_recipe_with_a_changed_value(tmp_path: Path, run: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text((run / "config.yaml").read_text())
    words = ["train", "--config", str(recipe), "--optimisation.epochs", "1", "--out", str(tmp_path / "new")]
    assert main(words) == 0
    assert (tmp_path / "new/checkpoints/best.ckpt").is_file()
    assert main(words) == 2  # a run is not written over
    assert main([*words, "--optimisation.epochs", "2", "--resume"]) == 0


VIT = TINY_VIT | {"depth": 4}
TINY = [
    "--model.pretrained",
    "false",
    "--model.backbone_options",
    str(VIT),
    "--data.resize",
    "36",
    "--data.crop",
    "32",
]


def test_train_on_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The short form is the recipe with the long flags; without --out the folder counts up."""
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        images(tmp_path / "photos" / name, 4)
    short = ["--method", "sat", "--backbone=vit_tiny_patch16_224", "--epochs", "1", "--batch", "4", *TINY]
    long = ["--config", "recipes/folder.yaml", "--data.root", "photos", "--model.method", "sat"]
    long += ["--model.backbone", "vit_tiny_patch16_224", "--optimisation.epochs", "1"]
    long += ["--optimisation.batch_size", "4", *TINY]
    assert main(["train", "photos", *short]) == 0
    assert main(["train", *long, "--out", "runs/long"]) == 0
    assert main(["train", "photos", *short]) == 0
    settings = {"model.pretrained": False, "model.backbone_options": VIT, "data.resize": 36, "data.crop": 32}
    called = {"method": "sat", "backbone": "vit_tiny_patch16_224", "epochs": 1, "batch": 4}
    best = tokenloc.train("photos", settings=settings, **called)
    assert best == Path("runs/sat-3/checkpoints/best.ckpt")
    written = [
        yaml.safe_load(Path(f"runs/{name}/config.yaml").read_text()) for name in ("long", "sat", "sat-2", "sat-3")
    ]
    assert [content.pop("out") for content in written] == ["runs/long", "runs/sat", "runs/sat-2", "runs/sat-3"]
    assert written[0] == written[1] == written[2] == written[3]
    assert written[0]["data"]["val_split"] == "val"
    assert main(["train", "photos", *short, "--resume"]) == 0
    assert not Path("runs/sat-4").exists()
    with pytest.raises(ValueError, match=r"unknown setting 'optimisation\.lrr'; did you mean 'optimisation\.lr'"):
        tokenloc.train("photos", settings={"optimisation.lrr": 1})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--data.name", "cubs"], "unknown dataset 'cubs'; did you mean 'cub'"),
        (["train", "--data.name", "scenes", "--model.method", "ts"], "unknown method 'ts'"),
        (["train", "--data.name", "cub", "--data.root", "/nowhere/cub"], "/nowhere/cub"),
        (["train", "--protocol", "sats"], "unknown protocol 'sats'; did you mean 'sat'"),
        (["evaluate", "/nowhere/x.ckpt"], "no checkpoint at /nowhere/x.ckpt"),
        (["evaluate"], "give either CHECKPOINT, with or without --save-maps, or --maps"),
        (["evaluate", "--maps", "/nowhere", "--save-maps", "x"], "give either CHECKPOINT"),
        (["evaluate", "--maps", "/nowhere"], "/nowhere: no such folder; expected maps of"),
        (["compare", "/nowhere/a", "/nowhere/b"], "no /nowhere/a/metrics.json: expected the folder of a run"),
        (["info", "/nowhere/x.ckpt"], "no checkpoint at /nowhere/x.ckpt"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed
    assert not list(tmp_path.iterdir())  # nothing half-made is left behind


def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--data.rot", "x"])
    assert end.value.code == 2
    assert "data.rot" in capsys.readouterr().err


def test_list_and_info(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = {
        ("list", "methods", "ts*"): "tscam\n",
        ("list",): "protocols: lctr, lctr-ilsvrc, sat, scm, standard, ts-cam, ts-cam-ilsvrc, wsol-eval",
        ("info", str(checkpoint)): "method: tscam",
        ("info", str(checkpoint.parent.parent)): "method: tscam",
        ("info",): "torch",
    }
    for words, part in expected.items():
        assert main(words) == 0
        assert part in capsys.readouterr().out


def test_info_lists_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cat", "dog"):
        images(tmp_path / "data" / name)
    words = ["info", "--data.name", "folder", "--data.root", str(tmp_path / "data"), "--split", "all"]
    assert main(words) == 0
    assert "6 images of 2 classes" in capsys.readouterr().out
    (tmp_path / "data/dog/1.png").write_bytes(b"x")
    assert main(words) == 1
    assert "dog/1.png" in capsys.readouterr().out


def test_info_of_photos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The split is that of a training: a tenth of each class, at least one image."""
    images(tmp_path / "photos/cat", 12)
    images(tmp_path / "photos/dog", 3)
    shutil.copy(tmp_path / "photos/cat/1.png", tmp_path / "photos/cat/copy.png")
    shutil.copy(tmp_path / "photos/cat/2.png", tmp_path / "photos/dog/2.png")
    assert main(["info", str(tmp_path / "photos")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "folder, all: 16 images of 2 classes, 0 boxes",
        "images a class: 3 to 13, median 8: dog 3, cat 13",
        "imbalance: cat has 4.3 times as many images as dog; the classifier will prefer it",
        "training: 14 images (train), 2 held out to choose the epoch (val)",
        "identical files: cat/0.png, dog/0.png, in different classes: cat, dog",
        "identical files: cat/1.png, cat/copy.png, dog/1.png, in different classes: cat, dog",
        "identical files: cat/2.png, dog/2.png, in different classes: cat, dog",
        "no problems",
    ]


def test_info_of_photos_that_cannot_be_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path / "photos/cat", 1)
    images(tmp_path / "photos/dog", 3)
    (tmp_path / "photos/dog/1.png").write_bytes(b"x")
    assert main(["info", str(tmp_path / "photos")]) == 1
    printed = capsys.readouterr().out
    assert "training is impossible: too few images to have every class in all 2 parts: cat with 1" in printed
    assert "dog/1.png" in printed


def test_list_methods_describes_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "methods", "*cut"]) == 0
    name, paper, cost, advice = capsys.readouterr().out.splitlines()
    assert (name, paper.split(" (")[0]) == ("tokencut", "  TokenCut")
    assert cost == "  22.1 M parameters, 4.6 G multiply-accumulates on deit_small_patch16_224; only the head is trained"
    assert advice.startswith("  for DINO backbones")
    assert all(METHODS[method].advice for method in METHODS.names())


def test_info_of_an_official_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build.images(tmp_path / "OpenImages/val/0bt_c3", ["0.jpg", "1.jpg"])
    words = ["info", "--data.name", "openimages", "--data.root", str(tmp_path), "--split", "val"]
    assert main(words) == 1
    assert "masks: were not found in" in capsys.readouterr().out
    Image.new("1", build.SIZE, 1).save(tmp_path / "OpenImages/val/0bt_c3/0_m0bt_c3_1.png")
    assert main(words) == 1
    printed = capsys.readouterr().out
    assert "openimages, val: 2 images of 1 class, 0 boxes, masks" in printed
    assert "has no mask, while others have" in printed
    assert main([*words, "--data.options.missing", "sometimes"]) == 2
    assert "unknown value of option missing: 'sometimes'" in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert all(f" {name} {summary}" in printed for name, (_, summary) in COMMANDS.items())


def modules_after(*words: str) -> set[str]:
    """The modules that a new process has imported after a command."""
    code = "try:\n    main(sys.argv[1:])\nexcept SystemExit: pass\nprint(*sys.modules)"
    script = [sys.executable, "-c", f"import sys\nfrom tokenloc.cli import main\n{code}", *words]
    ended = subprocess.run(script, capture_output=True, text=True, check=True)
    return set(ended.stdout.splitlines()[-1].split())


def test_listing_commands_is_fast() -> None:
    assert not {"torch", "timm", "lightning", "cv2", "matplotlib"} & modules_after("--help")


def test_a_command_does_not_import_others() -> None:
    commands = {name for name in modules_after("export", "--help") if name.startswith("tokenloc.commands.")}
    assert commands == {f"tokenloc.commands.{name}" for name in ("console", "export", "recipes")}


def test_an_interruption_of_compiled_code_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise SystemError("returned a result with an exception set") from error

    monkeypatch.setattr("tokenloc.commands.catalogue.list_names", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "tokenloc list: interrupted\n"
