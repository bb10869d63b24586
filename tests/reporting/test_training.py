"""The curves of a training: read back from what was logged, and drawn."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.runs import tiny_run
from tokenloc.reporting.training import read_curves, save_training_curves
from tokenloc.training.config import ModelChoice, Optimisation


def log(folder: Path, version: int, text: str) -> None:
    path = folder / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)


def test_values_of_an_epoch_are_averaged_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    log(tmp_path, 0, "epoch,step,train/total,val/top1_cls\n0,1,2.0,\n0,2,4.0,\n0,2,,50.0\n1,3,1.0,\n")
    log(tmp_path, 2, "epoch,step,train/total\n1,3,0.5\n2,4,0.25\n")
    log(tmp_path, 10, "epoch,step,train/total\n2,4,0.125\n")
    assert read_curves(tmp_path) == {
        "train/total": [(0.0, 3.0), (1.0, 0.5), (2.0, 0.125)],
        "val/top1_cls": [(0.0, 50.0)],
    }


def test_what_scm_learns_is_drawn_for_every_block(tmp_path: Path) -> None:
    vit = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model = ModelChoice("scm", "vit_tiny_patch16_224", False, {"blocks": 2}, vit)
    tiny_run(tmp_path, model=model, optimisation=Optimisation(epochs=3, batch_size=8, lr=1e-3))
    curves = read_curves(tmp_path / "logs")
    for name in ("similarity_weight", "threshold"):
        for block in (1, 2):
            curve = curves[f"learned/{name}/block_{block}"]
            assert [epoch for epoch, _ in curve] == [0, 1, 2]
            assert len({value for _, value in curve}) == 3
    with Image.open(tmp_path / "figures/training.png") as image:
        assert image.width > image.height * 3  # five panels beside one another


def test_a_run_without_logs_is_not_drawn(tmp_path: Path) -> None:
    save_training_curves(tmp_path / "logs", tmp_path / "figures/training.png")
    assert not (tmp_path / "figures/training.png").exists()
